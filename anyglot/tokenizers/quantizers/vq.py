"""Vector quantization: the nearest code of a codebook, Euclidean or cosine.

Four choices are independent: where code vectors come from (`codebook.py`, `sources.py`), how one is chosen (`metric`),
how the gradient passes (`gradients.py`), and what keeps codes in use (k-means start, `reset.py`, `regularisers.py`).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers import regularisers
from anyglot.tokenizers.quantizers.base import Quantized, code_stats
from anyglot.tokenizers.quantizers.codebook import Codebook, EmaCodebook, LearnedCodebook
from anyglot.tokenizers.quantizers.codebook_quantizer import CodebookQuantizer
from anyglot.tokenizers.quantizers.distributed import mean_count
from anyglot.tokenizers.quantizers.gradients import GRADIENTS
from anyglot.tokenizers.quantizers.reset import ONLINE, ResetKind, make_reset
from anyglot.tokenizers.quantizers.search import nearest
from anyglot.tokenizers.quantizers.sources import AffineCodebook, FrozenCodebook, LinearCodebook, ProjectedCodebook

CODEBOOKS: dict[str, type[Codebook]] = {
    "ema": EmaCodebook,
    "learned": LearnedCodebook,
    "affine": AffineCodebook,
    "frozen": FrozenCodebook,
    "linear": LinearCodebook,
}
FREE = ("ema", "learned", "affine")  # codes that can be placed one by one


@dataclass
class VQConfig:
    """size: codes. width: of the codes, 0 for that of the vectors; else projections lead there and back.

    codebook: "ema" (moving average), "learned" (gradient of the codebook loss), "affine" (learned, and follows mean
    and spread of the vectors), "frozen" (random), "linear" (SimVQ: a trained map of frozen random vectors),
    "projected" (VQGAN-LC: a trained map of the k-means centres of pretrained features).
    metric: "euclidean", or "cosine" (vectors and codes at unit length, best with a width of 8 to 32: ViT-VQGAN,
    arXiv:2110.04627).
    gradient: "straight_through", or "rotation" (see `gradients.rotate`).
    commitment: weight of |z - sg(c)|^2, the term that pulls vectors to their codes.
    decay: of moving averages, per step. kmeans_init: start from k-means over the first 4 * size vectors.
    reset: where codes out of use go: "vector" of the batch, "split" of a code in frequent use, or the "closest",
    "random", "probabilistic" anchors of CVQ. reset_below: the share of the mean count that is out of use, 0 for no
    resets; see `reset.make_reset`.
    regulariser: what else keeps codes in use, a mapping for `regularisers.build`; empty for none.
    features, feature_width: of "projected", see `sources.ProjectedCodebook`.
    """

    size: int
    width: int = 0
    codebook: Literal["ema", "learned", "affine", "frozen", "linear", "projected"] = "ema"
    metric: Literal["euclidean", "cosine"] = "euclidean"
    gradient: Literal["straight_through", "rotation"] = "straight_through"
    commitment: float = 0.25
    decay: float = 0.97  # papers say 0.99; this follows a moving encoder sooner, and ends no worse (docs/quantizers.md)
    kmeans_init: bool = True
    reset: ResetKind = "vector"
    reset_below: float = 0.2
    regulariser: dict[str, Any] = field(default_factory=dict)
    features: str = ""
    feature_width: int = 0

    def check(self, dim: int, where: str) -> None:
        """Raise ConfigError for values that cannot work, alone or together, on vectors of width `dim`."""
        if self.size < 2:
            raise ConfigError(f"{where}.size: a codebook needs at least 2 codes, got {self.size}")
        if self.width < 0:
            raise ConfigError(f"{where}.width: must be 0 (that of the vectors) or more, got {self.width}")
        if not 0 < self.decay < 1:
            raise ConfigError(f"{where}.decay: must lie between 0 and 1, got {self.decay}")
        if not 0 <= self.reset_below < 1:
            raise ConfigError(
                f"{where}.reset_below: a share of the mean code count, 0 <= share < 1, got {self.reset_below}"
            )
        if self.commitment < 0:
            raise ConfigError(f"{where}.commitment: must be 0 or more, got {self.commitment}")
        if self.gradient == "rotation" and (self.width or dim) == 1:
            raise ConfigError(f"{where}.gradient: nothing rotates in a width of 1; take 'straight_through'")
        self._check_codebook(where)

    def _check_codebook(self, where: str) -> None:
        if self.codebook == "affine" and self.metric == "cosine":
            raise ConfigError(f"{where}.metric: 'cosine' undoes the map of an 'affine' codebook; take 'euclidean'")
        if self.codebook not in FREE and self.reset_below > 0:
            raise ConfigError(
                f"{where}.reset_below: codes of a {self.codebook!r} codebook cannot be moved one by one; set it to 0"
            )
        if self.codebook in ("frozen", "linear") and self.kmeans_init:
            raise ConfigError(
                f"{where}.kmeans_init: a {self.codebook!r} codebook keeps its random vectors; set it to false"
            )
        if self.reset != "vector" and self.reset_below == 0:
            raise ConfigError(
                f"{where}.reset: {self.reset!r} never acts with reset_below 0; raise that, or leave it out"
            )
        if self.codebook == "projected":
            if not self.kmeans_init:
                raise ConfigError(
                    f"{where}.kmeans_init: a 'projected' codebook is made of k-means centres; set it to true"
                )
            if not self.features or self.feature_width < 1:
                raise ConfigError(f"{where}.features: a 'projected' codebook needs features, a file, and feature_width")
        elif self.features or self.feature_width:
            raise ConfigError(f"{where}.features: only a 'projected' codebook has features, not {self.codebook!r}")


class VectorQuantizer(CodebookQuantizer):
    """One codebook, one code per vector. See `VQConfig`."""

    def __init__(self, config: VQConfig, dim: int, where: str) -> None:
        config.check(dim, where)
        weights = {"commitment": config.commitment, "codebook": 1.0}
        self.regulariser = None
        super().__init__(dim, config.width or dim, (config.size,), weights)
        if config.regulariser:
            self.regulariser = regularisers.build(config.regulariser, f"{where}.regulariser")
            weights["regulariser"] = self.regulariser.weight
        self.spherical = config.metric == "cosine"
        self._pass_gradient = GRADIENTS[config.gradient]
        self.codebook = _codebook(config, self.width)

    def bound(self, h: Tensor) -> Tensor:
        return F.normalize(h, dim=-1) if self.spherical else h

    @torch.no_grad()
    def assign(self, h: Tensor) -> Tensor:
        return nearest(h, self.codebook.vectors())[0][:, None]

    def pass_gradient(self, h: Tensor, vectors: Tensor) -> Tensor:
        return self._pass_gradient(h, vectors)

    def choose(self, h: Tensor, updating: bool) -> Quantized:
        """Nearest codes with losses; moves the codebook afterwards if `updating`."""
        codes = self.assign(h)
        vectors = self.lookup(codes)
        elements = mean_count(h.shape[0], h.device, updating) * self.width
        losses = {"commitment": F.mse_loss(h, vectors.detach(), reduction="sum") / elements}
        if self.codebook.learns:
            losses["codebook"] = F.mse_loss(vectors, h.detach(), reduction="sum") / elements
        if self.regulariser is not None:
            losses["regulariser"] = self.regulariser(h, codes[:, 0], self.codebook.vectors())
        vectors = vectors.detach()
        if updating:
            counts = self.codebook.update(h.detach(), codes[:, 0])
        else:
            counts = torch.bincount(codes[:, 0], minlength=self.codebook.size)
        return Quantized(vectors, codes, losses, code_stats(counts, self.codebook.size))


def _codebook(config: VQConfig, width: int) -> Codebook:
    start_count = 0.0 if config.reset in ONLINE else 1.0
    moves = make_reset(config.reset, config.reset_below)
    shared = (config.size, width, config.metric == "cosine", config.decay, config.kmeans_init, moves, start_count)
    if config.codebook == "projected":
        return ProjectedCodebook(*shared, features=Path(config.features), feature_width=config.feature_width)
    return CODEBOOKS[config.codebook](*shared)


CONFIG = VQConfig
QUANTIZER = VectorQuantizer
