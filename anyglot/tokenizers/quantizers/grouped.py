"""Codes in groups: vectors of each kind have codes of their own (Mole-BERT's atoms by element, ICLR 2023).

A kind that is rare, as oxygen is beside carbon, keeps its share of the codes, and no code stands for two kinds.
"""

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.base import Quantized, Quantizer, code_stats, count_codes
from anyglot.tokenizers.quantizers.distributed import mean_count
from anyglot.tokenizers.quantizers.registry import build


@dataclass
class GroupedConfig:
    """sizes: codes of each group. The first channels of a vector, one a group, say which group it is of: the largest.
    inner: config of the quantizer of each group over the channels that are left, without its `size`.
    """

    sizes: list[int] = field(default_factory=list)
    inner: dict[str, Any] = field(default_factory=lambda: {"type": "vq"})


class GroupedQuantizer(Quantizer):
    """One code per vector, group after group. A code's vector begins with the one-hot of its group."""

    def __init__(self, config: GroupedConfig, dim: int, where: str) -> None:
        count = len(config.sizes)
        if count < 2 or dim <= count:
            raise ConfigError(f"{where}.sizes: two groups or more, and fewer than the {dim} channels, got {count}")
        if "size" in config.inner:
            raise ConfigError(f"{where}.inner.size: `sizes` has one for each group; leave it out")
        made = [build({**config.inner, "size": size}, dim - count, f"{where}.inner") for size in config.sizes]
        if len(made[0].levels) != 1 or made[0].own_gradient or made[0].projects:
            raise ConfigError(f"{where}.inner: must be one codebook of the vectors' width; take 'vq' without `width`")
        super().__init__(dim, dim, (sum(config.sizes),), made[0].weights)
        self.groups = nn.ModuleList(made)
        self.starts = [sum(config.sizes[:i]) for i in range(count)]

    @property
    def ready(self) -> bool:
        return all(group.ready for group in self._groups())

    def assign(self, h: Tensor) -> Tensor:
        codes = torch.empty(len(h), 1, dtype=torch.int64, device=h.device)
        for group, start, rows in zip(self._groups(), self.starts, self._rows(h), strict=True):
            codes[rows] = start + group.encode_flat(h[rows, len(self.starts) :])
        return codes

    def lookup(self, codes: Tensor) -> Tensor:
        starts = torch.tensor(self.starts, device=codes.device)
        of = torch.bucketize(codes[:, 0], starts, right=True) - 1
        vectors = torch.zeros(len(codes), self.dim, device=codes.device)
        for index, (group, start) in enumerate(zip(self._groups(), self.starts, strict=True)):
            rows = (of == index).nonzero()[:, 0]
            vectors = vectors.index_put((rows,), self._whole(index, group.decode_flat(codes[rows] - start)))
        return vectors

    def select(self, h: Tensor, sample: Tensor) -> Quantized:
        """Every group is asked, also for no vectors: its parameters stay in the graph, and ranks in step."""
        codes = torch.full((len(h), 1), -1, device=h.device)
        vectors = torch.zeros_like(h)
        losses: dict[str, list[Tensor]] = {}
        everything = mean_count(len(h), h.device, self.updating)
        for index, rows in enumerate(self._rows(h)):
            group = self._groups()[index]
            part = h[rows, len(self.starts) :]
            result = group.select(group.bound(part), sample[rows])
            vectors = vectors.index_put((rows,), self._whole(index, result.vectors))
            codes[rows] = torch.where(result.codes >= 0, result.codes + self.starts[index], -1)
            share = mean_count(len(rows), h.device, self.updating) / everything
            for name, value in result.losses.items():
                losses.setdefault(name, []).append(share * value)
        stats = code_stats(count_codes(codes[codes >= 0], self.levels[0]), self.levels[0])
        return Quantized(vectors, codes, {name: torch.stack(terms).sum() for name, terms in losses.items()}, stats)

    def _rows(self, h: Tensor) -> list[Tensor]:
        """The vectors of each group."""
        of = h[:, : len(self.starts)].argmax(1)
        return [(of == index).nonzero()[:, 0] for index in range(len(self.starts))]

    def _whole(self, index: int, part: Tensor) -> Tensor:
        """Code vectors of a group, with its one-hot in front."""
        front = part.new_zeros(len(part), len(self.starts))
        front[:, index] = 1.0
        return torch.cat([front, part], 1)

    def _groups(self) -> list[Quantizer]:
        return cast(list[Quantizer], list(self.groups))


CONFIG = GroupedConfig
QUANTIZER = GroupedQuantizer
