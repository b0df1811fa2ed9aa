"""Where code vectors come from: a learned parameter, or an exponential moving average of what was assigned to them.

Both start from k-means over the first batches and replace codes that fall out of use. Ranks always hold equal
codebooks: they sum their statistics, and choose replacements from the batch joined over ranks.
"""

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
    """Codes [size, width] with their usage. Subclasses say whether `weight` is a parameter or a buffer.

    Args:
        spherical: codes have unit length (cosine assignment).
        decay: of the moving averages, per step.
        kmeans_init: start from k-means over the first 4 * size vectors, instead of from random vectors.
        reset_below: a code whose average count falls below this share of the mean count is moved to a vector
            of the batch; 0 never does.
    """

    weight: Tensor
    counts: Tensor
    initialised: Tensor
    updates: Tensor
    collected: Tensor

    def __init__(
        self, size: int, width: int, spherical: bool, decay: float, kmeans_init: bool, reset_below: float
    ) -> None:
        super().__init__()
        self.size, self.spherical, self.decay, self.reset_below = size, spherical, decay, reset_below
        self.register_buffer("counts", torch.ones(size))
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
        """All codes, fp32 [size, width], to search among."""
        return self.shape(self.weight.detach().float())

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes [n] as vectors, fp32 [n, width], with gradients if they are learned.

        Rows are taken first: the backward pass must not need `weight`, which a reset changes in place.
        """
        return self.shape(F.embedding(codes, self.weight).float())

    def place(self, rows: Tensor | slice, vectors: Tensor, counts: Tensor) -> None:
        """Make codes equal `vectors` [m, width], with `counts` [m] as their average usage."""
        self.weight[rows] = vectors.to(self.weight.dtype)
        self.counts[rows] = counts

    @torch.no_grad()
    def collect(self, h: Tensor) -> None:
        """Gather vectors [n, width] of every rank until there are enough for k-means, then start the codebook."""
        wanted = POINTS_PER_CODE * self.size - self.collected.shape[0]
        start, total = joined_span(h.shape[0], h.device)
        spread = torch.arange(min(wanted, total)) * total // max(min(wanted, total), 1)
        self.collected = torch.cat([self.collected, joined_rows(h, spread, start)])
        if self.collected.shape[0] < POINTS_PER_CODE * self.size:
            return
        centres, counts = kmeans(self.collected, self.size, spherical=self.spherical)
        self.place(slice(len(centres)), broadcast(centres), broadcast(counts))
        self.counts[len(centres) :] = 0  # too few distinct vectors: the remaining codes wait for a reset
        self.collected = self.collected[:0].clone()
        self.initialised.fill_(True)

    @torch.no_grad()
    def update(self, h: Tensor, codes: Tensor) -> Tensor:
        """Follow this step's assignment of vectors [n, width] to codes [n]; returns counts [size] over all ranks."""
        counts = all_reduce(torch.bincount(codes, minlength=self.size).float())
        decay = torch.where(counts.sum() > 0, self.decay, 1.0)  # a step without vectors changes nothing
        self.follow(h, codes, counts, decay)
        self.updates += 1
        if self.reset_below > 0:
            self.reset(h)
        return counts

    def follow(self, h: Tensor, codes: Tensor, counts: Tensor, decay: Tensor) -> None:
        """Update the moving averages."""
        self.counts.mul_(decay).add_(counts * (1 - decay))

    def reset(self, h: Tensor) -> None:
        """Move codes out of use to random vectors of the batch joined over ranks."""
        mean = self.counts.mean()
        unused = (self.counts < self.reset_below * mean).nonzero()[:, 0]
        if len(unused) == 0:  # equal on all ranks, because counts are
            return
        start, total = joined_span(h.shape[0], h.device)
        if total == 0:
            return
        chance = torch.Generator().manual_seed(int(self.updates))  # the same choice on every rank, and after a resume
        picked = torch.randperm(total, generator=chance)[: len(unused)]
        unused = unused[: len(picked)]
        self.place(unused, joined_rows(h, picked, start), mean.expand(len(unused)))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        stored = state.get(prefix + "collected")
        if stored is not None and stored.shape[1:] == self.collected.shape[1:]:
            self.collected = self.collected.new_zeros(stored.shape)  # as many as had been collected when it was saved
        super()._load_from_state_dict(state, prefix, *rest)


class LearnedCodebook(Codebook):
    """Codes are a parameter, trained by the codebook loss |sg(z) - c|^2 (VQ-VAE, arXiv:1711.00937)."""

    def __init__(self, size: int, width: int, *rest: Any) -> None:
        super().__init__(size, width, *rest)
        self.weight = nn.Parameter(self.start_vectors(width))


class EmaCodebook(Codebook):
    """Codes are the moving average of the vectors assigned to them (VQ-VAE, arXiv:1711.00937, appendix A.1).

    counts <- g counts + (1 - g) n, sums <- g sums + (1 - g) sum of vectors, code = sums / counts, with Laplace
    smoothing of the counts.
    """

    sums: Tensor

    def __init__(self, size: int, width: int, *rest: Any) -> None:
        super().__init__(size, width, *rest)
        self.register_buffer("weight", self.start_vectors(width))
        self.register_buffer("sums", self.weight.clone())

    def place(self, rows: Tensor | slice, vectors: Tensor, counts: Tensor) -> None:
        super().place(rows, vectors, counts)
        self.sums[rows] = vectors * counts[:, None]  # otherwise the next update would undo it

    def follow(self, h: Tensor, codes: Tensor, counts: Tensor, decay: Tensor) -> None:
        super().follow(h, codes, counts, decay)
        sums = all_reduce(torch.zeros_like(self.sums).index_add_(0, codes, h))
        self.sums.mul_(decay).add_(sums * (1 - decay))
        total = self.counts.sum()
        smoothed = (self.counts + SMOOTHING) / (total + self.size * SMOOTHING) * total
        self.weight.copy_(self.sums / smoothed[:, None])
