"""Entropic optimal transport by Sinkhorn iterations (Cuturi 2013), balanced or relaxed (Chizat et al. 2018)."""

import math

import torch
from torch import Tensor


@torch.no_grad()
def relaxed_transport(cost: Tensor, blur: float, uniformity: float, iterations: int) -> Tensor:
    """The plan [n, size] that moves n equal masses, 1 in all, to `size` places at a cost [n, size].

    It minimises <plan, cost> + blur KL(plan | uniform) + uniformity KL(sum over rows | uniform). So rows sum to 1 / n
    exactly, columns to whatever weights of the places are best; as `uniformity` grows, to 1 / size.
    """
    rows, columns = cost.shape
    scaled = cost.double() / blur
    # Subtracting potentials leaves a 0 in each row and each column, so that no sum below underflows to 0.
    scaled = scaled - scaled.min(1, keepdim=True).values
    start = scaled.min(0).values
    kernel = (start - scaled).exp() / (rows * columns)
    rigid = uniformity / (uniformity + blur)
    left = torch.ones(rows, dtype=torch.float64, device=cost.device)
    right = left.new_ones(columns)
    for _ in range(iterations):
        mass = (kernel.t() @ left * columns).clamp(min=1e-300)
        right = (-rigid * mass.log() - (1 - rigid) * start).exp()
        left = 1 / (kernel @ right * rows).clamp(min=1e-300)
    return (left[:, None] * kernel * right).to(cost.dtype)


@torch.no_grad()
def balanced_transport(cost: Tensor, blur: float, iterations: int, masses: Tensor | None = None) -> Tensor:
    """The plan float64 [n, size] that moves masses [n], 1 in all (default: equal), to `size` places of 1 / size each.

    It minimises <plan, cost> + blur KL(plan | uniform) by Sinkhorn iterations on logarithms, so that no blur is too
    small. Rows sum to their masses exactly, columns to 1 / size as far as the iterations got. The same on every run.
    """
    rows, columns = cost.shape
    logs = cost.new_full((rows,), -math.log(rows), dtype=torch.float64) if masses is None else masses.double().log()
    scaled = -cost.double() / blur
    left, right = scaled.new_zeros(rows), scaled.new_zeros(columns)
    for _ in range(iterations):
        right = -math.log(columns) - (scaled + left[:, None]).logsumexp(0)
        left = logs - (scaled + right).logsumexp(1)
    return (scaled + left[:, None] + right).exp()
