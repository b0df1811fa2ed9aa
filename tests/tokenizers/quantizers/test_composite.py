"""Composite quantization against slow obvious twins: all K^M sums, NumPy sweeps, distances of decoded vectors."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers.quantizers import build
from anyglot.tokenizers.quantizers.base import Quantizer
from anyglot.tokenizers.quantizers.composite import discriminant_axes
from anyglot.tokenizers.quantizers.local_search import (
    Constant,
    cross_products,
    errors,
    local_search,
    pair_tables,
    sum_codes,
    sweep,
    unary_tables,
)
from tests.tokenizers.quantizers.cases.additive import CQ
from tests.tokenizers.quantizers.test_additive import all_sums, data, problem

CONSTANT = Constant(value=-0.7, weight=0.3)


def slow_cost(vector: np.ndarray, chosen: list[np.ndarray]) -> float:
    """The objective of one vector, written as in the paper."""
    crossed = sum(float(a @ b) for i, a in enumerate(chosen) for j, b in enumerate(chosen) if i != j)
    return float(np.square(vector - sum(chosen)).sum()) + CONSTANT.weight * (crossed - CONSTANT.value) ** 2


def test_errors_equal_their_slow_twin() -> None:
    x, codebooks, codes = problem(40, 4, 7, 5)
    books = codebooks.double().numpy()
    expected = [
        slow_cost(x[row].double().numpy(), [books[m, codes[row, m]] for m in range(4)]) for row in range(len(x))
    ]
    found = errors(x, codebooks, codes, CONSTANT)
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-3)


def test_sweep_with_a_penalty_equals_its_slow_twin() -> None:
    x, codebooks, codes = problem(120, 3, 7, 5)
    books, expected = codebooks.double().numpy(), codes.roll(1, 0).numpy().copy()
    order = [2, 0, 1]
    for _ in range(2):
        for row, vector in enumerate(x.double().numpy()):
            for level in order:
                costs = []
                for code in range(7):
                    trial = [books[m, code if m == level else expected[row, m]] for m in range(3)]
                    costs.append(slow_cost(vector, trial))
                expected[row, level] = int(np.argmin(costs))
    start = codes.roll(1, 0)
    tables = unary_tables(x, codebooks, pair_tables(codebooks))
    found = sweep(tables, start, order, 2, CONSTANT, cross_products(codebooks, start))
    assert torch.equal(found, torch.from_numpy(expected))


def test_local_search_with_a_penalty_against_all_sums() -> None:
    x, codebooks, codes = problem(200, 3, 8, 4)
    combinations, sums = all_sums(codebooks)
    off = (cross_products(codebooks, combinations) - CONSTANT.value).square()
    lowest = (torch.cdist(x, sums).square() + CONSTANT.weight * off).min(1).values
    found = errors(x, codebooks, local_search(x, codebooks, codes, 40, 2, constant=CONSTANT), CONSTANT)
    assert (found >= lowest - 1e-3).all()
    assert (found < lowest + 1e-3).float().mean() > 0.95


def test_objective_never_rises() -> None:
    for penalty in (1.0, 10.0):
        objective = build({**CQ, "levels": 3, "iterations": 8, "penalty": penalty}, 12).fit(data(1500, 12))
        assert all(later <= earlier * (1 + 1e-5) for earlier, later in itertools.pairwise(objective))
        assert objective[-1] < 0.995 * objective[0]


def test_distances_are_those_of_decoded_vectors_but_for_the_constant() -> None:
    quantizer = build(CQ, 6)
    quantizer.fit(data(500, 6))
    codes, queries = quantizer.encode(data(90, 6, seed=1)), data(20, 6, seed=2)
    exact = Quantizer.distances_to_decoded(quantizer, queries, codes)
    off = quantizer.value - cross_products(quantizer.codebooks, codes)
    torch.testing.assert_close(quantizer.distances(queries, codes), exact + off, rtol=1e-4, atol=1e-3)
    assert off.square().mean() < 0.05 * exact.var()


def test_a_higher_penalty_holds_the_sums_closer() -> None:
    x, spread = data(1500, 6), []
    for penalty in (0.0, 1.0, 100.0):
        quantizer = build({**CQ, "penalty": penalty}, 6)
        quantizer.fit(x)
        spread.append(float(cross_products(quantizer.codebooks, quantizer.encode(x)).std()))
    assert spread[0] > 3 * spread[1] > 9 * spread[2]


def test_sparse_codebooks_and_their_tables() -> None:
    quantizer = build({**CQ, "density": 0.4}, 6)
    quantizer.fit(data(800, 6))
    assert 0.3 < (quantizer.codebooks != 0).float().mean() <= 0.4
    codes, queries = quantizer.encode(data(90, 6, seed=1)), data(20, 6, seed=2)
    rotated = queries @ quantizer.into
    distances = sum((rotated[:, None] - quantizer.codebooks[m, codes[:, m]]).square().sum(2) for m in range(2))
    expected = distances - rotated.square().sum(1, keepdim=True) + quantizer.value
    torch.testing.assert_close(quantizer.distances(queries, codes), expected, rtol=1e-4, atol=1e-3)


def labelled() -> tuple[Tensor, Tensor]:
    """Vectors whose classes differ in two weak channels, under strong noise in the others."""
    labels = torch.arange(2000) % 4
    centres = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0], [3.0, 3.0]])
    generator = torch.Generator().manual_seed(5)
    weak = centres[labels] + 0.5 * torch.randn(2000, 2, generator=generator)
    return torch.cat([weak, 20 * torch.randn(2000, 4, generator=generator)], 1), labels


def test_discriminant_axes_find_the_channels_that_tell_classes_apart() -> None:
    x, labels = labelled()
    axes = discriminant_axes(x, labels, 2)
    assert axes.shape == (6, 2)
    assert axes[2:].square().sum() < 0.02 * axes.square().sum()
    with pytest.raises(AnyglotError, match="labels"):
        discriminant_axes(x, None, 2)


def test_supervised_codes_carry_the_class_where_plain_ones_do_not() -> None:
    x, labels = labelled()
    found = {}
    for subspace in (0, 2):
        quantizer = build({**CQ, "subspace": subspace}, 6)
        quantizer.fit(x, labels)
        nearest = quantizer.distances(x[:200], quantizer.encode(x[200:])).argmin(1) + 200
        found[subspace] = float((labels[nearest] == labels[:200]).float().mean())
    assert found[2] > 0.9
    assert found[0] < 0.5


def test_sums_are_plain_additions() -> None:
    _, codebooks, codes = problem(30, 3, 5, 4)
    chosen = torch.stack([codebooks[m, codes[:, m]] for m in range(3)])
    torch.testing.assert_close(sum_codes(codebooks, codes), chosen.sum(0))
    crossed = sum((chosen[i] * chosen[j]).sum(1) for i in range(3) for j in range(3) if i != j)
    torch.testing.assert_close(cross_products(codebooks, codes), crossed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": 0}, "here.levels"),
        ({"levels": 4}, "here.levels: must divide the 6 channels"),
        ({"subspace": 3}, "here.levels: must divide the 3 channels"),
        ({"subspace": 7}, "here.subspace: 0 to 6"),
        ({"size": 1}, "here.size"),
        ({"iterations": 0}, "here.iterations"),
        ({"steps": 0}, "here.steps"),
        ({"density": 1.5}, "here.density"),
        ({"penalty": -1.0}, "here.penalty"),
        ({"commitment": -1.0}, "here.commitment"),
    ],
)
def test_refuses_impossible_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({**CQ, **changes}, 6, "here")
