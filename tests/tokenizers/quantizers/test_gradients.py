"""How gradients pass: hand numbers, what a rotation promises, and where there is none."""

import math

import pytest
import torch
from torch import Tensor

from anyglot.tokenizers.quantizers.gradients import OPPOSITE, rotate, straight_through


def jacobian(z: Tensor, code: Tensor) -> Tensor:
    """d rotate(z, code) / dz [width, width], of one vector."""
    found: Tensor = torch.autograd.functional.jacobian(lambda z: rotate(z[None], code[None])[0], z)
    return found


def slow_map(z: Tensor, code: Tensor) -> Tensor:
    """|c| / |z| (I - 2 w w' + 2 q e') in float64."""
    z, code = z.double(), code.double()
    e, q = z / z.norm(), code / code.norm()
    w = (e + q) / (e + q).norm()
    return code.norm() / z.norm() * (torch.eye(len(z)).double() - 2 * torch.outer(w, w) + 2 * torch.outer(q, e))


def test_straight_through_is_the_code_and_passes_the_gradient_to_both() -> None:
    z, code = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    out = straight_through(z, code)
    assert torch.equal(out, code)
    direction = torch.randn(4, 3)
    for gradient in torch.autograd.grad((out * direction).sum(), [z, code]):
        assert torch.equal(gradient, direction)


def test_rotation_by_hand() -> None:
    """(1, 0) becomes (0, 2): a quarter turn and twice the length."""
    z = torch.tensor([[1.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad((rotate(z, torch.tensor([[0.0, 2.0]])) * torch.tensor([3.0, 1.0])).sum(), z)
    torch.testing.assert_close(gradient, torch.tensor([[2.0, -6.0]]))


@pytest.mark.parametrize("width", [2, 3, 16])
def test_rotation_is_the_code_exactly_and_its_map_takes_the_vector_there(width: int) -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        z, code = torch.randn(width, generator=generator), 3 * torch.randn(width, generator=generator)
        assert torch.equal(rotate(z[None], code[None])[0], code)
        map = slow_map(z, code)
        torch.testing.assert_close((map @ z.double()).float(), code)
        torch.testing.assert_close(jacobian(z, code), map.float(), atol=1e-4, rtol=1e-4)
        turn = map * z.double().norm() / code.double().norm()
        torch.testing.assert_close(turn @ turn.t(), torch.eye(width).double())


def test_rotation_keeps_the_angle_between_gradient_and_vector() -> None:
    z, code, at_code = torch.randn(50, 6, requires_grad=True), torch.randn(50, 6), torch.randn(50, 6)
    (at_z,) = torch.autograd.grad((rotate(z, code) * at_code).sum(), z)
    torch.testing.assert_close(
        torch.cosine_similarity(at_z, z.detach()), torch.cosine_similarity(at_code, code), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(at_z.norm(dim=1), at_code.norm(dim=1) * code.norm(dim=1) / z.detach().norm(dim=1))


@pytest.mark.parametrize(
    ("z", "code"),
    [
        ([0.0, 0.0], [1.0, 2.0]),
        ([1.0, 2.0], [0.0, 0.0]),
        ([1.0, 2.0], [-2.0, -4.0]),
        ([1e-30, 0.0], [1.0, 0.0]),
        ([2.0], [5.0]),
        ([2.0], [-5.0]),
    ],
)
def test_rotation_is_straight_through_where_there_is_none(z: list[float], code: list[float]) -> None:
    width = len(z)
    assert torch.equal(jacobian(torch.tensor(z), torch.tensor(code)), torch.eye(width))


def test_rotation_next_to_opposite_is_finite_and_orthogonal() -> None:
    for angle in (2 * OPPOSITE, 0.01, 0.1):
        code = torch.tensor([-math.cos(angle), math.sin(angle)])
        found = jacobian(torch.tensor([1.0, 0.0]), code)
        torch.testing.assert_close(found @ found.t(), torch.eye(2), atol=1e-3, rtol=1e-3)


def test_rotation_passes_the_gradient_to_the_code_too() -> None:
    """A projection behind a residual stack's levels is trained through it."""
    code = torch.randn(4, 3, requires_grad=True)
    direction = torch.randn(4, 3)
    (gradient,) = torch.autograd.grad((rotate(torch.randn(4, 3), code) * direction).sum(), code)
    assert torch.equal(gradient, direction)
