import numpy as np
import pytest
import torch

from anyglot.tokenizers.quantizers import build, retrieval
from anyglot.tokenizers.quantizers.base import Quantizer
from anyglot.tokenizers.quantizers.fitted import FittedQuantizer
from anyglot.tokenizers.quantizers.retrieval import asymmetric_search, recall


def slow_recall(quantizer: Quantizer, queries: np.ndarray, database: torch.Tensor, at: int) -> tuple[float, float]:
    """One query after the other, in float64. Entries with equal codes are equally far: with the true neighbour as the
    last of those, and as the first."""
    vectors = database.numpy().astype(np.float64)
    decoded = quantizer.decode(quantizer.encode(database)).numpy().astype(np.float64)
    last = first = 0
    for query in queries.astype(np.float64):
        truth = ((vectors - query) ** 2).sum(1).argmin()
        distances = ((decoded - query) ** 2).sum(1)
        last += (distances <= distances[truth] + 1e-5).sum() <= at
        first += (distances < distances[truth] - 1e-5).sum() < at
    return last / len(queries), first / len(queries)


@pytest.fixture(scope="module")
def vectors() -> tuple[torch.Tensor, torch.Tensor]:
    mix = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    return tuple(torch.randn(n, 8, generator=torch.Generator().manual_seed(n)) @ mix for n in (60, 500))  # type: ignore[return-value]


@pytest.fixture(scope="module", params=["vq", "pq", "rvq", "additive"])
def quantizer(request, vectors) -> Quantizer:
    config = {
        "vq": {"type": "vq", "size": 32, "kmeans_init": False},
        "pq": {"type": "pq", "groups": 4, "size": 8},
        "rvq": {"type": "rvq", "levels": 3, "size": 8},
        "additive": {"type": "additive", "levels": 3, "size": 8, "iterations": 2, "beam": 2},
    }[request.param]
    made = build(config, 8).eval()
    if isinstance(made, FittedQuantizer):
        made.fit(vectors[1])
    return made


@pytest.mark.parametrize("at", [1, 10, 100])
def test_recall_equals_slow_recall(quantizer: Quantizer, vectors, at: int) -> None:
    queries, database = vectors
    least, most = slow_recall(quantizer, queries.numpy(), database, at)
    found = recall(quantizer, queries, database, (at,))
    assert found.keys() == {at}
    assert least - 1e-6 <= found[at] <= most + 1e-6


def test_recall_without_ties_equals_slow_recall(vectors) -> None:
    queries, database = vectors
    fine = build({"type": "fsq", "sizes": [99] * 8}, 8).eval()
    assert len(fine.encode(database).unique()) == len(database)
    for at in (1, 10, 100):
        least, most = slow_recall(fine, queries.numpy(), database, at)
        assert least == most
        assert recall(fine, queries, database, (at,))[at] == pytest.approx(least)


def test_recall_never_falls_with_more_found(quantizer: Quantizer, vectors) -> None:
    found = list(recall(quantizer, *vectors, (1, 5, 20, 100, 500)).values())
    assert found == sorted(found)
    assert found[-1] == 1.0  # of all 500 the neighbour is one


def test_distances_are_those_of_what_codes_decode_to(quantizer: Quantizer, vectors) -> None:
    queries, database = vectors
    codes = quantizer.encode(database)
    expected = torch.cdist(queries.double(), quantizer.decode(codes).double()).square()
    torch.testing.assert_close(quantizer.distances(queries, codes).double(), expected, atol=1e-3, rtol=1e-4)


def test_search_comes_nearest_first_and_batches_change_nothing(quantizer: Quantizer, vectors, monkeypatch) -> None:
    queries, database = vectors
    codes = quantizer.encode(database)
    found = asymmetric_search(quantizer, queries, codes, 20)
    distances = quantizer.distances(queries, codes).gather(1, found)
    assert (distances.diff(dim=1) >= -1e-4).all()
    monkeypatch.setattr(retrieval, "QUERIES", 7)
    again = asymmetric_search(quantizer, queries, codes, 20)
    assert (found == again).float().mean() > 0.99  # equal codes are equally far: their order may differ
    torch.testing.assert_close(quantizer.distances(queries, codes).gather(1, again), distances)


def test_search_holds_the_distances_of_few_queries_at_once(vectors, largest_tensor, monkeypatch) -> None:
    monkeypatch.setattr(retrieval, "QUERIES", 10)
    made = build({"type": "vq", "size": 16, "kmeans_init": False}, 8).eval()
    codes = made.encode(vectors[1])
    assert largest_tensor(lambda: asymmetric_search(made, vectors[0].repeat(20, 1), codes, 3)) <= 1200 * 8


def test_finer_codes_find_more(vectors) -> None:
    queries, database = vectors
    found = []
    for levels in (1, 3, 6):
        made = build({"type": "rvq", "levels": levels, "size": 8}, 8)
        made.fit(database)  # type: ignore[attr-defined]
        found.append(recall(made, queries, database, (10,))[10])
    assert found == sorted(found)
    assert found[0] < found[-1]
