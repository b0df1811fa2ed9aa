"""Finite scalar quantization: each channel is bounded and rounded to a few levels (FSQ, arXiv:2309.15505)."""

from dataclasses import dataclass, field
from math import prod
from typing import Literal

import torch
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.base import Quantized, Quantizer, code_stats, count_codes

MARGIN = 1e-3  # keeps a saturated tanh away from the rounding edge beyond the last level
ROWS = 64


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
    steps: Tensor
    reach: Tensor
    centre: Tensor
    shift: Tensor

    def __init__(self, config: FSQConfig, dim: int, where: str) -> None:
        sizes = config.sizes
        if not sizes or min(sizes) < 2 or max(sizes) > 1 / MARGIN:
            raise ConfigError(f"{where}.sizes: one or more numbers of levels, each 2 to {int(1 / MARGIN)}, got {sizes}")
        if prod(sizes) >= 2**63:
            raise ConfigError(f"{where}.sizes: {prod(sizes)} codes do not fit 63 bits; use fewer channels or levels")
        super().__init__(dim, len(sizes), (prod(sizes),), {})
        self.clamped = config.bound == "clamp"
        self.middle = sum(size // 2 * prod(sizes[:i]) for i, size in enumerate(sizes))  # the code of the zero vector
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)
        self.register_buffer("bases", torch.tensor([prod(sizes[:i]) for i in range(len(sizes))]), persistent=False)
        # Per channel: steps from 0 to 1, half the range of the levels, its centre, and what tanh is shifted by so that
        # zero stays zero. Repeated, for `_rows`.
        steps, even = self.sizes // 2, self.sizes % 2 == 0
        half, offset = (self.sizes - 1) * (1 - MARGIN) / 2, even * 0.5
        self.register_buffer("steps", steps.float().repeat(ROWS), persistent=False)
        self.register_buffer("reach", (half / steps).repeat(ROWS), persistent=False)
        self.register_buffer("centre", (-offset / steps).repeat(ROWS), persistent=False)
        self.register_buffer("shift", torch.tan(offset / half).repeat(ROWS), persistent=False)

    @property
    def residual_scale(self) -> Tensor:
        return 1 / (self.sizes - 1)  # half a step either way fills the range of the levels

    def bound(self, h: Tensor) -> Tensor:
        """Map to the range of the levels, in units of size // 2, so about -1 .. 1."""
        rows = self._rows(h)
        reach, centre, shift = (values[: rows.shape[-1]] for values in (self.reach, self.centre, self.shift))
        if self.clamped:
            return torch.clamp(rows, centre - reach, centre + reach).view_as(h)
        return torch.addcmul(centre, (rows + shift).tanh_(), reach).view_as(h)

    def _rows(self, h: Tensor) -> Tensor:
        """[n, width] seen as [n / ROWS, ROWS * width] where that divides: kernels are slow on short rows."""
        blocks, rest = divmod(h.numel(), ROWS * self.width)
        return h if rest else h.reshape(blocks, ROWS * self.width)

    def assign(self, h: Tensor) -> Tensor:
        rows = self._rows(h)
        return self._pack((rows * self.steps[: rows.shape[-1]]).round_().view_as(h))

    def _pack(self, levels: Tensor) -> Tensor:
        """Codes [n, 1] of levels [n, width], whole numbers around 0. Exact: floats only where they hold every code."""
        if self.levels[0] < 2**24:
            packed = (levels @ self.bases.float()).to(torch.int64)
        else:
            packed = (levels.to(torch.int64) * self.bases).sum(1)
        return packed[:, None] + self.middle

    def lookup(self, codes: Tensor) -> Tensor:
        return (codes // self.bases % self.sizes - self.sizes // 2) / self.steps[: self.width]

    def select(self, h: Tensor, sample: Tensor) -> Quantized:
        rows = self._rows(h.detach())
        steps = self.steps[: rows.shape[-1]]
        levels = (rows * steps).round_()
        codes = self._pack(levels.view_as(h))
        stats = code_stats(count_codes(codes, self.levels[0]), self.levels[0])
        return Quantized(levels.div_(steps).view_as(h), codes, {}, stats)


CONFIG = FSQConfig
QUANTIZER = FiniteScalarQuantizer
