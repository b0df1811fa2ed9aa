"""VQ and where its code vectors come from: VQ-VAE, CVQ-VAE, SimVQ, VQGAN-LC, affine codes, HyperVQ."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from anyglot.data.corpora.vectors import patches
from anyglot.tokenizers.quantizers import Quantizer
from anyglot.tokenizers.quantizers.kmeans import kmeans
from anyglot.tokenizers.quantizers.search import nearest
from anyglot.train.vectors import Vectors

FREE: dict[str, Any] = {"type": "vq", "codebook": "learned", "kmeans_init": False, "reset_below": 0.0}


def error_of_components_and_kmeans(vectors: Vectors, width: int, size: int) -> float:
    """Held-out error, as a share of the variance, of k-means in the first principal components of the vectors."""
    mean = vectors.train.mean(0)
    axes = torch.linalg.eigh(torch.cov(vectors.train.t()))[1][:, -width:]
    centres = kmeans((vectors.train - mean) @ axes, size)[0]
    held = vectors.heldout - mean
    decoded = centres[nearest(held @ axes, centres)[0]] @ axes.t()
    return float((held - decoded).square().sum() / held.square().sum())


def test_vq_vae(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    trained = train_recipe("vq-vae")
    error = trained.measured.relative_error
    assert error < 0.9 * error_of_components_and_kmeans(trained.vectors, 2, 256)
    untrained = train_like("vq-vae", {**FREE, "size": 256, "codebook": "frozen"})
    assert error < 0.97 * untrained.measured.relative_error


def test_cvq_vae(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    trained = train_recipe("cvq-vae")
    plain = train_like("cvq-vae", {**FREE, "size": 512})
    assert trained.measured.health[0].dead <= 2
    assert plain.measured.health[0].dead > 512 / 3
    assert trained.measured.relative_error < plain.measured.relative_error


def test_simvq(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    trained = train_recipe("simvq")
    plain = train_like("simvq", {**FREE, "size": 1024, "commitment": 1.0})
    assert trained.measured.health[0].usage > 0.9
    assert plain.measured.health[0].usage < 0.5
    assert trained.measured.health[0].perplexity > 2 * plain.measured.health[0].perplexity


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_simvq_of_8192_codes(vectors_folder: Path, train_like: Callable[..., Any], tmp_path: Path) -> None:
    """On all 8 x 8 patches of the pictures, a million, so that every code has a chance to be seen."""
    cut = patches(load_file(vectors_folder / "pictures.safetensors")["pictures"], 8, 1).flatten(0, 1)
    cut = cut[cut.amin(1) < 0.99]  # the background is white
    cut = cut[torch.randperm(len(cut), generator=torch.Generator().manual_seed(0))]
    save_file({"train": cut[10000:].contiguous(), "heldout": cut[:10000].contiguous()}, tmp_path / "dense.safetensors")
    setting = {"vectors": {"file": str(tmp_path / "dense.safetensors")}, "steps": 2500, "batch_size": 2048, "lr": 0.004}
    setting["autoencoder"] = {"hidden": [256, 256], "width": 32}
    found = [
        train_like(
            "simvq", {**FREE, "size": 8192, "metric": "cosine", "commitment": 1.0, "codebook": codebook}, **setting
        ).measured
        for codebook in ("linear", "learned")
    ]
    assert found[0].health[0].usage > 0.95
    assert found[1].health[0].usage < 0.1
    assert found[0].relative_error < found[1].relative_error


def test_vqgan_lc(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    trained = train_recipe("vqgan-lc")
    learned = train_like("vqgan-lc", {**FREE, "size": 1024, "metric": "cosine"})
    assert trained.measured.health[0].usage > 0.9
    assert learned.measured.health[0].usage < 0.5
    assert trained.measured.relative_error < learned.measured.relative_error
    codebook = trained.quantizer.codebook
    centres = kmeans(load_file(trained.config.vectors.file)["train"][::6], 1024)[0]
    assert codebook.fixed.shape == centres.shape  # features of the file, not what the encoder made of them
    assert {name for name, _ in codebook.named_parameters()} == {"map.weight", "map.bias"}


def test_vq_affine(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    trained = train_recipe("vq-affine")
    plain = train_like("vq-affine", {**FREE, "size": 256})
    assert trained.measured.health[0].usage > plain.measured.health[0].usage + 0.1
    assert trained.measured.relative_error < plain.measured.relative_error

    def errors(model: Any) -> tuple[float, float, float]:
        """Of vectors as learned, after a jump, and after 150 more batches of that, relative to their variance."""
        z = model.encoder(trained.vectors.train).detach()
        moved = 3 * z + 5 * z.std(0)
        quantizer = copy.deepcopy(model.quantizer)
        before, jumped = _relative(quantizer, z), _relative(quantizer, moved)
        for part in moved[: 150 * 128].requires_grad_().split(128):
            quantizer.train()(part)
        return before, jumped, _relative(quantizer.eval(), moved)

    before, jumped, after = errors(trained.model)
    assert jumped > 2 * before
    assert after < 1.2 * before
    assert errors(plain.model)[2] > 2 * after


@torch.no_grad()
def _relative(quantizer: Quantizer, z: Tensor) -> float:
    return float((quantizer.decode(quantizer.encode(z)) - z).square().sum() / (z - z.mean(0)).square().sum())


def test_hypervq(train_recipe: Callable[..., Any], train_like: Callable[..., Any]) -> None:
    trained = train_recipe("hypervq")
    quantizer = trained.quantizer
    own = quantizer.logits(quantizer.points()).diagonal()
    others = quantizer.logits(quantizer.points()).abs().median()
    assert own.abs().max() < 1e-3 * others
    assert not quantizer(trained.model.encoder(trained.vectors.heldout[:10])).losses
    euclidean = train_like(
        "hypervq",
        {
            "type": "soft", "size": 256, "assignment": "gumbel", "similarity": "linear", "hard": True,
            "commitment": 0.0, "attraction": 0.0, "kmeans_init": False,
        },
    )  # fmt: skip
    assert trained.measured.relative_error < 0.9 * euclidean.measured.relative_error
    assert trained.measured.health[0].usage > 2 * euclidean.measured.health[0].usage
