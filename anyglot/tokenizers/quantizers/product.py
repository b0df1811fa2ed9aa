"""Product quantization trained by gradients: groups of channels, each with a quantizer of its own.

The codebook is the Cartesian product of the groups' codebooks: K codes in each of M groups make K^M vectors out of
M * K stored ones (Jegou et al. 2011). As a tokenizer's bottleneck it is what UniTok (arXiv:2502.20321) calls
multi-codebook quantization. `pq` is the same fitted offline.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from omegaconf import MISSING
from torch import Tensor, nn

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.base import Quantized, Quantizer
from anyglot.tokenizers.quantizers.fitted import FittedQuantizer
from anyglot.tokenizers.quantizers.registry import build


@dataclass
class ProductConfig:
    """groups: how many; their widths differ by at most one channel. inner: config of the quantizer of each group, which
    is built anew for each; one of several levels is fine. width: of the vectors that are split, 0 for that of the
    input; else projections lead there and back.
    """

    groups: int = MISSING
    inner: dict[str, Any] = MISSING
    width: int = 0


class ProductOfQuantizers(Quantizer):
    """A quantizer for each group of channels; levels are those of the first group, then of the second, and so on."""

    own_gradient = True

    def __init__(self, config: ProductConfig, dim: int, where: str) -> None:
        width = config.width or dim
        if not 1 <= config.groups <= width:
            raise ConfigError(f"{where}.groups: {width} channels make 1 to {width} groups, got {config.groups}")
        widths = group_widths(width, config.groups)
        groups = [build(config.inner, part, f"{where}.inner") for part in widths]
        if isinstance(groups[0], FittedQuantizer):
            raise ConfigError(
                f"{where}.inner: {config.inner['type']!r} is fitted offline; use type 'pq' for groups of it"
            )
        super().__init__(dim, width, tuple(size for group in groups for size in group.levels), groups[0].weights)
        self.widths = widths
        self.groups = nn.ModuleList(groups)

    @property
    def ready(self) -> bool:
        return all(group.ready for group in self._groups())

    def assign(self, h: Tensor) -> Tensor:
        parts = torch.split(h, self.widths, 1)
        return torch.cat([group.encode_flat(part) for group, part in zip(self._groups(), parts, strict=True)], 1)

    def lookup(self, codes: Tensor) -> Tensor:
        counts = [len(group.levels) for group in self._groups()]
        parts = zip(self._groups(), torch.split(codes, counts, 1), strict=True)
        return torch.cat([group.decode_flat(part) for group, part in parts], 1)

    def select(self, h: Tensor, sample: Tensor) -> Quantized:
        found = [
            group.quantize(part, sample)
            for group, part in zip(self._groups(), torch.split(h, self.widths, 1), strict=True)
        ]
        losses = {name: torch.stack([each.losses[name] for each in found]).mean() for name in found[0].losses}
        stats: dict[str, Tensor] = {}
        for name in ("usage", "perplexity"):
            level = 0
            for group, each in zip(self._groups(), found, strict=True):
                for i in range(len(group.levels)):
                    stats[f"{name}_{level}"] = each.stats.get(f"{name}_{i}", each.stats[name])
                    level += 1
            stats[name] = torch.stack([each.stats[name] for each in found]).mean()
        vectors = torch.cat([each.vectors for each in found], 1)
        return Quantized(vectors, torch.cat([each.codes for each in found], 1), losses, stats)

    def pass_gradient(self, h: Tensor, vectors: Tensor) -> Tensor:
        return vectors  # every group has passed its own

    def _groups(self) -> list[Quantizer]:
        return cast(list[Quantizer], list(self.groups))


def group_widths(width: int, groups: int) -> list[int]:
    """Channels of each group: as equal as can be, wider ones first."""
    return [width // groups + (group < width % groups) for group in range(groups)]


CONFIG = ProductConfig
QUANTIZER = ProductOfQuantizers
