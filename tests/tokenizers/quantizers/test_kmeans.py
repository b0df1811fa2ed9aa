"""k-means against slow and obvious twins."""

import pytest
import torch
from torch import Tensor

from anyglot.tokenizers.quantizers.kmeans import cluster_means, kmeans
from anyglot.tokenizers.quantizers.search import nearest


def lloyd(vectors: Tensor, centres: Tensor, iterations: int) -> Tensor:
    """Plain k-means from given centres."""
    for _ in range(iterations):
        indices = torch.cdist(vectors, centres).argmin(1)
        for k in range(len(centres)):
            if bool((indices == k).any()):
                centres[k] = vectors[indices == k].mean(0)
    return centres


def error(vectors: Tensor, centres: Tensor) -> float:
    return float(torch.cdist(vectors, centres).amin(1).square().sum())


def test_seeds_and_long_steps_beat_plain_lloyd() -> None:
    vectors = torch.randn(3000, 5)
    ours, _ = kmeans(vectors, 64, iterations=8)
    assert error(vectors, ours) < error(vectors, lloyd(vectors, vectors[:64].clone(), 8))
    assert error(vectors, ours) < 1.01 * error(vectors, lloyd(vectors, vectors[:64].clone(), 20))


def test_finds_more_of_the_clusters_that_lie_apart() -> None:
    corners = torch.cartesian_prod(*[torch.tensor([-10.0, 10.0])] * 6)  # 64, which random seeds would not all meet
    vectors = (corners[:, None] + torch.randn(64, 50, 6)).reshape(-1, 6)
    centres, _ = kmeans(vectors, 64)
    random = vectors[torch.randperm(len(vectors))[:64]]
    assert error(vectors, centres) < 0.5 * error(vectors, lloyd(vectors, random, 25))


@pytest.mark.parametrize("size", [3, 40, 700])
@pytest.mark.parametrize("distinct", [1, 30, 2000])
def test_as_many_centres_as_distinct_vectors(size: int, distinct: int) -> None:
    vectors = torch.randn(distinct, 4).repeat(3, 1)
    centres, counts = kmeans(vectors, size)
    assert len(centres) == len(torch.unique(centres, dim=0)) == min(size, distinct)
    assert counts.sum() == len(vectors)
    found = torch.bincount(nearest(vectors, centres)[0], minlength=len(centres)).float()
    assert (found - counts).abs().sum() <= 2 * 3  # three equal vectors may lie halfway between two centres


def test_far_from_the_origin_and_in_any_unit() -> None:
    vectors = torch.randn(2000, 4)
    plain = error(vectors, kmeans(vectors, 32)[0])
    moved = vectors + 100
    assert error(moved - 100, kmeans(moved, 32)[0] - 100) == pytest.approx(plain, rel=0.02)
    for unit in (1e-6, 1e6):
        assert error(vectors, kmeans(vectors * unit, 32)[0] / unit) == pytest.approx(plain, rel=0.02)


def test_same_vectors_same_centres_and_no_global_randomness() -> None:
    vectors = torch.randn(500, 3)
    torch.manual_seed(1)
    first, state = kmeans(vectors, 16)[0], torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(kmeans(vectors, 16)[0], first)


def test_means_of_clusters() -> None:
    vectors = torch.tensor([[0.0, 0.0], [2.0, 4.0], [5.0, 5.0]])
    means, counts = cluster_means(vectors, torch.tensor([1, 1, 2]), torch.full((4, 2), 9.0))
    assert means.tolist() == [[9.0, 9.0], [1.0, 2.0], [5.0, 5.0], [9.0, 9.0]]
    assert counts.tolist() == [0.0, 2.0, 1.0, 0.0]
