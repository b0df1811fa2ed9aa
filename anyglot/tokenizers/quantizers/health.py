"""Codebook health: how much of each level's codebook is in use, over all the codes that a `Health` was shown."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor


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
    """Counts codes as they come: `update`, then `result`."""

    def __init__(self, levels: tuple[int, ...]) -> None:
        self.levels = levels
        self._counts: list[dict[int, int]] = [{} for _ in levels]

    def update(self, codes: Tensor) -> None:
        """Count codes [..., levels]; -1 is no code."""
        for level, counts in enumerate(self._counts):
            found, times = torch.unique(codes[..., level], return_counts=True)
            for code, count in zip(found.tolist(), times.tolist(), strict=True):
                if code >= 0:
                    counts[code] = counts.get(code, 0) + count

    def counts(self, level: int) -> Tensor:
        """How often the codes that occur at a level do, descending, int64 [used]."""
        return torch.tensor(sorted(self._counts[level].values(), reverse=True), dtype=torch.int64)

    def result(self) -> list[LevelHealth]:
        """The health of every level."""
        found = []
        for level, size in enumerate(self.levels):
            counts = self.counts(level).double()
            share = counts / counts.sum().clamp(min=1)
            bits = float(-(share * share.log2()).sum()) if len(counts) else 0.0
            found.append(LevelHealth(size, len(counts) / size, size - len(counts), 2**bits, bits))
        return found
