"""Finite scalar quantization: each channel is bounded and rounded to a few levels (FSQ, arXiv:2309.15505)."""

from dataclasses import dataclass, field
from math import prod
from typing import Literal

import torch
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.base import Quantized, Quantizer, code_stats, count_codes

MARGIN = 1e-3  # keeps a saturated tanh away from the rounding edge beyond the last level


@dataclass
class FSQConfig:
    """sizes: levels of each channel, 5 or more each; their product is the codebook: [8, 5, 5, 5] is about 2^10,
    [8, 8, 8, 5] 2560, [7, 5, 5, 5, 5] about 2^12, [8, 8, 8, 6, 5] about 2^14. A projection leads to that many
    channels and back where the vectors have another width.

    bound: "tanh", or "clamp", which a residual stack needs: what tanh bends cannot be refined.
    """

    sizes: list[int] = field(default_factory=list)
    bound: Literal["tanh", "clamp"] = "tanh"


class FiniteScalarQuantizer(Quantizer):
    """One code per vector: the mixed-radix number of its channels' levels, the first channel lowest."""

    sizes: Tensor
    bases: Tensor

    def __init__(self, config: FSQConfig, dim: int, where: str) -> None:
        sizes = config.sizes
        if not sizes or min(sizes) < 2 or max(sizes) > 1 / MARGIN:
            raise ConfigError(f"{where}.sizes: one or more numbers of levels, each 2 to {int(1 / MARGIN)}, got {sizes}")
        if prod(sizes) >= 2**63:
            raise ConfigError(f"{where}.sizes: {prod(sizes)} codes do not fit 63 bits; use fewer channels or levels")
        super().__init__(dim, len(sizes), (prod(sizes),), {})
        self.clamped = config.bound == "clamp"
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)
        self.register_buffer("bases", torch.tensor([prod(sizes[:i]) for i in range(len(sizes))]), persistent=False)

    @property
    def residual_scale(self) -> Tensor:
        return 1 / (self.sizes - 1)  # half a step either way fills the range of the levels

    def bound(self, h: Tensor) -> Tensor:
        """Map to the range of the levels, in units of size // 2, so about -1 .. 1."""
        half = (self.sizes - 1) * (1 - MARGIN) / 2
        offset = torch.where(self.sizes % 2 == 0, 0.5, 0.0)
        if self.clamped:
            return torch.maximum(torch.minimum(h * (self.sizes // 2), half - offset), -half - offset) / (
                self.sizes // 2
            )
        return torch.tanh(h + torch.tan(offset / half)) * (half / (self.sizes // 2)) - offset / (self.sizes // 2)

    def assign(self, h: Tensor) -> Tensor:
        return self._pack(torch.round(h * (self.sizes // 2)))

    def _pack(self, levels: Tensor) -> Tensor:
        """Codes [n, 1] of levels [n, width], whole numbers around 0. Exact: integers only."""
        return (levels.to(torch.int64) * self.bases).sum(1, keepdim=True) + (self.sizes // 2 * self.bases).sum()

    def lookup(self, codes: Tensor) -> Tensor:
        levels = codes // self.bases % self.sizes
        return (levels - self.sizes // 2) / (self.sizes // 2)

    def select(self, h: Tensor, sample: Tensor) -> Quantized:
        levels = torch.round(h.detach() * (self.sizes // 2))
        codes = self._pack(levels)
        stats = code_stats(count_codes(codes, self.levels[0]), self.levels[0])
        return Quantized(levels / (self.sizes // 2), codes, {}, stats)


CONFIG = FSQConfig
QUANTIZER = FiniteScalarQuantizer
