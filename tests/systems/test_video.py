"""Recipes of video tokenizers, trained as they are shipped on real movements, against what they claim to better."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anyglot import assets
from anyglot.config import load_mapping
from anyglot.data.corpora import moves
from anyglot.errors import AssetError, ConfigError
from anyglot.eval.image import psnr
from anyglot.tokenizers.base import load_tokenizer
from anyglot.tokenizers.networks.video_attention import AxialAttention
from anyglot.tokenizers.video import VideoTokenizer
from anyglot.train.media import MediaCorpus, find_parts
from anyglot.train.tokenizer import run

Train = Callable[..., VideoTokenizer]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small part of the corpus that the recipes name."""
    pytest.importorskip("av", reason="pip install 'anyglot[video]' to test video files")
    if not assets.cached("pybullet"):
        pytest.skip("the wheel of pybullet is not cached; `anyglot fetch moves` downloads it")
    folder = tmp_path_factory.mktemp("moves32")
    chosen = {
        "moves": ["walk", "kick", "spin", "cartwheel", "dance_b"],
        "views": ["the front", "the left", "behind", "the right"],
        "colours": ["red", "blue"],
    }
    try:
        moves.run({**chosen, "side": 32, "workers": 1}, folder, "here")
    except AssetError as error:
        pytest.skip(str(error))
    return folder / "moves.jsonl"


@pytest.fixture(scope="module")
def train(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """`train("phenaki", "seed=1")`: a recipe trained with overrides, or with another quantizer."""

    def trained(name: str, *overrides: str, quantizer: dict[str, Any] | None = None) -> VideoTokenizer:
        out = tmp_path_factory.mktemp(name)
        found = load_mapping(f"systems/{name}", [f"data.files=[{films}]", f"out={out}", *overrides])
        found.pop("system")
        found["model"]["quantizer"] = quantizer or found["model"]["quantizer"]
        run(found, name)
        tokenizer = load_tokenizer(out / "tokenizer")
        assert isinstance(tokenizer, VideoTokenizer)
        return tokenizer

    return trained


@pytest.fixture(scope="module")
def media(films: Path, train: Train) -> dict[str, list[np.ndarray]]:
    """Films by split."""
    reader = VideoTokenizer(VideoTokenizer.config_class(quantizer={"type": "lfq", "bits": 4}, dim=4, fps=10.0))
    return {split: MediaCorpus(find_parts([films], "video", split), reader, 0)[:] for split in ("train", "heldout")}


def quality(tokenizer: VideoTokenizer, clips: list[np.ndarray]) -> float:
    """Mean PSNR of clips, dB."""
    decoded = tokenizer.decode(tokenizer.encode(clips), [clip.shape[:3] for clip in clips])
    return float(np.mean([psnr(a, b) for a, b in zip(clips, decoded, strict=True)]))


def used(tokenizer: VideoTokenizer, clips: list[np.ndarray]) -> int:
    """How many codes occur."""
    return len(torch.cat([codes.flatten() for codes in tokenizer.encode(clips)]).unique())


def mean_colour(clips: list[np.ndarray]) -> float:
    """PSNR of one colour for each clip."""
    return float(np.mean([psnr(c, np.broadcast_to(c.mean((0, 1, 2)).round(), c.shape)) for c in clips]))


def begins_alike(tokenizer: VideoTokenizer, clips: list[np.ndarray]) -> bool:
    """Whether codes and frames of beginnings of clips, of one frame or more, are those of the whole."""
    for clip in clips:
        whole = tokenizer.encode([clip])[0]
        for frames in range(1, len(clip) + 1, tokenizer.time_stride):
            begin = tokenizer.encode([clip[:frames]])[0]
            if not torch.equal(begin, whole[: len(begin)]):
                return False
            shown = tokenizer.decode([begin])[0].astype(int) - tokenizer.decode([whole])[0][:frames]
            if np.abs(shown).max() > 1:  # rounding
                return False
    return True


def test_magvit_v2(train: Train, media: dict[str, list[np.ndarray]]) -> None:
    tokenizer = train("magvit-v2")
    assert tokenizer.spec.levels == (2**18,)
    assert begins_alike(tokenizer, [c for c in media["heldout"] if len(c) >= 9][:3])
    few = train("magvit-v2", "model.dim=9", "model.quantizer.bits=9")
    assert quality(tokenizer, media["heldout"]) > quality(few, media["heldout"]) + 0.1
    pictures = [clip[:1] for clip in media["heldout"]]
    assert quality(tokenizer, pictures) > mean_colour(pictures) + 4


def test_videogpt(train: Train, media: dict[str, list[np.ndarray]]) -> None:
    tokenizer = train("videogpt")
    kept = used(tokenizer, media["heldout"])
    assert kept >= 5 * used(train("videogpt", "model.quantizer.reset_below=0"), media["heldout"])
    assert kept > 100
    assert quality(tokenizer, media["heldout"]) > mean_colour(media["heldout"]) + 4
    for network in (tokenizer.encoder, tokenizer.decoder):
        (attention,) = [module for module in network.modules() if isinstance(module, AxialAttention)]
        assert [layer.kind for layer in attention.axes] == ["rows", "columns", "time"]


def test_phenaki(train: Train, media: dict[str, list[np.ndarray]]) -> None:
    tokenizer = train("phenaki")
    assert begins_alike(tokenizer, [c for c in media["heldout"] if len(c) >= 9][:3])
    single = train("phenaki", "model.network.layers=[space,space]", "model.network.group=1")
    films = [clip for clip in media["heldout"] if len(clip) >= 9]
    assert sum(map(len, tokenizer.encode(films))) < 0.6 * sum(map(len, single.encode(films)))
    assert quality(tokenizer, media["heldout"]) > quality(single, media["heldout"])


def test_vidtok(train: Train, media: dict[str, list[np.ndarray]]) -> None:
    def weights(tokenizer: VideoTokenizer) -> int:
        return sum(p.numel() for p in [*tokenizer.encoder.parameters(), *tokenizer.decoder.parameters()])

    tokenizer, whole = train("vidtok"), train("vidtok", "model.network.factorised=false")
    assert weights(tokenizer) < weights(whole) / 2
    assert quality(tokenizer, media["heldout"]) > quality(whole, media["heldout"]) - 0.5
    plain = {"type": "vq", "size": 1024, "codebook": "learned", "kmeans_init": False, "reset_below": 0.0}
    learned = train("vidtok", quantizer=plain)
    assert used(tokenizer, media["heldout"]) >= 3 * used(learned, media["heldout"])


def test_omnitokenizer(train: Train, media: dict[str, list[np.ndarray]], tmp_path: Path) -> None:
    pictures = train("omnitokenizer", "start=''", "objective.stills=1", "steps=150", "batch_size=4")
    pictures.save_pretrained(tmp_path / "pictures")
    joint = train("omnitokenizer", f"start={tmp_path / 'pictures'}")
    alone = train("omnitokenizer", "start=''")
    assert quality(joint, media["heldout"]) > quality(alone, media["heldout"]) + 0.1
    # The picture changes in its lower right quarter, one window: codes of the others stay.
    clip = media["heldout"][0][:1]
    changed = clip.copy()
    changed[:, 16:, 16:] = 255 - changed[:, 16:, 16:]
    same = (joint.encode([clip])[0] == joint.encode([changed])[0])[0, ..., 0]
    assert same[:4].all()
    assert same[:, :4].all()
    assert not same.all()
    with pytest.raises(ConfigError, match="start: .* another shape"):
        train("omnitokenizer", f"start={tmp_path / 'pictures'}", "model.dim=4")


def test_bsq_vit(train: Train, media: dict[str, list[np.ndarray]]) -> None:
    tokenizer = train("bsq-vit")
    assert begins_alike(tokenizer, [c for c in media["heldout"] if len(c) >= 9][:3])
    long = [clip for clip in media["train"] if len(clip) == 17][::4]
    assert abs(quality(tokenizer, long) - quality(tokenizer, [clip[:9] for clip in long])) < 1
    assert quality(tokenizer, long) > mean_colour(long) + 4
    with torch.no_grad():
        latents = tokenizer.encoder(tokenizer._tensor(long[0][None]))[0]
        quantized = tokenizer.quantizer(latents)
        on_sphere = torch.nn.functional.normalize(latents, dim=-1)
        corners = tokenizer.quantizer.decode(quantized.codes)
        torch.testing.assert_close(corners.abs(), torch.full_like(corners, 18**-0.5))
        assert torch.equal(tokenizer.quantizer.encode(latents), quantized.codes)
        assert ((on_sphere - corners).norm(dim=-1) <= (2 - 2 / 18**0.5) ** 0.5 + 1e-6).all()
