"""Codebook health: how much of each level's codebook is in use, over all the codes that a `Health` was shown."""

from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from anyglot.tokenizers.quantizers.distributed import all_reduce, world_size

DENSE = 2**20  # codes; of bigger codebooks only those that occur are counted, one by one


@dataclass(frozen=True)
class LevelHealth:
    """One level. usage: share of the codes that occur; dead: codes that never do; perplexity: 2^bits, where `bits` is
    the entropy of how often codes occur, of log2(size) possible ones."""

    size: int
    usage: float
    dead: int
    perplexity: float
    bits: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


class Health:
    """Counts codes as they come: `update`, then `result`. Cheap enough for every step, and on a GPU without waiting."""

    def __init__(self, levels: tuple[int, ...]) -> None:
        self.levels = levels
        self._counts: list[Tensor | None] = [None for _ in levels]  # dense: [size + 1], the first of code -1
        self._found: list[Tensor] = [torch.zeros(0, dtype=torch.int64) for _ in levels]  # sparse: codes, ascending

    @torch.no_grad()
    def update(self, codes: Tensor) -> None:
        """Count codes [..., levels]; -1 is no code."""
        for level, size in enumerate(self.levels):
            seen = codes[..., level].reshape(-1)
            if size > DENSE:
                self._merge(level, *torch.unique(seen[seen >= 0], return_counts=True))
                continue
            counts = self._counts[level]
            if counts is None:
                counts = self._counts[level] = torch.zeros(size + 1, dtype=torch.int64, device=codes.device)
            counts.index_add_(0, seen + 1, torch.ones_like(seen))

    def over_ranks(self) -> "Health":
        """What all ranks were shown together; every rank asks for it."""
        joined = Health(self.levels)
        for level, size in enumerate(self.levels):
            counts = self._counts[level]
            if world_size() == 1:
                joined._counts[level], joined._found[level] = counts, self._found[level]
            elif size <= DENSE:
                zero = torch.zeros(size + 1, dtype=torch.int64)
                joined._counts[level] = all_reduce(zero if counts is None else counts.clone())
            else:
                of_ranks: list[tuple[Tensor, Tensor]] = [None] * world_size()  # type: ignore[list-item]
                mine = (self._found[level].cpu(), torch.zeros(0, dtype=torch.int64) if counts is None else counts.cpu())
                dist.all_gather_object(of_ranks, mine)
                for found, times in of_ranks:
                    joined._merge(level, found, times)
        return joined

    def counts(self, level: int) -> Tensor:
        """How often the codes that occur at a level do, descending, int64 [used]."""
        counts = self._counts[level]
        if counts is None:
            return torch.zeros(0, dtype=torch.int64)
        if self.levels[level] <= DENSE:
            counts = counts[1:]
        return counts[counts > 0].sort(descending=True).values.cpu()

    def result(self) -> list[LevelHealth]:
        """The health of every level."""
        found = []
        for level, size in enumerate(self.levels):
            counts = self.counts(level).double()
            share = counts / counts.sum().clamp(min=1)
            bits = float(-(share * share.log2()).sum()) if len(counts) else 0.0
            found.append(LevelHealth(size, len(counts) / size, size - len(counts), 2**bits, bits))
        return found

    def _merge(self, level: int, codes: Tensor, times: Tensor) -> None:
        """Add codes and how often they occurred to those of a sparse level."""
        before = self._counts[level]
        if before is not None:
            codes, times = torch.cat([self._found[level], codes]), torch.cat([before, times])
        found, place = torch.unique(codes, return_inverse=True)
        self._found[level], self._counts[level] = found, torch.zeros_like(found).index_add_(0, place, times)
