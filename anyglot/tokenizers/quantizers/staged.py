"""Codebooks learned stage by stage, each on what the stages before it left over."""

from collections.abc import Callable

import torch
from torch import Tensor

from anyglot.tokenizers.quantizers.beam import extend, follow
from anyglot.tokenizers.quantizers.kmeans import cluster_means
from anyglot.tokenizers.quantizers.rotation import eigenvalue_allocation, pca
from anyglot.tokenizers.quantizers.search import nearest

Stage = Callable[[Tensor], Tensor]  # residuals [n, d] -> codebooks [c, K, d] of one stage
POINTS_PER_CODE = 256  # residuals that one codebook learns from, at most
SPLIT = 1e-3  # how far apart, of its length, a centre and the copy of it start


def staged(x: Tensor, stages: int, stage: Stage, beam: int, after: Callable[[float], None]) -> Tensor:
    """Codebooks [stages * c, K, d] for vectors [n, d]; a stage learns from the residuals of every path of the beam.

    after: called with the mean squared error (of the best paths) after each stage.
    """
    left = x[:, None]
    found = []
    for _ in range(stages):
        found.append(stage(left.reshape(-1, x.shape[1])))
        for codebook in found[-1]:
            left = follow(left, codebook, *extend(left, codebook, beam))
        after(float(left.square().sum(2).amin(1).mean()))
    return torch.cat(found)


def lloyd(x: Tensor, centres: Tensor, iterations: int) -> Tensor:
    """k-means from given centres [K, d]; an empty cluster takes half of a largest one (moving it to an outlier, as
    `kmeans` does, leaves less entropy and more error on new residuals)."""
    for _ in range(iterations):
        codes, _ = nearest(x, centres)
        centres, counts = cluster_means(x, codes, centres)
        empty = (counts == 0).nonzero()[:, 0]
        if len(empty):
            largest = counts.topk(len(empty)).indices
            centres[empty] = centres[largest] * (1 + SPLIT)
            centres[largest] *= 1 - SPLIT
    return centres


def spread_rows(x: Tensor, count: int) -> Tensor:
    """`count` rows of [n, d] in random order, all of them if there are fewer; the same for the same x."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:count]
    return x[order.to(x.device)]


def clusters(x: Tensor, size: int, iterations: int) -> Tensor:
    """Centres [size, d] of k-means from random vectors. Seeds far apart, as of `kmeans`, are outliers among residuals
    in many dimensions, and ended with up to 10 % more error on new vectors."""
    return lloyd(x, spread_rows(x, size), iterations)


def kmeans_stage(size: int, iterations: int) -> Stage:
    """Plain k-means (Chen et al. 2010)."""

    def stage(residuals: Tensor) -> Tensor:
        return clusters(spread_rows(residuals, size * POINTS_PER_CODE), size, iterations)[None]

    return stage


def transition(x: Tensor, centres: Tensor, iterations: int, first: int = 2, steps: int = 6) -> Tensor:
    """k-means in the first few principal axes, then in more and more of them, each from the centres of the one before.

    In few dimensions clusters come out of even size, and stay so as the others join: codebooks of high entropy
    (Liu et al. 2015, arXiv:1509.05195; 2016, arXiv:1609.05345).
    """
    mean, basis = pca(x)
    dim = x.shape[1]
    rotated, centres = (x - mean) @ basis, (centres - mean) @ basis
    first = min(first, dim)
    for step in range(steps):
        width = round(first * (dim / first) ** (step / (steps - 1)))
        part = lloyd(rotated[:, :width].contiguous(), centres[:, :width].contiguous(), iterations)
        # Channels that have not joined yet follow the clusters: their means.
        codes = nearest(rotated[:, :width], part)[0]
        centres = cluster_means(rotated, codes, torch.cat([part, centres[:, width:]], 1))[0]
    return centres @ basis.t() + mean


def subspace_stage(size: int, iterations: int) -> Stage:
    """IRVQ: k-means warm-started from subspaces that grow, see `transition`."""

    def stage(residuals: Tensor) -> Tensor:
        sample = spread_rows(residuals, size * POINTS_PER_CODE)
        return transition(sample, sample[:size], iterations)[None]

    return stage


def projected_stage(size: int, iterations: int, width: int) -> Stage:
    """PRVQ: k-means in the first `width` principal axes of the residuals (Wei et al. 2014).

    Code vectors lie in that subspace, so what it leaves out stays in the next stage's residual, and the nearest code
    is the same whether it is sought inside the subspace or in full width.
    """

    def stage(residuals: Tensor) -> Tensor:
        sample = spread_rows(residuals, size * POINTS_PER_CODE)
        mean, basis = pca(sample)
        basis = basis[:, :width].contiguous()
        projected = (sample - mean) @ basis
        return (clusters(projected, size, iterations) @ basis.t() + mean)[None]

    return stage


def lifted(parts: list[Tensor], rotation: Tensor) -> Tensor:
    """Codebooks [c, K, d] from those of c contiguous blocks of the channels of `x @ rotation`, each [K, d / c]."""
    size, width = parts[0].shape
    codebooks = parts[0].new_zeros(len(parts), size, len(parts) * width)
    for i, part in enumerate(parts):
        codebooks[i, :, i * width : (i + 1) * width] = part
    return codebooks @ rotation.t()


def parametric_stage(size: int, iterations: int, groups: int) -> Stage:
    """RVQ-P: a product quantizer of `groups` blocks, in the rotation that is best if residuals are Gaussian."""

    def stage(residuals: Tensor) -> Tensor:
        sample = spread_rows(residuals, size * POINTS_PER_CODE)
        rotation = eigenvalue_allocation(sample, groups)
        blocks = (sample @ rotation).chunk(groups, 1)
        return lifted([clusters(block.contiguous(), size, iterations) for block in blocks], rotation)

    return stage
