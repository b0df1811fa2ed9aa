"""Soft assignments of vectors to all codes, softmax over similarities, without a big [vectors, codes] matrix.

Rows are taken in chunks; where there are several, each is computed anew in the backward pass instead of being kept.
"""

from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from anyglot.tokenizers.quantizers.distributed import all_reduce_with_grad, mean_count
from anyglot.tokenizers.quantizers.entropy import entropy
from anyglot.tokenizers.quantizers.search import CODES, ROWS, full_precision

LIMIT = 2**22  # elements of a chunk [rows, codes]: 16 MiB

Similarity = Literal["distance", "dot"]
T = TypeVar("T")


def similarities(h: Tensor, codebook: Tensor, kind: Similarity) -> Tensor:
    """[n, size]: -|h - c|^2 ("distance") or h.c ("dot") of vectors [n, width] and codes [size, width]."""
    products = h @ codebook.t()
    if kind == "dot":
        return products
    return 2 * products - codebook.square().sum(1) - h.square().sum(1, keepdim=True)


@torch.no_grad()
def most_similar(h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Index int64 [n] of the largest h.w_k + b_k over weight [size, width], bias [size]; of equal ones, the first."""
    best = torch.full((h.shape[0],), -torch.inf, device=h.device)
    indices = torch.zeros(h.shape[0], dtype=torch.int64, device=h.device)
    for row in range(0, h.shape[0], ROWS):
        rows = slice(row, row + ROWS)
        for code in range(0, weight.shape[0], CODES):
            codes = slice(code, code + CODES)
            score, index = F.linear(h[rows], weight[codes], None if bias is None else bias[codes]).max(1)
            better = score > best[rows]
            best[rows] = torch.where(better, score, best[rows])
            indices[rows] = torch.where(better, index + code, indices[rows])
    return indices


def gumbel_noise(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise of uniform noise in [0, 1], finite at both ends."""
    return -(-uniform.clamp(1e-20, 1 - 1e-7).log()).log()


def by_rows(function: Callable[[Tensor], T], h: Tensor, size: int) -> Iterator[T]:
    """`function` of chunks of the rows of h [n, width], so few at once that [rows, size] stays within `LIMIT`."""
    rows = max(LIMIT // size, 1)
    if h.shape[0] <= rows:
        yield function(h)
        return

    def exact(part: Tensor) -> T:
        with full_precision(part.device):  # also in the backward pass, which computes it anew
            return function(part)

    for part in torch.split(h, rows):
        yield checkpoint(exact, part, use_reentrant=False)


def assignment_entropies(
    h: Tensor, codebook: Tensor, kind: Similarity, temperature: float, synced: bool
) -> tuple[Tensor, Tensor]:
    """Entropies in nats of p = softmax(similarity / temperature) of vectors [n, width] over codes [size, width]: the
    mean over vectors of H(p), and H of the mean over vectors of p.

    synced: over the vectors of all ranks, inside autograd. Without any vectors both are 0.
    """

    def sums(rows: Tensor) -> tuple[Tensor, Tensor]:
        log_p = torch.log_softmax(similarities(rows, codebook, kind) / temperature, 1)
        p = log_p.exp()
        return p.sum(0), -(p * log_p).sum()

    summed, sample = h.new_zeros(codebook.shape[0]), h.new_zeros(())
    for of_codes, of_rows in by_rows(sums, h, codebook.shape[0]):
        summed, sample = summed + of_codes, sample + of_rows
    return sample / mean_count(h.shape[0], h.device, synced), entropy(mean_assignment(summed, synced))


def mean_assignment(summed: Tensor, synced: bool) -> Tensor:
    """The mean assignment [size], from the sum of this rank's assignments."""
    if synced:
        summed = all_reduce_with_grad(summed)
    return summed / summed.detach().sum().clamp(min=1e-30)
