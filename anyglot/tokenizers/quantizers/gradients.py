"""How the gradient passes a choice of code vectors: as it is, or turned and scaled as the vectors were."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Gradient = Callable[[Tensor, Tensor], Tensor]

SMALLEST = 1e-6  # a vector shorter than this has no direction
OPPOSITE = 1e-3  # |e + q| of unit vectors that count as opposite: in fp32 the rotation is noise below


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, vectors: Tensor) -> Tensor:
        return vectors.view_as(vectors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return grads[0], grads[0]


def straight_through(z: Tensor, vectors: Tensor) -> Tensor:
    """`vectors`, exactly, with their gradient passed to `z` as well (Bengio et al. 2013, arXiv:1308.3432)."""
    out: Tensor = _StraightThrough.apply(z, vectors)
    return out


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, vectors: Tensor) -> Tensor:
        ctx.save_for_backward(z, vectors)
        return vectors.view_as(vectors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        z, vectors = ctx.saved_tensors
        lengths, wanted = z.norm(dim=-1, keepdim=True), vectors.norm(dim=-1, keepdim=True)
        e, q = z / lengths.clamp(min=SMALLEST), vectors / wanted.clamp(min=SMALLEST)
        between = (e + q).norm(dim=-1, keepdim=True)
        w = (e + q) / between.clamp(min=OPPOSITE)
        # The transpose of |q| / |e| (I - 2 w w' + 2 q e').
        turned = grads[0] - 2 * w * _dot(w, grads[0]) + 2 * e * _dot(q, grads[0])
        undefined = (lengths < SMALLEST) | (wanted < SMALLEST) | (between < OPPOSITE)
        return torch.where(undefined, grads[0], turned * (wanted / lengths.clamp(min=SMALLEST))), grads[0]


def rotate(z: Tensor, vectors: Tensor) -> Tensor:
    """`vectors` [n, width], exactly, as if `z` had been turned and scaled into them by constants.

    The gradient with respect to `z` is that of `vectors` turned back, times |vectors| / |z|, so that the angle between
    gradient and vector stays what it is at the code (the rotation trick, Fifty et al. 2024, arXiv:2410.06424).
    Straight-through where no rotation is defined: a zero vector on either side, opposite ones, and a width of 1.
    """
    if z.shape[-1] == 1:
        return straight_through(z, vectors)
    out: Tensor = _Rotation.apply(z, vectors)
    return out


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


GRADIENTS: dict[str, Gradient] = {"straight_through": straight_through, "rotation": rotate}
