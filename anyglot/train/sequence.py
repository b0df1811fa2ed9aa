"""Sequence parallelism: every rank computes a part of the places of the same rows, so that longer rows fit.

Ulysses (arXiv 2309.14509), by DeepSpeed's exchange: all but attention is computed place by place; for attention, ranks
trade places for heads, each attends with some of the heads over whole rows, and they trade back. A rank's loss is that
of its own places, so gradients add up over ranks as with plain data parallelism, at any ZeRO stage.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from anyglot.data.batches import PackedBatch
from anyglot.errors import ConfigError
from anyglot.lm.attention import Kernel


@dataclass(frozen=True)
class SequenceParallel:
    """Ranks that share rows: `size` neighbours, of which this is the `place`th. Every rank of the run makes one."""

    size: int
    place: int
    group: Any = field(repr=False)
    exchange: Any = field(repr=False)

    def part(self, batch: PackedBatch) -> PackedBatch:
        """This rank's places of a batch that all ranks of the group have: arrays `[rows, length / size]`."""
        width = batch.input_ids.shape[1] // self.size
        mine = slice(self.place * width, (self.place + 1) * width)
        return PackedBatch(*(getattr(batch, field.name)[:, mine] for field in fields(batch)))

    def whole(self, part: Tensor) -> Tensor:
        """`[rows, part]` of every rank -> `[rows, length]`."""
        parts = [torch.empty_like(part) for _ in range(self.size)]
        dist.all_gather(parts, part.contiguous(), group=self.group)
        return torch.cat(parts, dim=1)

    def attend(
        self, kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, scale: float | None, dropout: float
    ) -> Tensor:
        """Query, key, value `[rows, heads, part, head_dim]` -> `[rows, part, heads, head_dim]`, over whole rows."""
        if key.shape[1] % self.size:  # fewer heads of keys than ranks: each rank gets those of its queries
            key, value = (heads.repeat_interleave(query.shape[1] // key.shape[1], 1) for heads in (key, value))
        query, key, value = (heads.transpose(1, 2) for heads in (query, key, value))
        return self.exchange(query, key, value, 0, None, kernel, scale, dropout)  # 0: rows are the first axis


def parts(batches: Iterable[PackedBatch], shared: SequenceParallel | None) -> Iterator[PackedBatch]:
    """Batches as this rank computes them: its places of each, or all where rows are not shared."""
    return iter(batches) if shared is None else map(shared.part, batches)


def join(size: int, architecture: Any, length: int) -> SequenceParallel | None:
    """Group this run's ranks by `size`; None for a size of 1. Every rank calls it.

    architecture: the model's Hugging Face config. length: of a row.
    Raises ConfigError if ranks, places or heads cannot be shared out equally.
    """
    if size == 1:
        return None
    rank, world = dist.get_rank(), dist.get_world_size()
    shared = {"processes": world, "places of a row (data.length)": length, "heads": architecture.num_attention_heads}
    for name, number in shared.items():
        if number % size:
            raise ConfigError(f"sequence_parallel={size} does not divide the {number} {name}")
    from deepspeed.sequence.layer import DistributedAttention

    groups = [dist.new_group(list(range(first, first + size))) for first in range(0, world, size)]
    group = groups[rank // size]
    exchange = DistributedAttention(_heads_first, group, scatter_idx=2, gather_idx=1)
    return SequenceParallel(size, rank % size, group, exchange)


def _heads_first(
    query: Tensor, key: Tensor, value: Tensor, kernel: Kernel, scale: float | None, dropout: float
) -> Tensor:
    """A kernel for what the exchange gives: `[rows, length, some heads, head_dim]`."""
    return kernel(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), scale, dropout)
