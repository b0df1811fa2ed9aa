"""A residual quantizer of rotated product stages whose one rotation is learned in turn with its codebooks (RVQ-NP)."""

from collections.abc import Callable

import torch
from torch import Tensor

from anyglot.tokenizers.quantizers.beam import greedy_encode, sum_of
from anyglot.tokenizers.quantizers.rotation import eigenvalue_allocation, procrustes
from anyglot.tokenizers.quantizers.staged import lifted, lloyd, spread_rows


def alternate(
    x: Tensor, stages: int, groups: int, size: int, iterations: int, after: Callable[[float], None]
) -> Tensor:
    """Codebooks [stages * groups, K, d] for vectors [n, d].

    In turn: one step of k-means for every block of every stage, on what the stages before leave over in the rotated
    space; then the rotation that brings the vectors nearest to what they are decoded to (Guo et al. 2016, Parametric
    and nonparametric residual vector quantization optimizations). after: called with each iteration's
    error; the codebooks of the least are returned.
    """
    rotation = eigenvalue_allocation(x, groups)
    width = x.shape[1] // groups
    blocks: list[list[Tensor]] = []
    best, error = None, float("inf")
    for iteration in range(iterations):
        left = x @ rotation
        decoded = torch.zeros_like(left)
        for stage in range(stages):
            if iteration == 0:
                blocks.append([block[:size].clone() for block in spread_rows(left, size).chunk(groups, 1)])
            fitted = [
                lloyd(b.contiguous(), c, 4 if iteration == 0 else 1)
                for b, c in zip(left.chunk(groups, 1), blocks[stage], strict=True)
            ]
            blocks[stage] = fitted
            codebooks = lifted(fitted, torch.eye(groups * width, device=x.device))
            found = sum_of(codebooks, greedy_encode(left, codebooks))
            decoded, left = decoded + found, left - found
        now = float(left.square().sum(1).mean())
        if now < error:
            best, error = torch.cat([lifted(parts, rotation) for parts in blocks]), now
        after(now)
        rotation = procrustes(x, decoded)
    assert best is not None
    return best
