"""Regularisers of codebook use, each against a slow obvious twin."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers import soft_assignment
from anyglot.tokenizers.quantizers.regularisers import KINDS, build, minimum_spanning_tree, spread_points
from anyglot.tokenizers.quantizers.transport import relaxed_transport

every_kind = pytest.mark.parametrize("kind", KINDS)


def batch(n: int = 60, size: int = 12, width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    h = torch.randn(n, width, requires_grad=True)
    codebook = torch.randn(size, width, requires_grad=True)
    return h, torch.cdist(h, codebook).argmin(1), codebook


def slow_entropies(h: Tensor, codebook: Tensor, similarity: str, temperature: float) -> tuple[Tensor, Tensor]:
    if similarity == "dot":
        logits = torch.stack([(h * c).sum(1) for c in codebook], 1)
    else:
        logits = -torch.stack([(h - c).square().sum(1) for c in codebook], 1)
    p = torch.softmax(logits / temperature, 1)
    return torch.special.entr(p).sum(1).mean(), torch.special.entr(p.mean(0)).sum()


@pytest.mark.parametrize("similarity", ["distance", "dot"])
@pytest.mark.parametrize("limit", [2**22, 30, 1])
def test_entropies_equal_the_full_softmax(monkeypatch: pytest.MonkeyPatch, similarity: str, limit: int) -> None:
    """Values and gradients, whole, in chunks of 2 rows, and row by row."""
    monkeypatch.setattr(soft_assignment, "LIMIT", limit)
    h, codes, codebook = batch()
    sample, mean = slow_entropies(h, codebook, similarity, 0.7)
    options = {"temperature": 0.7, "similarity": similarity}
    for config, expected in [
        ({"kind": "entropy", "diversity": 0.6, **options}, sample - 0.6 * mean),
        ({"kind": "prior", **options}, math.log(12) - mean),
    ]:
        found = build(config, "here")(h, codes, codebook)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        for one, other in zip(
            torch.autograd.grad(found, (h, codebook)),
            torch.autograd.grad(expected, (h, codebook), retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_entropy_of_a_big_codebook_never_makes_the_whole_matrix(largest_tensor: Callable[..., int]) -> None:
    h, codebook = torch.randn(1024, 8, requires_grad=True), torch.randn(2**16, 8, requires_grad=True)
    regulariser = build({"kind": "entropy"}, "here")
    assert largest_tensor(lambda: regulariser(h, None, codebook).backward()) <= soft_assignment.LIMIT


def test_prior_is_0_for_even_use_and_log_size_for_collapse() -> None:
    codebook = 10 * torch.eye(8)
    prior = build({"kind": "prior"}, "here")
    assert prior(codebook.repeat(3, 1), None, codebook).item() == pytest.approx(0, abs=1e-5)
    assert prior(codebook[:1].repeat(24, 1), None, codebook).item() == pytest.approx(math.log(8), rel=1e-5)


def test_transport_plan_has_its_marginals() -> None:
    """Rows exactly; columns as uniform as `uniformity` asks for."""
    cost = torch.cdist(torch.randn(40, 3), torch.randn(7, 3) + 1).square()
    spread = []
    for uniformity in (0.01, 0.1, 1.0, 10.0, 1e5):
        plan = relaxed_transport(cost, 0.1, uniformity, 500)
        torch.testing.assert_close(plan.sum(1), torch.full((40,), 1 / 40), atol=1e-7, rtol=1e-5)
        assert (plan >= 0).all()
        spread.append((plan.sum(0) - 1 / 7).abs().sum().item())
    assert spread == sorted(spread, reverse=True)
    assert spread[-1] < 1e-3 < 0.5 < spread[0]


def test_transport_equals_a_linear_program() -> None:
    """As the blur vanishes and uniformity binds, the plan's cost is that of exact optimal transport."""
    scipy = pytest.importorskip("scipy.optimize")
    cost = torch.cdist(torch.randn(20, 3), torch.randn(5, 3)).square()
    plan = relaxed_transport(cost, 0.01, 1e4, 5000)
    rows, columns = np.kron(np.eye(20), np.ones(5)), np.kron(np.ones(20), np.eye(5))
    exact = scipy.linprog(
        cost.flatten().numpy(), A_eq=np.vstack([rows, columns]), b_eq=np.r_[np.full(20, 1 / 20), np.full(5, 1 / 5)]
    )
    assert float((plan * cost).sum()) == pytest.approx(exact.fun, rel=2e-2)
    assert float((plan * cost).sum()) >= exact.fun * (1 - 1e-3)


def test_transport_of_far_and_equal_vectors_stays_finite() -> None:
    for cost in (torch.zeros(6, 4), torch.rand(6, 4) * 1e6, torch.tensor([[0.0, 1e8], [0.0, 1e8]])):
        plan = relaxed_transport(cost, 0.05, 0.05, 50)
        assert plan.isfinite().all()
        torch.testing.assert_close(plan.sum(1), torch.full((len(cost),), 1 / len(cost)))


def test_gradient_of_the_transport_is_that_of_its_optimum() -> None:
    """The envelope theorem, against finite differences of the whole objective in float64."""
    h, codebook = torch.randn(30, 2, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    blur, uniformity = 0.2, 0.7

    def objective(h: Tensor) -> float:
        cost = torch.cdist(h, codebook).square()
        plan = relaxed_transport(cost, blur, uniformity, 3000)
        weights = plan.sum(0)
        blurred = (plan * (plan * plan.numel()).log()).sum() - plan.sum() + 1
        return float((plan * cost).sum() + blur * blurred + uniformity * (weights * (weights * 6).log()).sum())

    moving = h.clone().requires_grad_()
    cost = torch.cdist(moving, codebook).square()
    (relaxed_transport(cost.detach(), blur, uniformity, 3000) * cost).sum().backward()
    assert moving.grad is not None
    for row, column in [(0, 0), (7, 1), (29, 0)]:
        step = torch.zeros_like(h)
        step[row, column] = 1e-5
        expected = (objective(h + step) - objective(h - step)) / 2e-5
        assert moving.grad[row, column].item() == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_wasserstein_moves_even_unused_codes_to_the_vectors() -> None:
    """Where no vector is nearest to a code, the codebook loss of VQ gives it no gradient; transport does."""
    h = torch.randn(64, 4)
    codebook = torch.cat([torch.randn(7, 4), torch.full((1, 4), 30.0)]).requires_grad_()
    codes = torch.cdist(h, codebook).argmin(1)
    assert 7 not in codes
    build({"kind": "wasserstein"}, "here")(h, codes, codebook).backward()
    assert codebook.grad is not None
    assert (codebook.grad[7] > 0).all()  # descent moves it towards 0, where the vectors are


@pytest.mark.parametrize("n", [3, 4, 30, 100])
def test_spanning_tree_equals_scipy(n: int) -> None:
    graph = pytest.importorskip("scipy.sparse.csgraph")
    points = torch.randn(n, 3)
    start, end = minimum_spanning_tree(points)
    found = (points[start] - points[end]).norm(dim=1).sort().values
    expected = graph.minimum_spanning_tree(torch.cdist(points.double(), points.double()).numpy()).data
    np.testing.assert_allclose(found.numpy(), np.sort(expected), rtol=1e-5)
    assert sorted({*start.tolist(), *end.tolist()}) == list(range(n))


def test_persistence_by_hand_and_by_finite_differences() -> None:
    on_a_line = torch.tensor([[0.0], [1.0], [3.0], [7.0]], dtype=torch.float64)  # edges 1, 2, 4
    persistence = build({"kind": "persistence"}, "here")
    share = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64) / 7
    expected = 1 - torch.special.entr(share).sum() / math.log(3)
    assert persistence(on_a_line, None, on_a_line).item() == pytest.approx(expected.item())
    even = torch.arange(9.0)[:, None]
    assert persistence(even, None, even).item() == pytest.approx(0, abs=1e-6)
    points = torch.randn(20, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: persistence(h, None, h), (points,))
    clumped = torch.cat([torch.randn(30, 3) * 0.01, torch.randn(30, 3) * 0.01 + 5])
    assert persistence(clumped, None, clumped) > persistence(torch.randn(60, 3), None, clumped)


@every_kind
def test_equal_and_missing_vectors_stay_finite(kind: str) -> None:
    """A batch that is all padding, one vector, and vectors that all coincide."""
    for n in (0, 1, 2, 40):
        h = torch.ones(n, 4, requires_grad=True)
        codebook = torch.randn(6, 4, requires_grad=True)
        term = build({"kind": kind}, "here")(h, torch.zeros(n, dtype=torch.int64), codebook)
        term.backward()
        assert term.ndim == 0
        assert term.isfinite()
        for tensor in (h, codebook):  # every parameter stays in the graph, as DistributedDataParallel demands
            assert tensor.grad is None or tensor.grad.isfinite().all()
        assert h.grad is not None


def test_points_are_spread_evenly_over_the_batch() -> None:
    h = torch.arange(100.0)[:, None]
    assert spread_points(h, 4, synced=False)[:, 0].tolist() == [0, 25, 50, 75]
    assert len(spread_points(h, 1000, synced=False)) == 100


@every_kind
def test_a_step_down_the_gradient_lowers_it(kind: str) -> None:
    h, codes, codebook = batch(200)
    regulariser = build({"kind": kind}, "here")
    before = regulariser(h, codes, codebook)
    of_h, of_codebook = torch.autograd.grad(before, (h, codebook), allow_unused=True)
    after = regulariser(h - 0.1 * of_h, codes, codebook if of_codebook is None else codebook - 0.1 * of_codebook)
    assert after < before


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, r"here\.kind: no regulariser None; valid: entropy, prior"),
        ({"kind": "entropi"}, "no regulariser 'entropi'"),
        ({"kind": "entropy", "temprature": 1.0}, "did you mean 'temperature'"),
        ({"kind": "entropy", "temperature": 0.0}, "temperature: must be above 0"),
        ({"kind": "entropy", "weight": 0.0}, "leave the regulariser out"),
        ({"kind": "entropy", "similarity": "cosine"}, "similarity"),
        ({"kind": "entropy", "diversity": -1.0}, "diversity"),
        ({"kind": "prior", "temperature": -1.0}, "temperature: must be above 0"),
        ({"kind": "wasserstein", "blur": 0.0}, "blur"),
        ({"kind": "wasserstein", "uniformity": 0.0}, "uniformity"),
        ({"kind": "wasserstein", "points": 0}, "points: must be 1 or more"),
        ({"kind": "wasserstein", "iterations": 0}, "iterations"),
        ({"kind": "persistence", "points": 2}, "points: must be 3 or more"),
    ],
)
def test_impossible_values_are_refused(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(mapping, "here")
