"""The convex combination of codes that is nearest to a vector, differentiable through its solution.

    p = argmin |z - C^T p|^2 + ridge |p - nearest|^2  over the simplex      (SCQ, Gautam et al. 2023, arXiv:2310.03004)

with C [size, width] the codes and `nearest` one-hot for the nearest code. The ridge makes the solution unique and says
how hard it is: 0 the projection onto the convex hull of the codes, infinite the nearest code. For p = nearest the
objective is the error of the nearest code, so that of the combination is never larger.
"""

from typing import Any

import torch
from torch import Tensor


def convex_combination(z: Tensor, codes: Tensor, nearest: Tensor, ridge: float, iterations: int) -> Tensor:
    """Weights p [n, size] of codes [size, width] for vectors z [n, width] whose nearest codes are `nearest` [n].

    The gradient with respect to z and the codes is that of the optimum (implicit function theorem on its face).
    """
    p = solve(z.detach(), codes.detach(), nearest, ridge, iterations)
    pull = (z - p @ codes) @ codes.t()  # minus half the gradient of the first term at p, which is held fixed here
    weights: Tensor = _Implicit.apply(pull, p, codes.detach(), ridge)
    return weights


@torch.no_grad()
def solve(z: Tensor, codes: Tensor, nearest: Tensor, ridge: float, iterations: int) -> Tensor:
    """The weights, by accelerated projected gradient steps (FISTA); a vector that overshoots starts its run anew."""
    centre = codes.mean(0)  # weights sum to 1, so a common offset changes nothing but the condition
    codes, z = codes - centre, z - centre
    near = torch.zeros(z.shape[0], codes.shape[0], dtype=z.dtype, device=z.device).scatter_(1, nearest[:, None], 1.0)
    step = 1 / (torch.linalg.eigvalsh(codes.t() @ codes)[-1] + ridge)
    p, ahead = near, near
    momentum = torch.ones(z.shape[0], 1, dtype=z.dtype, device=z.device)
    for _ in range(iterations):
        gradient = (ahead @ codes - z) @ codes.t() + ridge * (ahead - near)
        new = project_to_simplex(ahead - step * gradient)
        overshot = ((ahead - new) * (new - p)).sum(1, keepdim=True) > 0
        following = torch.where(overshot, 1.0, (1 + (1 + 4 * momentum.square()).sqrt()) / 2)
        speed = torch.where(overshot, 0.0, (momentum - 1) / following)
        p, ahead, momentum = new, new + speed * (new - p), following

    def objective(weights: Tensor) -> Tensor:
        return (z - weights @ codes).square().sum(1) + ridge * (weights - near).square().sum(1)

    return torch.where((objective(p) <= objective(near))[:, None], p, near)  # too few iterations do no harm


def project_to_simplex(v: Tensor) -> Tensor:
    """The nearest points to v [n, size] with entries of 0 or more that sum to 1 (Held, Wolfe and Crowder 1974)."""
    ordered = v.sort(1, descending=True).values
    excess = ordered.cumsum(1) - 1
    count = torch.arange(1, v.shape[1] + 1, device=v.device)
    kept = (ordered * count > excess).sum(1, keepdim=True)
    return (v - excess.gather(1, kept - 1) / kept).clamp(min=0)


class _Implicit(torch.autograd.Function):
    """p, as a function of `pull`: on the face of its non-zero entries, dp = H^-1 dpull with entries that sum to 0."""

    @staticmethod
    def forward(ctx: Any, pull: Tensor, p: Tensor, codes: Tensor, ridge: float) -> Tensor:
        ctx.save_for_backward(p, codes)
        ctx.ridge = ridge
        return p.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        p, codes = ctx.saved_tensors
        return solve_on_face(grads[0], p > 0, codes, ctx.ridge), None, None, None


def solve_on_face(target: Tensor, face: Tensor, codes: Tensor, ridge: float) -> Tensor:
    """v [n, size] with (C C^T + ridge) v = target on the `face` bool [n, size], up to a constant; v sums to 0.

    By conjugate gradients: the matrix has at most width + 1 distinct eigenvalues, so that many steps are exact.
    """
    size = face.sum(1, keepdim=True)
    codes = codes - codes.mean(0)

    def on_face(v: Tensor) -> Tensor:
        v = v * face
        return (v - v.sum(1, keepdim=True) / size) * face

    left = on_face(target)
    v, direction, length = torch.zeros_like(left), left, left.square().sum(1, keepdim=True)
    solved = length * torch.finfo(left.dtype).eps ** 2  # beyond that only rounding errors are left, which would grow
    for _ in range(codes.shape[1] + 2):
        image = on_face((direction @ codes) @ codes.t()) + ridge * direction
        step = torch.where(length > solved, length / (direction * image).sum(1, keepdim=True), 0.0)
        v, left = v + step * direction, on_face(left - step * image)
        shorter = left.square().sum(1, keepdim=True)
        direction = left + torch.where(length > solved, shorter / length, 0.0) * direction
        length = shorter
    return v
