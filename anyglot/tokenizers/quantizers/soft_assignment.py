"""Soft assignments of vectors to all codes, softmax over similarities, without a big [vectors, codes] matrix.

Rows are taken in chunks; where there are several, each is computed anew in the backward pass instead of being kept.
"""

from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from anyglot.tokenizers.quantizers.distributed import all_reduce_with_grad, mean_count
from anyglot.tokenizers.quantizers.entropy import entropy

LIMIT = 2**22  # elements of a chunk [rows, codes]: 16 MiB

Similarity = Literal["distance", "dot"]
T = TypeVar("T")


def similarities(h: Tensor, codebook: Tensor, kind: Similarity) -> Tensor:
    """[n, size]: -|h - c|^2 ("distance") or h.c ("dot") of vectors [n, width] and codes [size, width]."""
    products = h @ codebook.t()
    if kind == "dot":
        return products
    return 2 * products - codebook.square().sum(1) - h.square().sum(1, keepdim=True)


def by_rows(function: Callable[[Tensor], T], h: Tensor, size: int) -> Iterator[T]:
    """`function` of chunks of the rows of h [n, width], so few at once that [rows, size] stays within `LIMIT`."""
    rows = max(LIMIT // size, 1)
    if h.shape[0] <= rows:
        yield function(h)
        return
    for part in torch.split(h, rows):
        yield checkpoint(function, part, use_reentrant=False)


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
