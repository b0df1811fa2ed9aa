"""The maskgit stage: its loss against a slow twin, and whole runs from token shards to pictures on disk."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from anyglot.cli import main
from anyglot.data.shards import TokenStore
from anyglot.errors import AnyglotError, ConfigError, MismatchError
from anyglot.inference.maskgit import MaskGIT, MaskGITSampling
from anyglot.lm.maskgit import MaskedTransformer, MaskGITConfig
from anyglot.train import maskgit
from anyglot.train.log import read_log


def mapping(checkpoint, tokens, out, **changes):
    return {
        "stage": "maskgit",
        "out": str(out),
        "stores": [str(tokens / "chats")],
        "heldout": [str(tokens / "pairs")],
        "tokenizers": {name: str(checkpoint / "model" / "tokenizers" / name) for name in ("text", "image")},
        "model": {"hidden": 32, "layers": 2},
        "lr": 1e-2,
        "schedule": {"warmup": 1},
        "precision": "fp32",
        "batch_size": 4,
        "steps": 7,
        "log_every": 1,
        "save_every": 2,
        **changes,
    }


@pytest.fixture(scope="module")
def finished(checkpoint, tokens, tmp_path_factory):
    out = tmp_path_factory.mktemp("maskgit")
    maskgit.run(mapping(checkpoint, tokens, out), "test")
    return out


@pytest.fixture(scope="module")
def model(tokens):
    torch.manual_seed(0)
    vocabulary = TokenStore(tokens / "chats").vocabulary
    return MaskedTransformer(MaskGITConfig(hidden=32, layers=2), vocabulary, "image").eval()


def weights(out):
    return load_file(out / "model" / "model.safetensors")


def test_every_picture_is_read_with_the_words_of_its_document(model, tokens, checkpoint):
    blocks = maskgit.read_blocks(model, [str(tokens / "chats")])
    assert [block.ids.shape for block in blocks] == [(2, 2, 1)] * 8  # two of each conversation, 8 x 8 pixels
    made = MaskGIT(model, *(load(checkpoint, name) for name in ("text", "image")))
    assert "draw black cat" in made.text.decode(blocks[0].words.tolist())
    with Image.open(tokens.parent / "0.png") as picture:
        (codes,) = made.tokenizer.encode([np.asarray(picture)])
    np.testing.assert_array_equal(model.codes(blocks[0].ids), codes.numpy())


def load(checkpoint, name):
    from anyglot.tokenizers.base import load_tokenizer
    from anyglot.tokenizers.text import TextTokenizer

    folder = checkpoint / "model" / "tokenizers" / name
    return TextTokenizer.from_pretrained(folder) if name == "text" else load_tokenizer(folder)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_that_of_the_slow_twin(model, smoothing):
    """One medium alone, no padding, code by code."""
    draw = np.random.default_rng(0)
    grids = ((3, 4), (1, 2), (2, 2))
    blocks = [
        model.block(list(range(n)), draw.integers(0, 200, (*grid, 1))) for n, grid in zip((3, 0, 1), grids, strict=True)
    ]
    loss, plain, count = maskgit.masked_loss(model, blocks, np.random.default_rng(1), smoothing)
    again, found, bare = np.random.default_rng(1), [], []
    for block, hidden in [(block, maskgit.mask_some(block, again)) for block in blocks]:
        states = model(model.collate([replace(block, ids=np.where(hidden, model.mask, block.ids))]))[0]
        for place in np.flatnonzero(hidden):
            logits = model.logits(states[place][None], 0)
            target = torch.tensor([block.ids.reshape(-1)[place] - model.codebooks[0].start])
            found.append(cross_entropy(logits, target, label_smoothing=smoothing))
            bare.append(cross_entropy(logits, target))
    assert count == len(found)
    torch.testing.assert_close(loss, torch.stack(found).mean(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(plain, torch.stack(bare).mean(), rtol=1e-5, atol=1e-5)


def test_masks_are_those_of_the_cosine(model):
    """At least one code, and of even shares of time the mean of a cosine: 2 / pi."""
    block, random = model.block([], np.zeros((8, 8, 1), int)), np.random.default_rng(0)
    counts = [int(maskgit.mask_some(block, random).sum()) for _ in range(4000)]
    assert min(counts) >= 1
    assert max(counts) == 64
    assert np.mean(counts) / 64 == pytest.approx(2 / np.pi + 0.5 / 64, abs=0.015)  # rounded up


def test_a_run_learns_and_says_what_came_out(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["media"] == 8
    assert metrics["heldout"]["media"] == 8
    assert metrics["heldout"]["bits"] < np.log2(200)  # what a guess among all codes would need
    assert not (finished / "state.pt").exists()
    lines = read_log(finished)
    assert lines[-1]["step"] == 7
    assert lines[-1]["bits"] < lines[0]["bits"]


def test_a_killed_run_goes_on_as_if_it_had_not_been(finished, checkpoint, tokens, tmp_path, monkeypatch):
    """Dropout, batches, masks and words left out are all functions of the step."""

    def dies(path, state):
        save(path, state)
        if state["step"] == 4:
            raise KeyboardInterrupt

    save = maskgit.save_state
    monkeypatch.setattr(maskgit, "save_state", dies)
    with pytest.raises(KeyboardInterrupt):
        maskgit.run(mapping(checkpoint, tokens, tmp_path), "test")
    assert not (tmp_path / "model").exists()
    with pytest.raises(MismatchError, match="another config"):
        maskgit.run(mapping(checkpoint, tokens, tmp_path, lr=1e-3), "test")
    monkeypatch.undo()
    maskgit.run(mapping(checkpoint, tokens, tmp_path), "test")
    one, other = weights(finished), weights(tmp_path)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_finished_run_is_left_as_it_is(finished, checkpoint, tokens):
    before = (finished / "model" / "model.safetensors").stat().st_mtime_ns
    maskgit.run(mapping(checkpoint, tokens, finished), "test")
    assert (finished / "model" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(MismatchError, match="another 'lr'"):
        maskgit.run(mapping(checkpoint, tokens, finished, lr=1e-3), "test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": "video"}, "video"),
        ({"modality": "speech"}, "tokenizers.speech is not set"),
        ({"stores": []}, "stores names no folder"),
        ({"tokenizers": {}}, "tokenizers.text is not set"),
        ({"drop_words": 2}, r"drop_words must lie in \[0, 1\]"),
        ({"steps": 0}, "steps, batch_size"),
        ({"model": {"hidden": 30, "heads": 4}}, "even multiple of heads"),
        ({"lr": 1e30}, "lower lr"),
    ],
)
def test_mistakes_are_named(checkpoint, tokens, tmp_path, changes, message):
    with pytest.raises(AnyglotError, match=message):
        maskgit.run(mapping(checkpoint, tokens, tmp_path / "out", **changes), "test")


def test_media_that_no_document_holds(checkpoint, tokens, tmp_path):
    speech = {name: str(checkpoint / "model" / "tokenizers" / name) for name in ("text", "speech")}
    with pytest.raises(AnyglotError, match="no document of .* holds any speech"):
        maskgit.run(mapping(checkpoint, tokens, tmp_path, modality="speech", tokenizers=speech), "test")


# anyglot generate


def run(*words):
    """Exit code of the command line."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


@pytest.mark.parametrize("folder", ["", "model"])
def test_generate_writes_a_picture(finished, tmp_path, capsys, folder):
    words = ["--text", "black cat", "--out", tmp_path, "steps=3", "guidance=2", "--seed", 1]
    assert run("generate", finished / folder, *words) == 0
    path = tmp_path / "00-image.png"
    assert str(path) in capsys.readouterr().out
    with Image.open(path) as picture:
        assert picture.size == (8, 8)  # as those it has learned
        pixels = np.asarray(picture)
    settings = MaskGITSampling(steps=3, guidance=2)
    (part,) = MaskGIT.load(finished / "model").write(["black cat"], settings, seed=1)
    np.testing.assert_array_equal(part.data, pixels)


def test_another_size_is_a_matter_of_the_grid(finished, tmp_path):
    assert run("generate", finished, "--text", "a", "--to", "image", "--out", tmp_path, "grid=[3,2]") == 0
    with Image.open(tmp_path / "00-image.png") as picture:
        assert picture.size == (8, 12)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", "a", "--to", "speech"], "this model writes image, no speech"),
        (["--part", "speech=a.wav"], "is told words, no speech"),
        (["--text", "a", "temprature=1"], "unknown key 'temprature'; did you mean 'temperature'?"),
        (["--text", "a", "steps=0"], "must be at least 1"),
        (["--text", "a", "grid=[99,1]"], "no grid [99, 1]; its axes are: height up to"),
    ],
)
def test_what_cannot_be_is_one_line(finished, tmp_path, capsys, words, message):
    assert run("generate", finished, *words, "--out", tmp_path / "o") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "o").exists()


def test_it_is_no_language_model(finished, capsys):
    assert run("chat", finished) == 2
    assert "masked transformer, no language model" in capsys.readouterr().err


def test_a_damaged_model_is_refused(finished, tmp_path):
    import shutil

    shutil.copytree(finished / "model", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(AnyglotError, match="cannot be loaded"):
        MaskGIT.load(tmp_path / "model")
    (tmp_path / "model" / "vocabulary.json").unlink()
    with pytest.raises(AnyglotError, match="vocabulary"):
        MaskGIT.load(tmp_path / "model")


def test_inspect_shows_its_shape(finished, capsys):
    assert run("inspect", finished) == 0
    shown = capsys.readouterr().out
    assert "hidden" in shown
    assert "tokenizer image" in shown


def test_known_codes_come_one_for_each_text(finished):
    model = MaskGIT.load(finished / "model")
    with pytest.raises(AnyglotError, match="2 texts, but known codes for 1"):
        model.write(["a", "b"], known=[np.full((2, 2, 1), -1)])
    with pytest.raises(ConfigError, match="noise is -1"):
        MaskGITSampling(noise=-1)
