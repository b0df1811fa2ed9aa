"""Differentiable product quantizers: the pieces by hand, and what training must do."""

import pytest
import torch
from torch import Tensor

from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers.quantizers import build
from anyglot.tokenizers.quantizers.dopq import _DirectLoss, cayley
from anyglot.tokenizers.quantizers.hihpq import lorentz_distances, lorentz_mean, on_hyperboloid

DEEP = {"type": "deep_pq", "groups": 2, "size": 8, "width": 4, "hidden": 32, "epochs": 50, "lr": 5e-3}
DOPQ = {"type": "dopq", "groups": 2, "size": 8, "epochs": 50, "lr": 2e-2, "temperature": 0.1}
HIHPQ = {"type": "hihpq", "groups": 2, "size": 8, "width": 3, "prototypes": [16, 4]}
FITTED = {"deep_pq": DEEP, "dopq": DOPQ, "hihpq": HIHPQ}


def classes(count: int = 800, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Vectors whose class is in channels of little variance, where quantization error would drown it."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    signal = corners[labels] + 0.2 * torch.randn(count, 2, generator=generator)
    return torch.cat([1.5 * torch.randn(count, 6, generator=generator), signal], 1), labels


@pytest.mark.parametrize("name", ["deep_pq", "dopq"])
def test_supervised_codes_know_the_class(name: str) -> None:
    x, labels = classes()
    quantizer, plain = build(FITTED[name], 8), build({"type": "pq", "groups": 2, "size": 8}, 8)
    objective = quantizer.fit(x, labels)
    plain.fit(x)
    assert objective[-1] < objective[0]
    queries, truth = classes(300, seed=1)

    def precision(fitted: object) -> float:
        near = fitted.distances(queries, fitted.encode(x)).topk(20, largest=False).indices  # type: ignore[attr-defined]
        return float((labels[near] == truth[:, None]).float().mean())

    assert precision(quantizer) > precision(plain) + 0.2
    with pytest.raises(AnyglotError, match="needs the class of each vector"):
        build(FITTED[name], 8).fit(x)


@pytest.mark.parametrize("name", FITTED)
def test_the_same_vectors_give_the_same_quantizer(name: str) -> None:
    x, labels = classes(300)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(build(FITTED[name], 8))
        found[-1].fit(x, labels)
    for key, value in found[0].state_dict().items():
        assert torch.equal(value, found[1].state_dict()[key]), key


@pytest.mark.parametrize("name", ["deep_pq", "hihpq"])
def test_search_is_a_sum_of_look_ups_in_the_learned_space(name: str) -> None:
    x, labels = classes(300)
    quantizer = build(FITTED[name], 8)
    quantizer.fit(x, labels)
    queries, codes = classes(7, seed=1)[0], quantizer.encode(x)
    tables = quantizer.tables(queries)
    expected = tables[:, 0][:, codes[:, 0]] + tables[:, 1][:, codes[:, 1]]
    torch.testing.assert_close(quantizer.distances(queries, codes), expected)
    assert (expected >= 0).all()


def test_direct_loss_gradient_is_that_of_the_expected_loss() -> None:
    """Over Gumbel noise a choice is a softmax draw: the mean gradient of its loss is known exactly."""
    generator = torch.Generator().manual_seed(0)
    scores, books = torch.randn(1, 1, 5, generator=generator), torch.randn(1, 5, 2, generator=generator)
    direction = torch.randn(2, generator=generator)
    exact = scores.clone().requires_grad_()
    (expected,) = torch.autograd.grad((exact.softmax(2) @ (books @ direction)[0]).sum(), exact)
    draws = 40000
    many = scores.expand(1, draws, 5).clone().requires_grad_()
    noise = torch.empty(1, draws, 5).exponential_(generator=generator).log().neg()
    chosen = _DirectLoss.apply(many, books, noise, 0.3)
    (found,) = torch.autograd.grad((chosen @ direction).sum(), many)
    torch.testing.assert_close(found.mean(1, keepdim=True), expected, atol=0.03, rtol=0.1)


def test_direct_loss_gives_codebooks_their_own_gradient() -> None:
    scores = torch.tensor([[[0.0, 5.0], [4.0, 0.0], [0.0, 9.0]]])
    books = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], requires_grad=True)
    chosen = _DirectLoss.apply(scores.requires_grad_(), books, torch.zeros(1, 3, 2), 1.0)
    assert torch.equal(chosen, books[:, [1, 0, 1]])
    chosen.sum().backward()
    assert books.grad is not None
    assert books.grad.tolist() == [[[1.0, 1.0], [2.0, 2.0]]]


def test_cayley_is_orthogonal() -> None:
    rotation = cayley(torch.randn(6, 6))
    torch.testing.assert_close(rotation @ rotation.t(), torch.eye(6), atol=1e-5, rtol=0)
    assert torch.equal(cayley(torch.zeros(6, 6)), torch.eye(6))


def test_lorentz_geometry() -> None:
    tangents = torch.randn(20, 3)
    points = on_hyperboloid(tangents)
    torch.testing.assert_close(points[:, 0] ** 2 - points[:, 1:].square().sum(1), torch.ones(20), atol=1e-3, rtol=1e-3)
    origin = on_hyperboloid(torch.zeros(1, 3))
    # From the origin the geodesic distance is the tangent's length.
    expected = 2 * tangents.norm(dim=1).cosh() - 2
    torch.testing.assert_close(lorentz_distances(points, origin)[:, 0], expected, atol=1e-4, rtol=1e-4)
    assert lorentz_distances(points, points).diagonal().max() < 1e-2
    # Nothing on the hyperboloid is nearer to the points than their mean.
    mean = lorentz_mean(torch.full((1, 20), 1 / 20), points)
    least = lorentz_distances(mean, points).mean()
    for other in on_hyperboloid(mean[:, 1:] * 0 + torch.randn(200, 3) * 0.5):
        assert lorentz_distances(other[None], points).mean() > least - 1e-4


def test_the_far_away_stays_finite() -> None:
    x, _ = classes(300)
    quantizer = build(HIHPQ, 8)
    quantizer.fit(x)
    codes = quantizer.encode(x * 1e6)
    assert torch.isfinite(quantizer.distances(x * 1e6, codes)).all()


def test_dpq_chooses_by_keys_and_becomes_values() -> None:
    quantizer = build({"type": "dpq", "size": 3}, 2)
    quantizer.keys.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    quantizer.values.data = torch.tensor([[5.0, 5.0], [6.0, 6.0], [7.0, 7.0]])
    z = torch.tensor([[2.0, 1.0], [0.0, 3.0], [-1.0, 0.0]])
    result = quantizer(z)
    assert result.codes[:, 0].tolist() == [0, 1, 2]
    assert result.vectors.tolist() == [[5.0, 5.0], [6.0, 6.0], [7.0, 7.0]]


def test_dpq_gradient_is_that_of_the_softmax_whatever_the_unit() -> None:
    torch.manual_seed(0)
    quantizer = build({"type": "dpq", "size": 6, "temperature": 0.5}, 4)
    z, direction = torch.randn(9, 4, requires_grad=True), torch.randn(9, 4)
    (found,) = torch.autograd.grad((quantizer(z).vectors * direction).sum(), z)
    logits = z @ quantizer.keys.t()
    soft = (logits / (0.5 * logits.detach().std(1, keepdim=True))).softmax(1) @ quantizer.values
    (expected,) = torch.autograd.grad((soft * direction).sum(), z)
    torch.testing.assert_close(found, expected)
    small = (z.detach() * 1e-3).requires_grad_()
    (tiny,) = torch.autograd.grad((quantizer(small).vectors * direction).sum(), small)
    torch.testing.assert_close(tiny * 1e-3, found, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({**DEEP, "hidden": 0}, "hidden"),
        ({**DEEP, "even": -1.0}, "even"),
        ({**DOPQ, "groups": 3}, "groups that divide 8"),
        ({**DOPQ, "epsilon": 0.0}, "epsilon"),
        ({**HIHPQ, "width": 5}, "exceed the 8 channels"),
        ({**HIHPQ, "drop": 1.0}, "drop"),
        ({**HIHPQ, "prototypes": [4, 16]}, "finest first"),
        ({"type": "dpq", "size": 1}, "at least 2"),
        ({"type": "dpq", "size": 4, "temperature": 0.0}, "temperature"),
    ],
)
def test_refuses_impossible_values(mapping: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(mapping, 8, "here")
