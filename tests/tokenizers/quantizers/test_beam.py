"""Beam search and descent over sums of code vectors, beside slow twins."""

import itertools
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from anyglot.tokenizers.quantizers.beam import beam_encode, descend, greedy_encode, sum_of


def problem(seed: int = 0, levels: int = 4, size: int = 6, dim: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(60, dim, generator=generator), torch.randn(levels, size, dim, generator=generator)


def errors(x: Tensor, codebooks: Tensor, codes: Tensor) -> Tensor:
    return (x - sum_of(codebooks, codes)).square().sum(1)


def slow_beam(x: np.ndarray, codebooks: np.ndarray, width: int) -> list[int]:
    """One vector: paths as (error, codes), every child listed and sorted."""
    paths: list[tuple[float, list[int]]] = [(0.0, [])]
    for level in range(len(codebooks)):
        children = []
        for _, codes in paths:
            for code in range(codebooks.shape[1]):
                path = [*codes, code]
                total = sum(codebooks[i, chosen] for i, chosen in enumerate(path[: level + 1]))
                children.append((float(((x - total) ** 2).sum()), path))
        paths = sorted(children)[:width]
    return paths[0][1]


@pytest.mark.parametrize("width", [1, 2, 5, 100])
def test_beam_equals_its_slow_twin_or_beats_it_by_the_greedy_path(width: int) -> None:
    x, codebooks = problem()
    codes = beam_encode(x, codebooks, width)
    slow = torch.tensor([slow_beam(v, codebooks.numpy().astype(float), width) for v in x.numpy().astype(float)])
    same = (codes == slow).all(1)
    greedy = greedy_encode(x, codebooks)
    assert torch.equal(codes[~same], greedy[~same])
    assert (errors(x, codebooks, codes) <= errors(x, codebooks, slow) + 1e-5).all()
    assert same.float().mean() > 0.9


def test_width_one_is_greedy() -> None:
    x, codebooks = problem()
    left, expected = x.double(), []
    for codebook in codebooks.double():
        expected.append(torch.cdist(left, codebook).argmin(1))
        left = left - codebook[expected[-1]]
    assert torch.equal(beam_encode(x, codebooks, 1), torch.stack(expected, 1))


@pytest.mark.parametrize("seed", range(5))
def test_a_wider_beam_is_never_worse(seed: int) -> None:
    """Than greedy for any vector, and than a narrower one over all of them; one that keeps everything is exact."""
    x, codebooks = problem(seed)
    found = [errors(x, codebooks, beam_encode(x, codebooks, width)) for width in (1, 2, 4, 8, 32, 216)]
    assert all((wider <= found[0] + 1e-6).all() for wider in found)
    assert all(wider.mean() <= narrower.mean() + 1e-6 for narrower, wider in pairwise(found))
    every = torch.tensor(list(itertools.product(range(6), repeat=4)))
    best = torch.cdist(x.double(), sum_of(codebooks.double(), every)).amin(1).square()
    torch.testing.assert_close(found[-1].double(), best, atol=1e-4, rtol=1e-4)


def test_descent_never_raises_an_error_and_ends_where_no_single_code_helps() -> None:
    x, codebooks = problem(levels=3)
    codes = greedy_encode(x, codebooks)
    before = errors(x, codebooks, codes)
    for sweeps in (1, 2, 20):
        after = errors(x, codebooks, descend(x, codebooks, codes, sweeps))
        assert (after <= before + 1e-5).all()
    final = descend(x, codebooks, codes, 20)
    for level, code in itertools.product(range(3), range(6)):
        other = final.clone()
        other[:, level] = code
        assert (errors(x, codebooks, other) >= after - 1e-4).all()
    assert after.mean() < 0.95 * before.mean()


def test_no_vectors_and_missing_codes() -> None:
    x, codebooks = problem()
    assert beam_encode(x[:0], codebooks, 3).shape == (0, 4)
    assert (sum_of(codebooks, torch.full((2, 4), -1)) == 0).all()
    assert torch.equal(sum_of(codebooks, torch.tensor([[-1, 2, -1, -1]]))[0], codebooks[1, 2])
