"""Entropy of soft assignments to all sign vectors {-1, 1}^bits, exactly, without a [vectors, 2^bits] matrix.

The softmax of -|z - c|^2 / t over all c is a product of one Bernoulli per bit. So the entropy of one vector's
assignment is a sum over bits; and the mean assignment over vectors is the product of two half-code matrices,
P = A^T B / n with A, B [n, 2^(bits / 2)]. (The entropy of P is less than the sum over bits wherever bits correlate.)
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from anyglot.tokenizers.quantizers.distributed import all_reduce_with_grad

MAX_BITS = 24  # P has 2^bits elements
ROWS = 1024  # vectors whose half-code assignments exist at once


def code_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats [n] of each vector's assignment; `logits` [n, bits] are the log-odds of each bit."""
    of_one = torch.sigmoid(logits) * F.logsigmoid(logits)
    return -(of_one + torch.sigmoid(-logits) * F.logsigmoid(-logits)).sum(1)


def batch_entropy(logits: Tensor, groups: int, count: float, synced: bool) -> Tensor:
    """Entropy in nats of the mean assignment over vectors, a scalar; `logits` [n, bits] are the log-odds of each bit.

    groups: 1 is exact. More cut the bits into as many groups whose entropies are added: an upper bound, which takes
    groups for independent. count, synced: see `mean_assignment`.
    """
    parts = logits.tensor_split(groups, dim=1)
    return torch.stack([entropy(mean_assignment(part, count, synced)) for part in parts]).sum()


def mean_assignment(logits: Tensor, count: float, synced: bool) -> Tensor:
    """Mean soft assignment over vectors, [2^bits // 2^half, 2^half], little-endian; log-odds `logits` [n, bits].

    count: vectors per rank (their mean). synced: sum over ranks, inside autograd.
    """
    summed: Tensor = _SummedAssignment.apply(logits)
    if not synced:
        return summed / count
    summed = all_reduce_with_grad(summed)
    return summed / summed.detach().sum().clamp(min=1e-30)


class _SummedAssignment(torch.autograd.Function):
    """A^T B from log-odds [n, bits], by tiles of vectors; the backward pass makes A and B again."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        ctx.save_for_backward(logits)
        half = logits.shape[1] // 2
        summed = logits.new_zeros(2 ** (logits.shape[1] - half), 2**half)
        for tile in torch.split(logits, ROWS):
            chance = torch.sigmoid(tile)
            summed.addmm_(half_assignment(chance[:, half:]).t(), half_assignment(chance[:, :half]))
        return summed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (logits,) = ctx.saved_tensors
        half = logits.shape[1] // 2
        found = []
        for tile in torch.split(logits, ROWS):
            chance = torch.sigmoid(tile)
            low, high = half_assignment(chance[:, :half]), half_assignment(chance[:, half:])
            found.append(_to_logits(low, high @ grads[0], chance[:, :half]))
            found.append(_to_logits(high, low @ grads[0].t(), chance[:, half:]))
        low_parts, high_parts = torch.cat(found[::2]), torch.cat(found[1::2])
        return torch.cat([low_parts, high_parts], 1)


def half_assignment(chance: Tensor) -> Tensor:
    """Soft assignment [n, 2^bits] to all sign vectors of few bits, from the chance [n, bits] that each bit is 1."""
    joint = chance.new_ones(len(chance), 1)
    for bit in (chance[:, i : i + 1] for i in range(chance.shape[1])):
        joint = torch.cat([joint * (1 - bit), joint * bit], 1)
    # What is smaller adds nothing to a sum, but its products are subnormal: those slow a matrix product a hundredfold.
    return F.threshold(joint, torch.finfo(joint.dtype).tiny ** 0.5, 0.0)


def _to_logits(assignment: Tensor, gradient: Tensor, chance: Tensor) -> Tensor:
    """Gradient [n, bits] at the log-odds, of that [n, 2^bits] at an assignment: d p_k / d x_i = p_k (bit_ki - s_i)."""
    codes = torch.arange(assignment.shape[1], device=chance.device)
    bits = (codes[:, None] >> torch.arange(chance.shape[1], device=chance.device) & 1).to(chance)
    weighted = assignment * gradient
    return weighted @ bits - chance * weighted.sum(1, keepdim=True)


def entropy(distribution: Tensor) -> Tensor:
    """Entropy in nats of a distribution of any shape, with a finite gradient where it is 0."""
    return -(distribution * distribution.clamp(min=1e-30).log()).sum()
