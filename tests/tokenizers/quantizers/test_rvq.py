"""Residual quantizers fitted offline: invariants of every way to fit and encode."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers.quantizers import build
from anyglot.tokenizers.quantizers.compq import compete
from anyglot.tokenizers.quantizers.fitted import FittedQuantizer
from anyglot.tokenizers.quantizers.staged import kmeans_stage, lloyd, staged
from anyglot.tokenizers.quantizers.trq import turn

RVQ = {"type": "rvq", "size": 16, "levels": 4}
COMPQ = {"type": "compq", "size": 16, "levels": 4, "epochs": 3}
WAYS = {
    "plain": RVQ,
    "beam": {**RVQ, "beam": 4},
    "subspace": {**RVQ, "start": "subspace"},
    "joint": {**RVQ, "refine": "joint", "sweeps": 4},
    "stacked": {**RVQ, "refine": "stacked", "sweeps": 3},
    "stacked_beam": {**RVQ, "refine": "stacked", "sweeps": 2, "beam": 3},
    "revisit": {**RVQ, "refine": "revisit", "sweeps": 2, "beam": 3},
    "projected": {**RVQ, "start": "projected", "axes": 4},
    "parametric": {**RVQ, "start": "parametric", "groups": 2},
    "nonparametric": {**RVQ, "start": "nonparametric", "groups": 2},
    "compq": COMPQ,
    "compq_beam": {**COMPQ, "beam": 3},
    "trq": {"type": "trq", "size": 16, "levels": 4},
}
every_way = pytest.mark.parametrize("name", WAYS)
DIM = 12


def vectors(count: int = 600, seed: int = 0) -> Tensor:
    """Correlated, with a mean."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(9)) * 0.8 ** torch.arange(DIM)
    return torch.randn(count, DIM, generator=generator) @ mix.t() + 1


def fitted(mapping: dict, x: Tensor) -> tuple[FittedQuantizer, list[float]]:
    quantizer = build(mapping, x.shape[1])
    assert isinstance(quantizer, FittedQuantizer)
    return quantizer, quantizer.fit(x)


def error(quantizer: FittedQuantizer, x: Tensor) -> float:
    return float((quantizer.decode(quantizer.encode(x)) - x).square().sum(1).mean())


@every_way
def test_objective_never_rises_and_reports_are_its_values(name: str) -> None:
    x = vectors()
    quantizer = build(WAYS[name], DIM)
    assert isinstance(quantizer, FittedQuantizer)
    reports: list[tuple[int, int, float]] = []
    objective = quantizer.fit(x, report=lambda *step: reports.append(step))
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(objective))
    assert reports[-1][0] == reports[-1][1]
    assert [value for _, _, value in reports] == objective[-len(reports) :]


@every_way
def test_prefixes_decode_better_and_better(name: str) -> None:
    quantizer, _ = fitted({**WAYS[name], **({"beam": 1} if "beam" in WAYS[name] else {})}, vectors())
    x = vectors(seed=1)
    codes = quantizer.encode(x)
    prefixes = [torch.where(torch.arange(4) < depth, codes, -1) for depth in range(5)]
    errors = [float((quantizer.decode(prefix) - x).square().sum(1).mean()) for prefix in prefixes]
    assert all(after < before for before, after in pairwise(errors))


@every_way
def test_the_objective_is_the_error_of_encoding(name: str) -> None:
    x = vectors()
    quantizer, objective = fitted(WAYS[name], x)
    if name == "joint":  # its codes go on from those of the sweep before
        assert error(quantizer, x) < objective[3]
    else:
        assert error(quantizer, x) == pytest.approx(objective[-1], rel=1e-3)


@every_way
def test_distances_are_those_to_what_codes_decode_to(name: str) -> None:
    quantizer, _ = fitted(WAYS[name], vectors())
    codes = quantizer.encode(vectors(50, seed=2))
    codes[3, 1:] = -1
    queries = vectors(7, seed=3)
    expected = torch.cdist(queries.double(), quantizer.decode(codes).double()).square()
    torch.testing.assert_close(quantizer.distances(queries, codes).double(), expected, atol=1e-3, rtol=1e-4)


@every_way
def test_as_many_codes_as_vectors_leave_nothing_over(name: str) -> None:
    """The k-means cascade when the first stage takes every vector: later stages see only zeros."""
    x = vectors(16)
    quantizer, objective = fitted(WAYS[name], x)
    assert all(np.isfinite(objective))
    assert quantizer.decode(quantizer.encode(x)).isfinite().all()
    if name in ("plain", "beam", "joint", "stacked", "compq", "trq"):
        assert error(quantizer, x) < 1e-6


@every_way
def test_fitting_again_gives_the_same(name: str) -> None:
    first, other = (fitted(WAYS[name], vectors())[0].state_dict() for _ in range(2))
    for key, value in first.items():
        assert torch.equal(value, other[key]), key


@every_way
def test_equal_vectors_and_one_channel(name: str) -> None:
    quantizer, _ = fitted(WAYS[name], torch.ones(40, DIM))
    torch.testing.assert_close(quantizer.decode(quantizer.encode(torch.ones(2, DIM))), torch.ones(2, DIM))
    if "axes" not in WAYS[name] and "groups" not in WAYS[name]:
        x = torch.linspace(-1, 1, 300)[:, None]
        assert error(fitted(WAYS[name], x)[0], x) < 1e-3


def test_staged_equals_a_slow_twin() -> None:
    x = vectors(200)
    books = staged(x, 3, kmeans_stage(4, 5), 1, lambda error: None)
    left = x.double()
    for book in books.double():
        codes = torch.cdist(left, book).argmin(1)
        for code in range(4):  # after the last step centres are the means of the step before: near those of now
            assert (left[codes == code].mean(0) - book[code]).norm() < 0.3 * left.norm(dim=1).mean()
        left = left - book[codes]
    one = lloyd(x, x[:4], 1)
    codes = torch.cdist(x, x[:4]).argmin(1)
    torch.testing.assert_close(one, torch.stack([x[codes == code].mean(0) for code in range(4)]))


def test_an_empty_cluster_takes_half_of_the_largest() -> None:
    x = torch.tensor([[0.0], [1.0], [10.0]])
    centres = lloyd(x, torch.tensor([[0.5], [10.0], [99.0]]), 3)
    assert sorted(centres[:, 0].tolist()) == pytest.approx([0.0, 1.0, 10.0])


def test_projection_error_stays_in_the_residual() -> None:
    """One axis a stage: what it leaves out must be found by the stages after it."""
    x = vectors()
    quantizer, objective = fitted({**RVQ, "size": 64, "levels": 10, "start": "projected", "axes": 1}, x)
    assert objective[-1] < 0.2 * objective[0]
    for book in quantizer.codebooks:
        assert torch.linalg.matrix_rank(book - book.mean(0), rtol=1e-4) == 1


def test_blocks_of_a_stage_are_orthogonal_and_share_a_rotation() -> None:
    parametric, _ = fitted(WAYS["parametric"], vectors())
    nonparametric, _ = fitted(WAYS["nonparametric"], vectors())
    for quantizer in (parametric, nonparametric):
        for first in (0, 2):
            one, other = quantizer.codebooks[first], quantizer.codebooks[first + 1]
            assert (one @ other.t()).abs().max() < 1e-4 * one.norm() * other.norm()
    one, other = nonparametric.codebooks[0], nonparametric.codebooks[3]  # block 0 of stage 0, block 1 of stage 1
    assert (one @ other.t()).abs().max() < 1e-4 * one.norm() * other.norm()


def test_compete_moves_each_winner_as_single_steps_would() -> None:
    books = torch.tensor([[[0.0], [5.0]], [[1.0], [9.0]]])
    compete(torch.tensor([[3.0], [3.0]]), books, torch.tensor([[0, 0], [0, 0]]), rate=0.5)
    assert books.flatten().tolist() == pytest.approx([1.5, 5.0, 2.5, 9.0])  # 1 - 0.5^2 of the way to the error of 2


def test_rotations_turn_back() -> None:
    quantizer, _ = fitted(WAYS["trq"], vectors())
    x, codes = vectors(30, seed=4), torch.arange(30) % 17 - 1
    rotations = quantizer.rotations[0]
    there = turn(x, rotations, codes)
    assert torch.equal(there[codes == -1], x[codes == -1])
    assert not torch.allclose(there[codes >= 0], x[codes >= 0])
    torch.testing.assert_close(turn(there, rotations.transpose(1, 2), codes), x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 1}, "size"),
        ({"levels": 0}, "levels"),
        ({"beam": 0}, "beam"),
        ({"iterations": 0}, "iterations"),
        ({"descent": -1}, "descent"),
        ({"start": "projected"}, "axes"),
        ({"axes": 3}, "axes"),
        ({"start": "projected", "axes": 13}, "axes"),
        ({"groups": 2}, "groups: only of"),
        ({"start": "parametric", "groups": 5}, "groups: must divide"),
        ({"start": "parametric", "groups": 8}, "groups: must divide"),
        ({"sweeps": 2}, "sweeps"),
        ({"refine": "joint"}, "sweeps"),
        ({"start": "spiral"}, "start"),
        ({"type": "compq", "rate": 0.0}, "rate"),
        ({"type": "compq", "epochs": 0}, "epochs"),
        ({"type": "compq", "size": 1}, "size"),
        ({"type": "trq", "levels": 1}, "levels"),
        ({"type": "trq", "size": 1}, "size"),
    ],
)
def test_refuses_what_cannot_work(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({**RVQ, **change}, DIM)


def test_too_few_vectors_and_an_unfitted_quantizer_say_what_to_do() -> None:
    quantizer = build(RVQ, DIM)
    with pytest.raises(AnyglotError, match="has not been fitted; call fit"):
        quantizer.encode(vectors())
    assert isinstance(quantizer, FittedQuantizer)
    with pytest.raises(AnyglotError, match="15 vectors are too few to fit a codebook of 16 codes"):
        quantizer.fit(vectors(15))
