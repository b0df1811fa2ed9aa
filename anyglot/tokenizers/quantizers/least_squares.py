"""The codebooks that fit given codes best, where code vectors add up: linear least squares.

With B the 0/1 matrix that says which codes make up which vector, the codebooks minimise |X - B C|^2. B is never made:
B^T B holds how often two codes occur together and B^T X sums of vectors (LSQ++: Martinez et al. 2018, ECCV).
"""

import torch
from torch import Tensor

PURSUITS = 4  # rounds of choosing which entries of sparse codebooks are not 0
CG_STEPS = 15


def pair_counts(codes: Tensor, size: int) -> Tensor:
    """B^T B: how often each two of the m * size codes occur in one vector, float64 [m * size, m * size]."""
    levels = codes.shape[1]
    counts = torch.zeros(levels, size, levels, size, dtype=torch.float64, device=codes.device)
    for i in range(levels):
        for j in range(i, levels):
            together = torch.bincount(codes[:, i] * size + codes[:, j], minlength=size * size).reshape(size, size)
            counts[i, :, j] = together
            counts[j, :, i] = together.t()
    return counts.reshape(levels * size, levels * size)


def code_sums(codes: Tensor, vectors: Tensor, size: int) -> Tensor:
    """B^T X: the sum of the vectors [n, width] in which each code occurs, float64 [m * size, width]."""
    levels, width = codes.shape[1], vectors.shape[1]
    sums = torch.zeros(levels * size, width, dtype=torch.float64, device=vectors.device)
    for level in range(levels):
        sums.index_add_(0, codes[:, level] + level * size, vectors.double())
    return sums


def solve(counts: Tensor, sums: Tensor, codebooks: Tensor, ridge: float) -> Tensor:
    """Codebooks [m, K, width] that minimise |X - B C|^2 + ridge |C - codebooks|^2, with B^T B and B^T X given.

    The ridge makes them unique (adding a vector to one codebook and taking it from another changes nothing, and a
    code may not occur at all) and never raises |X - B C|^2, since it pulls towards the codebooks there were.
    """
    before = codebooks.reshape(sums.shape).double()
    system = counts.clone()
    system.diagonal().add_(ridge)
    change = torch.cholesky_solve(sums - counts @ before, torch.linalg.cholesky(system))
    return (before + change).to(codebooks.dtype).reshape(codebooks.shape)


def solve_sparse(counts: Tensor, sums: Tensor, codebooks: Tensor, ridge: float, density: float) -> Tensor:
    """As `solve`, with at most this share of the codebooks' entries other than 0.

    Hard thresholding pursuit (Foucart 2011): a gradient step from what there is, keep the entries whose loss would
    cost most, fit those alone, and again. It starts from `codebooks`, cut down, or from the dense solution.
    """
    before = codebooks.reshape(sums.shape).double()
    kept = max(1, int(density * before.numel()))
    system = counts.clone()
    system.diagonal().add_(ridge)
    wanted = sums + ridge * before
    weight = system.diagonal()[:, None]  # what an entry's square adds to the objective
    found = solve(counts, sums, codebooks, ridge).reshape(sums.shape).double()
    for _ in range(PURSUITS):
        mask = torch.zeros_like(found).view(-1)
        mask[(found.square() * weight).view(-1).topk(kept).indices] = 1
        mask = mask.view(found.shape)
        found = _solve_masked(system, wanted, found * mask, mask)
        sparse = found
        found = found + (wanted - system @ found) / (weight * codebooks.shape[0])
    return sparse.to(codebooks.dtype).reshape(codebooks.shape)


def _solve_masked(system: Tensor, wanted: Tensor, start: Tensor, mask: Tensor) -> Tensor:
    """Conjugate gradients for each column of system @ x = wanted on its own entries where mask is 1."""
    found = start
    left = (wanted - system @ found) * mask
    direction = left / system.diagonal()[:, None]
    length = (left * direction).sum(0)
    for _ in range(CG_STEPS):
        image = (system @ direction) * mask
        step = length / (direction * image).sum(0).clamp(min=1e-30)
        found, left = found + step * direction, left - step * image
        scaled = left / system.diagonal()[:, None]
        new = (left * scaled).sum(0)
        direction, length = scaled + new / length.clamp(min=1e-30) * direction, new
    return found
