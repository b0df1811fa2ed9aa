"""Orthogonal maps of vectors, fitted in closed form: principal axes, alignment, and balanced groups of axes."""

import torch
from torch import Tensor

from anyglot.errors import AnyglotError


def pca(x: Tensor) -> tuple[Tensor, Tensor]:
    """Principal axes of vectors [n, d].

    Returns the mean [d] and an orthogonal basis [d, d] whose columns are the axes, of falling variance:
    `(x - mean) @ basis` are uncorrelated, `components @ basis.t() + mean` leads back.
    """
    mean = x.mean(0)
    centred = (x - mean).double()
    axes = torch.linalg.eigh(centred.t() @ centred).eigenvectors.flip(1)
    return mean, axes.to(x.dtype)


def procrustes(x: Tensor, y: Tensor) -> Tensor:
    """The orthogonal R [d, d] with the least |x R - y|^2 over vectors x and y [n, d] (Schonemann 1966)."""
    u, _, v = torch.linalg.svd(x.double().t() @ y.double())
    return (u @ v).to(x.dtype)


def eigenvalue_allocation(x: Tensor, groups: int) -> Tensor:
    """An orthogonal R [d, d] such that the `groups` equal blocks of columns of `x @ R` have about equal generalised
    variance, and uncorrelated channels: the best rotation for a product quantizer of Gaussian vectors [n, d].

    Principal axes go, largest first, to the block with the smallest product of variances that still has room
    (Ge et al. 2013, Optimized Product Quantization). Raises AnyglotError if groups do not divide d.
    """
    dim = x.shape[1]
    if dim % groups:
        raise AnyglotError(f"{groups} groups must divide the width of the vectors, {dim}")
    mean, basis = pca(x)
    variances = ((x - mean) @ basis).double().square().mean(0)
    logs = variances.clamp(min=float(variances.max()) * 1e-12 + 1e-300).log().tolist()
    scale = min(logs)  # keeps every logarithm positive: a block with more axes must never look smaller
    blocks: list[list[int]] = [[] for _ in range(groups)]
    for axis in range(dim):
        open_blocks = [block for block in blocks if len(block) < dim // groups]
        min(open_blocks, key=lambda block: sum(logs[i] - scale for i in block)).append(axis)
    return basis[:, [axis for block in blocks for axis in block]].contiguous()
