"""Additive quantization against slow obvious twins: NumPy sweeps, all K^M sums, dense least squares."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers import build, least_squares
from anyglot.tokenizers.quantizers.beam import beam_encode
from anyglot.tokenizers.quantizers.local_search import (
    errors,
    local_search,
    pair_tables,
    perturbations,
    sum_codes,
    sweep,
    unary_tables,
)
from tests.tokenizers.quantizers.cases.additive import AQ, CONFIGS


def data(count: int, width: int, seed: int = 0) -> Tensor:
    """Correlated vectors."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(7))
    return torch.randn(count, width, generator=generator) @ mix


def problem(count: int, levels: int, size: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors, codebooks and random codes."""
    generator = torch.Generator().manual_seed(3)
    codebooks = torch.randn(levels, size, width, generator=generator)
    codes = torch.randint(0, size, (count, levels), generator=generator)
    return sum_codes(codebooks, codes) + 0.5 * torch.randn(count, width, generator=generator), codebooks, codes


def all_sums(codebooks: Tensor) -> tuple[Tensor, Tensor]:
    """Every combination of codes [K^M, M] and its sum [K^M, width]."""
    levels, size, _ = codebooks.shape
    codes = torch.tensor(list(itertools.product(range(size), repeat=levels)))
    return codes, sum_codes(codebooks, codes)


def test_sum_codes_adds_the_code_vectors_and_skips_missing_ones() -> None:
    codebooks = torch.arange(12.0).reshape(2, 3, 2)
    codes = torch.tensor([[0, 0], [2, 1], [-1, 1], [1, -1], [-1, -1]])
    expected = torch.tensor([[6.0, 8.0], [12.0, 14.0], [8.0, 9.0], [2.0, 3.0], [0.0, 0.0]])
    assert torch.equal(sum_codes(codebooks, codes), expected)
    assert torch.equal(sum_codes(codebooks, codes[:2]), expected[:2])


def slow_sweep(x: Tensor, codebooks: Tensor, codes: Tensor, order: list[int]) -> Tensor:
    """One sweep of iterated conditional modes, vector by vector."""
    books, found = codebooks.double().numpy(), codes.numpy().copy()
    for row, vector in enumerate(x.double().numpy()):
        for level in order:
            rest = vector - sum(books[m, found[row, m]] for m in range(len(books)) if m != level)
            found[row, level] = np.square(rest - books[level]).sum(1).argmin()
    return torch.from_numpy(found)


def test_sweep_equals_its_slow_twin() -> None:
    x, codebooks, codes = problem(300, 4, 9, 5)
    start = codes.roll(1, 0)
    tables = unary_tables(x, codebooks, pair_tables(codebooks))
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        expected = start
        for sweeps in (1, 2, 3):
            expected = slow_sweep(x, codebooks, expected, order)
            assert torch.equal(sweep(tables, start, order, sweeps), expected)


def test_beam_and_local_search_against_all_sums() -> None:
    x, codebooks, codes = problem(400, 3, 8, 4)
    combinations, sums = all_sums(codebooks)
    lowest = torch.cdist(x, sums).square().min(1).values
    full = errors(x, codebooks, beam_encode(x, codebooks, 64))  # 64 partial sums are all there are before the last
    torch.testing.assert_close(full, lowest, atol=1e-4, rtol=1e-4)
    searched = errors(x, codebooks, local_search(x, codebooks, codes.roll(1, 0), 30, 2))
    assert (searched >= lowest - 1e-4).all()
    assert (searched < lowest + 1e-4).float().mean() > 0.97
    greedy = errors(x, codebooks, beam_encode(x, codebooks, 1))
    assert (greedy < lowest + 1e-4).float().mean() < 0.9  # the problem is not a trivial one
    assert torch.equal(combinations[9], torch.tensor([0, 1, 1]))


def test_more_rounds_are_never_worse_for_any_vector() -> None:
    x, codebooks, codes = problem(500, 5, 12, 6)
    before = errors(x, codebooks, codes.roll(1, 0))
    for rounds in (0, 1, 2, 4, 8, 16):
        now = errors(x, codebooks, local_search(x, codebooks, codes.roll(1, 0), rounds, 2))
        assert (now <= before).all()
        before = now


def test_perturbations_of_fewer_rounds_begin_those_of_more() -> None:
    few, many = perturbations(3, 6, 10, 2), perturbations(8, 6, 10, 2)
    for (order, shift), (longer_order, longer_shift) in zip(few, many[:3], strict=True):
        assert torch.equal(order, longer_order)
        assert torch.equal(shift, longer_shift)
    for order, shift in many:
        assert sorted(order.tolist()) == list(range(6))
        assert set(shift.nonzero()[:, 0].tolist()) == set(order[-2:].tolist())  # those perturbed are mended last


def test_local_search_does_not_depend_on_the_batch() -> None:
    x, codebooks, codes = problem(1500, 4, 16, 8)
    together = local_search(x, codebooks, codes.roll(1, 0), 4, 2)
    apart = [
        local_search(part, codebooks, begin, 4, 2)
        for part, begin in zip(x.split([1, 3, 496, 1000]), codes.roll(1, 0).split([1, 3, 496, 1000]), strict=True)
    ]
    assert torch.equal(torch.cat(apart), together)


def one_hot(codes: Tensor, size: int) -> Tensor:
    return F.one_hot(codes, size).flatten(1).double()


def test_least_squares_equals_the_dense_solution() -> None:
    x, codebooks, codes = problem(200, 3, 6, 5)
    dense = one_hot(codes, 6)
    counts, sums = least_squares.pair_counts(codes, 6), least_squares.code_sums(codes, x, 6)
    assert torch.equal(counts, dense.t() @ dense)
    torch.testing.assert_close(sums, dense.t() @ x.double())
    # min |X - B C|^2 + r |C - C0|^2 as one stacked least squares problem
    stacked = torch.cat([dense, 0.3**0.5 * torch.eye(18, dtype=torch.float64)])
    target = torch.cat([x.double(), 0.3**0.5 * codebooks.reshape(18, 5).double()])
    expected = torch.linalg.lstsq(stacked, target).solution.reshape(3, 6, 5).float()
    torch.testing.assert_close(least_squares.solve(counts, sums, codebooks, 0.3), expected)


def test_least_squares_makes_no_dense_matrix(largest_tensor: Callable[[Callable[[], Any]], int]) -> None:
    x, codebooks, codes = problem(5000, 4, 16, 8)

    def fit() -> None:
        counts, sums = least_squares.pair_counts(codes, 16), least_squares.code_sums(codes, x, 16)
        least_squares.solve(counts, sums, codebooks, 0.01)

    assert largest_tensor(fit) <= x.numel() < 5000 * 4 * 16


def test_least_squares_never_raises_the_error_and_keeps_codes_that_do_not_occur() -> None:
    x, codebooks, codes = problem(50, 3, 40, 5)
    counts, sums = least_squares.pair_counts(codes, 40), least_squares.code_sums(codes, x, 40)
    for ridge in (1e-3, 1.0, 100.0):
        fitted = least_squares.solve(counts, sums, codebooks, ridge)
        assert errors(x, fitted, codes).sum() < errors(x, codebooks, codes).sum()
        unused = (torch.stack([torch.bincount(codes[:, m], minlength=40) for m in range(3)]) == 0).nonzero()
        assert len(unused) > 0
        for level, code in unused:
            torch.testing.assert_close(fitted[level, code], codebooks[level, code])


def test_sparse_codebooks_reach_the_density_and_solve_their_support() -> None:
    x, codebooks, codes = problem(600, 3, 8, 10)
    counts, sums = least_squares.pair_counts(codes, 8), least_squares.code_sums(codes, x, 8)
    dense = errors(x, least_squares.solve(counts, sums, codebooks, 1e-2), codes).sum()
    before = None
    for density in (0.2, 0.4, 0.7, 1.0):
        sparse = least_squares.solve_sparse(counts, sums, codebooks, 1e-2, density)
        assert int((sparse != 0).sum()) <= int(density * sparse.numel())
        gradient = (counts @ sparse.reshape(24, 10).double() - sums) + 1e-2 * (sparse - codebooks).reshape(24, 10)
        on_support = gradient[sparse.reshape(24, 10) != 0].abs().max()
        assert on_support < 1e-3 * sums.abs().max()
        error = errors(x, sparse, codes).sum()
        assert error >= dense * (1 - 1e-5)
        assert before is None or error < before
        before = error
    torch.testing.assert_close(before, dense, rtol=1e-4, atol=0)


def test_sparse_codebooks_find_planted_zeros() -> None:
    generator = torch.Generator().manual_seed(1)
    planted = torch.randn(2, 8, 12, generator=generator) * (torch.rand(2, 8, 12, generator=generator) < 0.25)
    codes = torch.randint(0, 8, (3000, 2), generator=generator)
    x = sum_codes(planted, codes) + 0.01 * torch.randn(3000, 12, generator=generator)
    counts, sums = least_squares.pair_counts(codes, 8), least_squares.code_sums(codes, x, 8)
    density = float((planted != 0).float().mean())
    # a vector added to one codebook and taken from the other hides zeros: such a start is the fair one
    found = least_squares.solve_sparse(counts, sums, torch.zeros(2, 8, 12), 1e-2, density)
    assert errors(x, found, codes).mean() < 0.1 * errors(x, torch.zeros_like(found), codes).mean()


@pytest.mark.parametrize("name", ["aq", "apq", "lsq"])
def test_objective_never_rises(name: str) -> None:
    x = data(1500, 6)
    quantizer = build({**CONFIGS[name], "iterations": 8}, 6)
    objective = quantizer.fit(x)
    assert len(objective) == 8
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in itertools.pairwise(objective))
    assert objective[-1] < 0.97 * objective[0]
    reached = (quantizer.decode(quantizer.encode(x)) - x).square().sum(1).mean()
    assert float(reached) < objective[-1] * 1.1


@pytest.mark.parametrize("name", ["aq", "apq", "lsq", "lsq_sparse", "lsqpp", "online_aq"])
def test_distances_are_those_of_decoded_vectors(name: str) -> None:
    quantizer = build(CONFIGS[name], 6)
    quantizer.fit(data(500, 6))
    codes = quantizer.encode(data(90, 6, seed=1))
    queries = data(20, 6, seed=2)
    expected = (queries[:, None] - quantizer.decode(codes)).square().sum(2)
    torch.testing.assert_close(quantizer.distances(queries, codes), expected, rtol=1e-4, atol=1e-3)


def test_relaxation_leaves_a_poor_optimum() -> None:
    """Vectors that are sums of three codes: alternating fits get stuck, noise that dies away leads further."""
    _, codebooks, codes = problem(2000, 3, 8, 16)
    x = sum_codes(codebooks, codes)
    left = {}
    for relaxation in (0.0, 1.0):
        quantizer = build({**AQ, "iterations": 50, "rounds": 6, "perturb": 2, "relaxation": relaxation}, 16)
        left[relaxation] = quantizer.fit(x)[-1]
    residual = build({**AQ, "iterations": 1}, 16).fit(x)[-1]
    assert left[1.0] < 0.75 * left[0.0] < 0.75 * 0.7 * residual


def test_fewer_distinct_vectors_than_codes() -> None:
    quantizer = build({**AQ, "rounds": 2, "perturb": 1}, 6)
    x = data(3, 6).repeat(20, 1)
    quantizer.fit(x)
    torch.testing.assert_close(quantizer.decode(quantizer.encode(x)), x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": 0}, "here.levels"),
        ({"size": 1}, "here.size"),
        ({"iterations": 0}, "here.iterations"),
        ({"beam": 0}, "here.beam"),
        ({"rounds": -1}, "here.rounds"),
        ({"sweeps": 0}, "here.sweeps"),
        ({"rounds": 2, "perturb": 4}, "here.perturb: some of the 3 codes"),
        ({"levels": 4, "groups": 2, "rounds": 2, "perturb": 3}, "here.perturb: some of the 2 codes"),
        ({"groups": 2}, "here.groups: must divide the width"),
        ({"levels": 4, "groups": 4}, "here.groups: must divide the width"),
        ({"density": 0.0}, "here.density"),
        ({"ridge": 0.0}, "here.ridge"),
        ({"relaxation": -1.0}, "here.relaxation"),
        ({"commitment": -1.0}, "here.commitment"),
    ],
)
def test_refuses_impossible_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({**AQ, **changes}, 6, "here")
