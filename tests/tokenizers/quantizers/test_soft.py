"""Soft quantization: its mathematics against slow obvious twins, annealing, and what training and evaluation share."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers import build, soft_assignment
from anyglot.tokenizers.quantizers.annealing import Annealed
from anyglot.tokenizers.quantizers.convex import convex_combination, project_to_simplex, solve
from anyglot.tokenizers.quantizers.soft_assignment import gumbel_noise, most_similar
from tests.tokenizers.quantizers.cases.soft import CONFIGS


def make(size: int = 10, width: int = 4, **options: Any) -> Any:
    return build({"type": "soft", "size": size, "kmeans_init": False, **options}, width)


def assignment(z: Tensor, codebook: Tensor, temperature: float, similarity: str = "distance") -> Tensor:
    distance = torch.stack([(z - c).square().sum(1) for c in codebook], 1)
    logits = z @ codebook.t() if similarity == "dot" else -distance
    return torch.softmax(logits / temperature, 1)


# Mixtures.


@pytest.mark.parametrize("similarity", ["distance", "dot"])
@pytest.mark.parametrize("limit", [2**22, 25, 1])
def test_softmax_mixture_and_rate_by_hand(monkeypatch: pytest.MonkeyPatch, similarity: str, limit: int) -> None:
    """Values and gradients, whole, in chunks of 2 rows, and row by row."""
    monkeypatch.setattr(soft_assignment, "LIMIT", limit)
    quantizer = make(temperature=0.7, similarity=similarity, rate=0.1, divergence=0.2)
    z = torch.randn(30, 4, requires_grad=True)
    result = quantizer(z)
    codes = quantizer.codebook.weight
    p = assignment(z, codes, 0.7, similarity)
    torch.testing.assert_close(result.vectors, p @ codes)
    each, mean = torch.special.entr(p).sum(1).mean(), torch.special.entr(p.mean(0)).sum()
    torch.testing.assert_close(result.losses["rate"], mean)
    torch.testing.assert_close(result.losses["divergence"], math.log(10) - each)
    direction = torch.randn(30, 4)
    found = ((result.vectors * direction).sum() + result.losses["rate"] + result.losses["divergence"],)
    expected = ((p @ codes * direction).sum() + mean - each,)
    for one, other in zip(
        torch.autograd.grad(found, (z, codes)), torch.autograd.grad(expected, (z, codes)), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_neighbours_are_the_bayes_average_of_the_nearest() -> None:
    quantizer = make(assignment="neighbours", neighbours=3, temperature=0.6)
    z = torch.randn(30, 4)
    codes = quantizer.codebook.weight.detach()
    for vector, found in zip(z, quantizer(z).vectors, strict=True):
        near = codes[(codes - vector).square().sum(1).argsort()[:3]]
        chance = torch.exp(-(near - vector).square().sum(1) / 0.6)
        torch.testing.assert_close(found.detach(), (chance / chance.sum()) @ near)


def test_one_hot_passes_a_gradient_to_every_code() -> None:
    """IBQ: forward one code exactly; backward as if the one-hot were the softmax, from first principles."""
    quantizer = make(similarity="dot", hard=True, temperature=0.5)
    z = torch.randn(6, 4, requires_grad=True)
    result = quantizer(z)
    codes = quantizer.codebook.weight
    p = assignment(z, codes, 0.5, "dot")
    hard = torch.nn.functional.one_hot(result.codes[:, 0], 10).float()
    assert torch.equal(result.vectors, codes[result.codes[:, 0]])
    expected = (hard + p - p.detach()) @ codes
    direction = torch.randn(6, 4)
    found = torch.autograd.grad((result.vectors * direction).sum(), (z, codes))
    wanted = torch.autograd.grad((expected * direction).sum(), (z, codes))
    torch.testing.assert_close(found, wanted)
    assert (found[1].abs().sum(1) > 0).all()  # also the codes that no vector took
    assert len(result.codes.unique()) < 10


def test_big_codebook_is_mixed_in_chunks(largest_tensor: Callable[..., int]) -> None:
    quantizer = build({"type": "soft", "size": 2**15, "hard": True, "similarity": "dot", "kmeans_init": False}, 8)
    z = torch.randn(512, 8, requires_grad=True)

    def step() -> None:
        result = quantizer(z)
        (quantizer.loss(result) + result.vectors.sum()).backward()

    assert largest_tensor(step) <= soft_assignment.LIMIT


def test_noise_is_the_same_when_a_chunk_is_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gumbel noise of checkpointed chunks: the gradient is that of the noise of the forward pass."""
    monkeypatch.setattr(soft_assignment, "LIMIT", 40)
    quantizer = make(assignment="gumbel", temperature=0.5)
    z = torch.randn(12, 4, requires_grad=True)
    torch.manual_seed(3)
    result = quantizer(z)
    (gradient,) = torch.autograd.grad(result.vectors.sum(), z)
    step = torch.zeros_like(z)
    step[5, 2] = 1e-2
    moved = []
    for sign in (1, -1):
        torch.manual_seed(3)
        moved.append(quantizer(z + sign * step).vectors.sum())
    assert gradient[5, 2].item() == pytest.approx(((moved[0] - moved[1]) / 2e-2).item(), rel=2e-2, abs=1e-3)


# Sampling.


def test_gumbel_noise_is_finite_at_both_ends_and_has_its_mean() -> None:
    assert gumbel_noise(torch.tensor([0.0, 1.0])).isfinite().all()
    noise = gumbel_noise(torch.rand(200_000))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.05)


def test_training_samples_and_evaluation_does_not() -> None:
    """Deterministic tokens are the argmax of the logits without noise."""
    quantizer = make(assignment="gumbel", hard=True, similarity="linear")
    z = torch.randn(500, 4)
    first, second = quantizer(z).codes, quantizer(z).codes
    assert (first != second).any()
    state = torch.get_rng_state()
    quantizer.eval()
    assert torch.equal(quantizer(z).codes[:, 0], quantizer.classifier(z).argmax(1))
    assert torch.equal(quantizer.encode(z), quantizer(z).codes)
    assert torch.equal(torch.get_rng_state(), state)


def test_samples_follow_the_softmax() -> None:
    quantizer = make(size=4, assignment="gumbel", hard=True)
    z = torch.randn(1, 4)
    drawn = torch.bincount(quantizer(z.expand(40_000, 4)).codes[:, 0], minlength=4) / 40_000
    torch.testing.assert_close(drawn, assignment(z, quantizer.codebook.weight, 1.0)[0].detach(), atol=0.01, rtol=0)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_stochastic_mask_leaves_a_share_of_the_vectors_without_noise(share: float) -> None:
    quantizer = make(assignment="gumbel", hard=True, deterministic=share)
    z = torch.randn(4000, 4) * 0.1  # close to all codes: a draw seldom takes the nearest
    nearest = quantizer.encode(z)
    drawn = make(assignment="gumbel", hard=True)
    drawn.load_state_dict(quantizer.state_dict())
    by_chance = (drawn(z).codes == nearest).float().mean()
    expected = share + (1 - share) * by_chance
    assert (quantizer(z).codes == nearest).float().mean().item() == pytest.approx(expected.item(), abs=0.04)


@pytest.mark.parametrize("gradient", ["rotation", "straight_through"])
@pytest.mark.parametrize("inner", [{"type": "soft", "assignment": "gumbel"}, {"type": "sq_vae"}])
def test_another_gradient_on_top_of_samples_is_refused(gradient: str, inner: dict[str, Any]) -> None:
    """A drawn code may lie opposite to its vector, where a rotation explodes; a straight-through would count twice."""
    with pytest.raises(ConfigError, match="unknown key 'gradient'"):
        build({**inner, "size": 8, "gradient": gradient}, 4)
    with pytest.raises(ConfigError, match=r"inner: .* a gradient of its own"):
        build({"type": "residual", "levels": 2, "gradient": gradient, "inner": {**inner, "size": 8}}, 4)
    with pytest.raises(ConfigError, match=r"inner\.1: .* a gradient of its own"):
        build({"type": "hierarchy", "cells": [1, 2], "inner": [{"type": "vq", "size": 8}, {**inner, "size": 8}]}, 4)


# Most similar.


@pytest.mark.parametrize("bias", [True, False])
def test_most_similar_equals_argmax_over_several_tiles(bias: bool) -> None:
    h, weight, offset = torch.randn(700, 5), torch.randn(2500, 5), torch.randn(2500) if bias else None
    full = h @ weight.t() + (offset if offset is not None else 0)
    assert torch.equal(most_similar(h, weight, offset), full.argmax(1))


# Convex combinations.


def test_projection_onto_the_simplex_equals_a_brute_force_search() -> None:
    """Over all faces of the simplex: on each the projection is known, and the nearest feasible one wins."""
    for v in torch.randn(40, 5, dtype=torch.float64) * 2:
        best, least = None, math.inf
        for mask in range(1, 2**5):
            face = torch.tensor([bool(mask >> i & 1) for i in range(5)])
            point = torch.where(face, v - (v[face].sum() - 1) / face.sum(), 0.0)
            if (point >= -1e-12).all() and (point - v).square().sum() < least:
                best, least = point, float((point - v).square().sum())
        torch.testing.assert_close(project_to_simplex(v[None])[0], best)


@pytest.mark.parametrize("ridge", [0.01, 0.1, 10.0])
def test_convex_combination_equals_a_general_solver(ridge: float) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    z, codes = torch.randn(5, 3, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)
    near = torch.cdist(z, codes).argmin(1)
    for vector, index, found in zip(z.numpy(), near, solve(z, codes, near, ridge, 2000).numpy(), strict=True):
        one_hot = np.eye(8)[int(index)]

        def objective(p: np.ndarray, vector: np.ndarray = vector, one_hot: np.ndarray = one_hot) -> float:
            return float(((vector - p @ codes.numpy()) ** 2).sum() + ridge * ((p - one_hot) ** 2).sum())

        result = optimize.minimize(
            objective,
            one_hot,
            bounds=[(0, 1)] * 8,
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
            options={"maxiter": 500, "ftol": 1e-14},
        )
        assert objective(found) <= result.fun + 1e-6
        np.testing.assert_allclose(found @ codes.numpy(), result.x @ codes.numpy(), atol=2e-3)


@pytest.mark.parametrize("iterations", [1, 5, 60])
def test_convex_combination_is_never_worse_than_the_nearest_code(iterations: int) -> None:
    z, codes = torch.randn(300, 4) * 2, torch.randn(20, 4)
    near = torch.cdist(z, codes).argmin(1)
    p = solve(z, codes, near, 0.1, iterations)
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum(1), torch.ones(300))
    assert ((z - p @ codes).square().sum(1) <= (z - codes[near]).square().sum(1) + 1e-5).all()


def test_convex_gradient_matches_finite_differences() -> None:
    z, codes = torch.randn(6, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    near = torch.cdist(z, codes).argmin(1)

    def combined(z: Tensor, codes: Tensor) -> Tensor:
        return convex_combination(z, codes, near, 0.2, 3000) @ codes

    assert torch.autograd.gradcheck(combined, (z.requires_grad_(), codes.requires_grad_()), eps=1e-6, atol=1e-5)


def test_ridge_leads_from_the_hull_to_the_nearest_code() -> None:
    z, codes = torch.randn(200, 3, dtype=torch.float64), torch.randn(12, 3, dtype=torch.float64)
    near = torch.cdist(z, codes).argmin(1)
    errors = [(z - solve(z, codes, near, ridge, 2000) @ codes).square().mean() for ridge in (1e-3, 0.1, 1.0, 10.0, 1e3)]
    assert errors == sorted(errors)
    torch.testing.assert_close(errors[-1], (z - codes[near]).square().mean(), rtol=2e-2, atol=0)


# Annealing, and the gap between training and evaluation.


def test_temperature_falls_exponentially_and_then_stays() -> None:
    annealed = Annealed(2.0, 0.02, 10)
    values = []
    for _ in range(13):
        values.append(annealed.value)
        annealed.advance()
    np.testing.assert_allclose(values[:11], 2.0 * 0.01 ** (np.arange(11) / 10))
    assert values[10:] == pytest.approx([0.02] * 3)


def test_annealing_resumes_where_it_was() -> None:
    quantizer, other = (make(temperature=1.0, final_temperature=0.1, anneal_steps=20) for _ in range(2))
    z = torch.randn(8, 4, requires_grad=True)
    for _ in range(7):
        quantizer(z)
    with torch.no_grad():
        quantizer(z)
    quantizer.eval()(z)  # neither counts
    other.load_state_dict(quantizer.state_dict())
    assert other.temperature.value == quantizer.temperature.value == pytest.approx(0.1 ** (7 / 20))


def test_gap_between_training_and_evaluation_is_what_it_says_and_closes() -> None:
    z = torch.randn(300, 4)
    gaps = []
    for temperature in (10.0, 1.0, 0.1, 1e-4):
        torch.manual_seed(0)
        quantizer = make(temperature=temperature)
        trained, evaluated = quantizer(z), copy_in_evaluation(quantizer)(z)
        gap = (trained.vectors - evaluated.vectors).square().sum() / evaluated.vectors.square().sum()
        torch.testing.assert_close(trained.stats["gap"], gap.detach())
        gaps.append(gap.item())
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-3 < 0.3 < gaps[0]
    assert make(hard=True)(z).stats["gap"] == 0


def copy_in_evaluation(quantizer: Any) -> Any:
    import copy

    return copy.deepcopy(quantizer).eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_one_vector_and_far_vectors_stay_finite(name: str) -> None:
    for z in (torch.randn(1, 6), torch.randn(5, 6) * 1e4, torch.zeros(5, 6)):
        quantizer = build({**CONFIGS[name], "kmeans_init": False}, 6)
        z.requires_grad_()
        result = quantizer(z)
        (quantizer.loss(result) + result.vectors.sum()).backward()
        assert z.grad is not None
        assert z.grad.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in quantizer.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 1}, "size"),
        ({"width": -1}, "width"),
        ({"temperature": 0.0}, "temperature: must be above 0"),
        ({"final_temperature": 0.1}, "go together"),
        ({"anneal_steps": 10}, "go together"),
        ({"final_temperature": -0.1, "anneal_steps": 10}, "0 or more"),
        ({"commitment": -1.0}, "commitment"),
        ({"attraction": -1.0}, "attraction"),
        ({"rate": -1.0}, "rate"),
        ({"divergence": -1.0}, "divergence"),
        ({"deterministic": 0.5}, "only `assignment: gumbel` draws"),
        ({"assignment": "gumbel", "deterministic": 1.5}, "share of vectors"),
        ({"assignment": "neighbours"}, "neighbours"),
        ({"assignment": "neighbours", "neighbours": 11}, "neighbours"),
        ({"neighbours": 3}, "neighbours"),
        ({"assignment": "neighbours", "neighbours": 3, "similarity": "dot"}, "similarity: distance"),
        ({"assignment": "convex", "hard": True}, "hard: false"),
        ({"assignment": "convex", "rate": 0.1}, "rate, divergence"),
        ({"assignment": "convex", "ridge": 0.0}, "ridge"),
        ({"assignment": "convex", "iterations": 0}, "iterations"),
        ({"attraction": 1.0}, "the codes fly apart"),
        ({"similarity": "linear", "commitment": 0.1}, "set commitment and attraction to 0"),
        ({"similarity": "linear", "regulariser": {"kind": "prior"}}, "in place of a regulariser"),
        ({"regulariser": {"kind": "entropi"}}, r"regulariser\.kind"),
    ],
)
def test_impossible_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**options)
