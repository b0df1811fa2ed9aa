"""Codebooks whose codes are free: each a learned parameter, or the moving average of what was assigned to it.

Both start from k-means over the first batches and replace codes that fall out of use (`reset.py`). Ranks always hold
equal codebooks: they sum their statistics, and choose replacements from the batch joined over ranks. Codebooks that
are functions of something smaller are in `sources.py`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyglot.tokenizers.quantizers.buffers import Fp32Buffers
from anyglot.tokenizers.quantizers.distributed import all_reduce, broadcast, joined_rows, joined_span
from anyglot.tokenizers.quantizers.kmeans import kmeans

POINTS_PER_CODE = 4  # vectors collected for k-means; fewer leave nothing for the next level of a residual stack
SMOOTHING = 1e-5


class Codebook(Fp32Buffers):
    """Codes [size, width] with their usage. Subclasses say where the codes come from: `vectors` and `lookup`.

    Args:
        spherical: codes have unit length (cosine assignment).
        decay: of the moving averages, per step.
        kmeans_init: start from k-means over the first 4 * size vectors, instead of from random vectors.
        reset: moves codes out of use after a step, called with the codebook and the step's vectors [n, width].
        start_count: average count that codes begin with, so that a reset spares them at first; 0 does not.
    """

    learns = False  # whether the codebook loss reaches a parameter

    counts: Tensor
    initialised: Tensor
    updates: Tensor
    collected: Tensor

    def __init__(
        self,
        size: int,
        width: int,
        spherical: bool,
        decay: float,
        kmeans_init: bool,
        reset: Callable[["Codebook", Tensor], None] | None,
        start_count: float = 1.0,
    ) -> None:
        super().__init__()
        self.size, self.spherical, self.decay, self.reset = size, spherical, decay, reset
        self.register_buffer("counts", torch.full((size,), start_count))
        self.register_buffer("initialised", torch.tensor(not kmeans_init))
        self.register_buffer("updates", torch.tensor(0))
        # Part of the state, so that a run resumed while collecting equals an uninterrupted one; empty afterwards.
        self.register_buffer("collected", torch.zeros(0, width))

    def start_vectors(self, width: int) -> Tensor:
        """Random codes of about unit variance, as encoders emit; k-means replaces them."""
        return self.shape(torch.randn(self.size, width))

    def shape(self, codes: Tensor) -> Tensor:
        """Codes as they are looked up and returned."""
        return F.normalize(codes, dim=-1) if self.spherical else codes

    def vectors(self) -> Tensor:
        """All codes, fp32 [size, width], with gradients if they are learned."""
        raise NotImplementedError

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes [n] as vectors, fp32 [n, width], with gradients if they are learned."""
        raise NotImplementedError

    def place(self, rows: Tensor | slice, vectors: Tensor, counts: Tensor) -> None:
        """Make codes equal `vectors` [m, width], with `counts` [m] as their average usage."""
        raise NotImplementedError

    @torch.no_grad()
    def collect(self, h: Tensor) -> None:
        """Gather vectors [n, width] of every rank until there are enough for k-means, then start the codebook."""
        wanted = POINTS_PER_CODE * self.size - self.collected.shape[0]
        start, total = joined_span(h.shape[0], h.device)
        spread = torch.arange(min(wanted, total)) * total // max(min(wanted, total), 1)
        self.collected = torch.cat([self.collected, joined_rows(h, spread, start)])
        if self.collected.shape[0] < POINTS_PER_CODE * self.size:
            return
        self.start(self.collected)
        self.collected = self.collected[:0].clone()
        self.initialised.fill_(True)

    def start(self, collected: Tensor) -> None:
        """Place the codes at the k-means centres of vectors [m, width]."""
        centres, counts = kmeans(collected, self.size, spherical=self.spherical)
        self.place(slice(len(centres)), broadcast(centres), broadcast(counts))
        self.counts[len(centres) :] = 0  # too few distinct vectors: the remaining codes wait for a reset

    @torch.no_grad()
    def update(self, h: Tensor, codes: Tensor) -> Tensor:
        """Follow this step's assignment of vectors [n, width] to codes [n]; returns counts [size] over all ranks."""
        counts = all_reduce(torch.bincount(codes, minlength=self.size).float())
        if not counts.any():  # a step without vectors on any rank changes nothing
            return counts
        self.follow(h, codes, counts)
        self.updates += 1
        if self.reset is not None:
            self.reset(self, h)
        return counts

    def follow(self, h: Tensor, codes: Tensor, counts: Tensor) -> None:
        """Update the moving averages."""
        self.counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        stored = state.get(prefix + "collected")
        if stored is not None and stored.shape[1:] == self.collected.shape[1:]:
            self.collected = self.collected.new_zeros(stored.shape)  # as many as had been collected when it was saved
        super()._load_from_state_dict(state, prefix, *rest)


class FreeCodebook(Codebook):
    """Codes are the rows of `weight` [size, width], each on its own; a subclass says how they learn."""

    weight: Tensor

    def vectors(self) -> Tensor:
        # In a graph a copy: a backward pass must not need `weight`, which the update changes in place.
        weight = self.weight.clone() if torch.is_grad_enabled() else self.weight
        return self.shape(weight.float())

    def lookup(self, codes: Tensor) -> Tensor:
        return self.shape(F.embedding(codes, self.weight).float())  # rows first, for the same reason

    def place(self, rows: Tensor | slice, vectors: Tensor, counts: Tensor) -> None:
        self.weight[rows] = vectors.to(self.weight.dtype)
        self.counts[rows] = counts


class LearnedCodebook(FreeCodebook):
    """Codes are a parameter, trained by the codebook loss |sg(z) - c|^2 (VQ-VAE, arXiv:1711.00937)."""

    learns = True

    def __init__(self, size: int, width: int, *rest: Any) -> None:
        super().__init__(size, width, *rest)
        self.weight = nn.Parameter(self.start_vectors(width))


class EmaCodebook(FreeCodebook):
    """Codes are the moving average of the vectors assigned to them (VQ-VAE, arXiv:1711.00937, appendix A.1).

    counts <- g counts + (1 - g) n, sums <- g sums + (1 - g) sum of vectors, code = sums / counts, with Laplace
    smoothing of the counts.
    """

    sums: Tensor

    def __init__(self, size: int, width: int, *rest: Any) -> None:
        super().__init__(size, width, *rest)
        self.register_buffer("weight", self.start_vectors(width))
        self.register_buffer("sums", self.weight * (self.counts + SMOOTHING)[:, None])

    def place(self, rows: Tensor | slice, vectors: Tensor, counts: Tensor) -> None:
        super().place(rows, vectors, counts)
        self.sums[rows] = vectors * (counts + SMOOTHING)[:, None]  # otherwise the next update would undo it

    def follow(self, h: Tensor, codes: Tensor, counts: Tensor) -> None:
        super().follow(h, codes, counts)
        sums = all_reduce(torch.zeros_like(self.sums).index_add_(0, codes, h))
        self.sums.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        total = self.counts.sum()
        smoothed = (self.counts + SMOOTHING) / (total + self.size * SMOOTHING) * total
        torch.div(self.sums, smoothed[:, None], out=self.weight)
