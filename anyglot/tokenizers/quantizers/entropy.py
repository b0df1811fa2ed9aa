"""Entropy of soft assignments to all sign vectors {-1, 1}^bits, exactly, without a [vectors, 2^bits] matrix.

The softmax of -|h - c|^2 / t over all c is a product of one Bernoulli per bit. So the entropy of one vector's
assignment is a sum over bits; and the mean assignment over vectors is the product of two half-code matrices,
P = A^T B / n with A, B [n, 2^(bits / 2)]. (The entropy of P is less than the sum over bits wherever bits correlate.)
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from anyglot.tokenizers.quantizers.distributed import all_reduce_with_grad

MAX_BITS = 24  # P has 2^bits elements


def code_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats [n] of each vector's assignment; `logits` [n, bits] are the log-odds of each bit."""
    of_one = torch.sigmoid(logits) * F.logsigmoid(logits)
    return -(of_one + torch.sigmoid(-logits) * F.logsigmoid(-logits)).sum(1)


def mean_assignment(logits: Tensor, count: float, synced: bool) -> Tensor:
    """Mean soft assignment over vectors, [2^bits // 2^half, 2^half], little-endian; log-odds `logits` [n, bits].

    count: vectors per rank (their mean). synced: sum over ranks, inside autograd.
    """
    half = logits.shape[1] // 2
    low, high = half_assignment(logits[:, :half]), half_assignment(logits[:, half:])
    summed = high.t() @ low
    if not synced:
        return summed / count
    summed = all_reduce_with_grad(summed)
    return summed / summed.detach().sum().clamp(min=1e-30)


def half_assignment(logits: Tensor) -> Tensor:
    """Soft assignment [n, 2^bits] to all sign vectors of few bits, from log-odds `logits` [n, bits]."""
    codes = torch.arange(2 ** logits.shape[1], device=logits.device)
    bits = codes[:, None] >> torch.arange(logits.shape[1], device=logits.device) & 1
    return torch.softmax(logits @ bits.t().to(logits.dtype), dim=1)


def entropy(distribution: Tensor) -> Tensor:
    """Entropy in nats of a distribution of any shape, with a finite gradient where it is 0."""
    return -(distribution * distribution.clamp(min=1e-30).log()).sum()
