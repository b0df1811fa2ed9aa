"""HyperVQ against a twin in the Poincare ball, in float64."""

import math

import pytest
import torch
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers import build
from anyglot.tokenizers.quantizers.hyperbolic import FARTHEST, HyperbolicQuantizer


def hyperbolic(size: int, dim: int, **options: object) -> HyperbolicQuantizer:
    quantizer = build({"type": "hyperbolic", "size": size, **options}, dim)
    assert isinstance(quantizer, HyperbolicQuantizer)
    with torch.no_grad():
        quantizer.offsets.uniform_(-1, 1)
    return quantizer


def into_ball(h: Tensor, c: float) -> Tensor:
    """The exponential map at the origin."""
    length = h.norm(dim=-1, keepdim=True)
    return torch.tanh(c**0.5 * length) * h / (c**0.5 * length)


def slow_logits(quantizer: HyperbolicQuantizer, h: Tensor, c: float) -> Tensor:
    """Vector by vector and class by class, with points x in the ball and the conformal factor (arXiv:2006.08210)."""
    found = torch.zeros(len(h), quantizer.levels[0], dtype=torch.float64)
    for i, x in enumerate(into_ball(h.double(), c)):
        factor = 2 / (1 - c * x.dot(x))
        for k in range(quantizer.levels[0]):
            z, r = quantizer.normals[k].detach().double(), float(quantizer.offsets[k].detach())
            inner = factor * c**0.5 * x.dot(z / z.norm()) * math.cosh(2 * c**0.5 * r)
            inner -= (factor - 1) * math.sinh(2 * c**0.5 * r)
            found[i, k] = 2 / c**0.5 * z.norm() * torch.asinh(inner)
    return found


@pytest.mark.parametrize("c", [0.3, 1.0, 2.5])
def test_logits_equal_the_twin_in_the_ball(c: float) -> None:
    quantizer = hyperbolic(7, 3, curvature=c)
    h = torch.randn(40, 3)
    expected = slow_logits(quantizer, h, c)
    torch.testing.assert_close(quantizer.logits(h).double(), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(quantizer.encode(h)[:, 0], expected.argmax(1))


def distance(x: Tensor, y: Tensor, c: float) -> Tensor:
    """In the ball of curvature -c."""
    inside = 2 * c * (x - y).square().sum(-1) / ((1 - c * x.square().sum(-1)) * (1 - c * y.square().sum(-1)))
    return torch.acosh(1 + inside) / c**0.5


def test_a_code_vector_is_the_point_of_its_hyperplane_nearest_to_the_origin() -> None:
    quantizer = hyperbolic(5, 2)
    points = quantizer.points().detach()
    assert torch.equal(points, quantizer.lookup(torch.arange(5)[:, None]).detach())
    assert quantizer.logits(points).diagonal().abs().max() < 1e-5
    torch.testing.assert_close(points.norm(dim=1), quantizer.offsets.abs().detach())
    near = points[:, None] + 0.3 * torch.randn(5, 4000, 2)
    for k in range(5):
        on_plane = near[k][quantizer.logits(near[k])[:, k].abs() < 0.01]
        assert len(on_plane) > 5
        assert on_plane.norm(dim=1).min() > points[k].norm() - 0.01


def test_logit_is_the_distance_to_the_hyperplane_times_twice_the_steepness() -> None:
    """Sampled: the nearest of many points of the hyperplane of class 0."""
    quantizer = hyperbolic(2, 2)
    with torch.no_grad():
        quantizer.normals.copy_(torch.tensor([[1.5, 0.0], [0.0, 1.0]]))
        quantizer.offsets.copy_(torch.tensor([0.0, 0.5]))
    h = torch.tensor([[0.4, 0.3]])
    plane = into_ball(torch.stack([torch.zeros(20001), torch.linspace(-2, 2, 20001)], 1).double(), 1.0).nan_to_num()
    nearest = distance(into_ball(h.double(), 1.0), plane, 1.0).min()
    assert quantizer.logits(h)[0, 0].item() == pytest.approx(2 * 1.5 * nearest.item(), rel=1e-3)


def test_far_vectors_stay_finite() -> None:
    quantizer = hyperbolic(8, 3)
    for scale in (0.0, 1e-20, 1e3, 1e15):
        z = (torch.randn(20, 3) * scale).requires_grad_()
        result = quantizer(z)
        (gradient,) = torch.autograd.grad(result.vectors.sum(), z)
        assert gradient.isfinite().all()
        assert quantizer.logits(quantizer.bound(z)).isfinite().all()
        assert quantizer.bound(z).norm(dim=1).max() <= FARTHEST * 1.001


def test_samples_follow_the_softmax_of_the_logits() -> None:
    quantizer = hyperbolic(4, 2)
    z = torch.tensor([[0.5, -0.2]])
    drawn = quantizer(z.expand(40000, 2)).codes[:, 0]
    expected = torch.softmax(quantizer.logits(z), 1)[0].detach()
    torch.testing.assert_close(torch.bincount(drawn, minlength=4) / 40000, expected, atol=0.01, rtol=0)
    assert (quantizer.eval()(z.expand(10, 2)).codes == expected.argmax()).all()


def test_gradient_reaches_all_classes() -> None:
    quantizer = hyperbolic(6, 3)
    quantizer(torch.randn(1, 3)).vectors.square().sum().backward()
    assert (quantizer.normals.grad.abs().sum(1) > 0).all()
    assert (quantizer.offsets.grad != 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 1}, "size"),
        ({"width": -1}, "width"),
        ({"curvature": 0.0}, "curvature"),
        ({"temperature": 0.0}, "temp"),
    ],
)
def test_impossible_values_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"type": "hyperbolic", "size": 8, **options}, 4, "here")
