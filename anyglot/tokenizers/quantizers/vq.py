"""Vector quantization: the nearest code of a learned or moving-average codebook, Euclidean or cosine.

Four choices are independent: the codebook's source (`codebook.py`), the assignment, the gradient
(`straight_through`) and what keeps codes in use (k-means start, reset).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.base import Quantized, Quantizer, code_stats
from anyglot.tokenizers.quantizers.codebook import EmaCodebook, LearnedCodebook
from anyglot.tokenizers.quantizers.distributed import mean_count
from anyglot.tokenizers.quantizers.search import nearest

CODEBOOKS = {"ema": EmaCodebook, "learned": LearnedCodebook}


@dataclass
class VQConfig:
    """size: codes. width: of the codes, 0 for that of the vectors; else projections lead there and back.

    codebook: "ema" (moving average) or "learned" (gradient of the codebook loss). metric: "euclidean", or "cosine"
    (vectors and codes at unit length, best with a width of 8 to 32: ViT-VQGAN, arXiv:2110.04627).
    commitment: weight of |z - sg(c)|^2, the term that pulls vectors to their codes. decay, kmeans_init, reset_below:
    see `codebook.Codebook`.
    """

    size: int
    width: int = 0
    codebook: Literal["ema", "learned"] = "ema"
    metric: Literal["euclidean", "cosine"] = "euclidean"
    commitment: float = 0.25
    decay: float = 0.97  # papers say 0.99; this follows a moving encoder sooner, and ends no worse (docs/quantizers.md)
    kmeans_init: bool = True
    reset_below: float = 0.2

    def check(self, where: str) -> None:
        """Raise ConfigError for values that cannot work."""
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


class VectorQuantizer(Quantizer):
    """One codebook, one code per vector. See `VQConfig`."""

    def __init__(self, config: VQConfig, dim: int, where: str) -> None:
        config.check(where)
        super().__init__(dim, config.width or dim, (config.size,), {"commitment": config.commitment, "codebook": 1.0})
        self.spherical = config.metric == "cosine"
        self.learned = config.codebook == "learned"
        self.codebook = CODEBOOKS[config.codebook](
            config.size, self.width, self.spherical, config.decay, config.kmeans_init, config.reset_below
        )

    @property
    def ready(self) -> bool:
        return bool(self.codebook.initialised)

    def bound(self, h: Tensor) -> Tensor:
        return F.normalize(h, dim=-1) if self.spherical else h

    def assign(self, h: Tensor) -> Tensor:
        return nearest(h, self.codebook.vectors())[0][:, None]

    def lookup(self, codes: Tensor) -> Tensor:
        return self.codebook.lookup(codes[:, 0])

    def select(self, h: Tensor, sample: Tensor) -> Quantized:
        updating = self.updating
        if updating and not self.ready:
            self.codebook.collect(h.detach())
            if not self.ready:  # still collecting: vectors pass as they are, without codes
                result = self.choose(h[:0], updating=False)
                result.vectors, result.codes = h.detach(), torch.full_like(h[:, :1], -1, dtype=torch.int64)
                return result
        return self.choose(h, updating)

    def choose(self, h: Tensor, updating: bool) -> Quantized:
        """Nearest codes with losses; moves the codebook afterwards if `updating`."""
        codes = self.assign(h)
        vectors = self.lookup(codes)
        elements = mean_count(h.shape[0], h.device, updating) * self.width
        losses = {"commitment": F.mse_loss(h, vectors.detach(), reduction="sum") / elements}
        if self.learned:
            losses["codebook"] = F.mse_loss(vectors, h.detach(), reduction="sum") / elements
        vectors = vectors.detach()
        if updating:
            counts = self.codebook.update(h.detach(), codes[:, 0])
        else:
            counts = torch.bincount(codes[:, 0], minlength=self.codebook.size)
        return Quantized(vectors, codes, losses, code_stats(counts, self.codebook.size))


CONFIG = VQConfig
QUANTIZER = VectorQuantizer
