import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from anyglot.tokenizers.quantizers import build
from anyglot.tokenizers.quantizers.codebook import POINTS_PER_CODE, SMOOTHING, Codebook
from anyglot.tokenizers.quantizers.kmeans import kmeans
from anyglot.tokenizers.quantizers.vq import VectorQuantizer

SOURCES = pytest.mark.parametrize("source", ["ema", "learned"])


def vq(size: int, dim: int, **options: object) -> VectorQuantizer:
    quantizer = build({"type": "vq", "size": size, **options}, dim)
    assert isinstance(quantizer, VectorQuantizer)
    return quantizer


def used(quantizer: VectorQuantizer, z: Tensor) -> int:
    return len(quantizer.encode(z).unique())


# k-means


@pytest.mark.parametrize("count", [1, 5, 16, 17, 200])
def test_kmeans_has_as_many_distinct_centres_as_it_can(count: int) -> None:
    points = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    centres, counts = kmeans(points.repeat(3, 1), 16)
    assert len(centres) == len(centres.unique(dim=0)) == min(count, 16)
    assert counts.sum() == 3 * count
    assert (counts > 0).all()


def test_kmeans_centres_are_the_means_of_their_members() -> None:
    points = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    centres, counts = kmeans(points, 8, iterations=200)
    members = torch.cdist(points, centres).argmin(1)
    assert counts.tolist() == [float((members == k).sum()) for k in range(8)]
    torch.testing.assert_close(centres, torch.stack([points[members == k].mean(0) for k in range(8)]))


def test_spherical_kmeans_centres_have_unit_length() -> None:
    points = torch.nn.functional.normalize(torch.randn(300, 4), dim=1)
    torch.testing.assert_close(kmeans(points, 8, spherical=True)[0].norm(dim=1), torch.ones(8))


def test_kmeans_distortion_falls_with_iterations() -> None:
    points = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    errors = [torch.cdist(points, kmeans(points, 20, i)[0]).amin(1).square().mean().item() for i in (0, 1, 3, 10)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.8 * errors[0]


# Start


@SOURCES
def test_start_collects_until_there_are_enough(source: str) -> None:
    quantizer = vq(8, 3, codebook=source)
    before = quantizer.codebook.weight.clone()
    z = torch.randn(4 * POINTS_PER_CODE, 3, requires_grad=True)
    result = quantizer(z)  # half of what is wanted: vectors pass through, without codes
    assert torch.equal(result.vectors, z)
    assert (result.codes == -1).all()
    assert torch.equal(quantizer.codebook.weight, before)
    assert not quantizer.ready
    assert quantizer.eval()(z).codes.min() >= 0  # evaluation before training has codes, of the random codebook
    result = quantizer.train()(torch.randn(4 * POINTS_PER_CODE, 3))
    assert quantizer.ready
    assert result.codes.min() >= 0
    assert quantizer.codebook.collected.numel() == 0


@SOURCES
def test_start_with_fewer_distinct_vectors_than_codes(source: str) -> None:
    quantizer = vq(16, 3, codebook=source, decay=0.9)
    distinct = torch.randn(5, 3)
    quantizer(distinct.repeat(20, 1))
    assert quantizer.ready
    for vector in distinct:
        assert (quantizer.codebook.vectors() - vector).abs().amax(1).min() < 1e-4
    for _ in range(100):
        quantizer(torch.randn(200, 3))
    assert used(quantizer, torch.randn(1000, 3)) >= 15  # the codes left over moved to later vectors


@SOURCES
def test_start_flag_is_saved(source: str) -> None:
    """A resumed codebook goes on by moving averages; it does not start anew from the first batch."""
    quantizer = vq(8, 3, codebook=source, reset_below=0.0)
    quantizer(torch.randn(100, 3))
    other = vq(8, 3, codebook=source, reset_below=0.0)
    other.load_state_dict(quantizer.state_dict())
    before = other.codebook.weight.detach().clone()
    z = torch.randn(100, 3) + 5
    unhit = ~torch.isin(torch.arange(8), other(z).codes)
    assert unhit.any()
    torch.testing.assert_close(other.codebook.weight[unhit].detach(), before[unhit], atol=1e-4, rtol=1e-4)
    assert torch.equal(other.codebook.weight, before) == (source == "learned")


def test_start_survives_bfloat16_and_copies() -> None:
    quantizer = copy.deepcopy(vq(8, 3)).to(torch.bfloat16)
    quantizer(torch.randn(100, 3))
    assert quantizer.ready
    assert quantizer.codebook.weight.dtype == torch.float32


def test_state_of_another_size_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        vq(8, 3).load_state_dict(vq(8, 4).state_dict())


# Moving average


def slow_ema_step(state: dict[str, np.ndarray], z: np.ndarray, decay: float) -> dict[str, np.ndarray]:
    """One step in float64, vector by vector."""
    weight, counts, sums = (state[key].astype(np.float64) for key in ("weight", "counts", "sums"))
    size = len(weight)
    hits, totals = np.zeros(size), np.zeros_like(sums)
    for vector in z.astype(np.float64):
        code = ((weight - vector) ** 2).sum(1).argmin()
        hits[code] += 1
        totals[code] += vector
    counts = decay * counts + (1 - decay) * hits
    sums = decay * sums + (1 - decay) * totals
    smoothed = (counts + SMOOTHING) / (counts.sum() + size * SMOOTHING) * counts.sum()
    return {"weight": sums / smoothed[:, None], "counts": counts, "sums": sums}


def test_ema_equals_slow_steps() -> None:
    quantizer = vq(20, 4, decay=0.9, reset_below=0.0, kmeans_init=False)
    keys = ("weight", "counts", "sums")
    state = {key: getattr(quantizer.codebook, key).numpy().copy() for key in keys}
    for seed in range(5):
        z = torch.randn(100, 4, generator=torch.Generator().manual_seed(seed))
        quantizer(z)
        state = slow_ema_step(state, z.numpy(), 0.9)
        for key in keys:
            np.testing.assert_allclose(getattr(quantizer.codebook, key).numpy(), state[key], rtol=1e-4, atol=1e-5)


def test_ema_converges_to_the_mean() -> None:
    quantizer = vq(2, 2, decay=0.8, kmeans_init=False, reset_below=0.0)
    quantizer.codebook.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    quantizer.codebook.sums.copy_(quantizer.codebook.weight)
    z = torch.tensor([[3.0, 1.0], [5.0, 3.0], [-2.0, 0.0]])
    for _ in range(80):
        quantizer(z)
    torch.testing.assert_close(quantizer.codebook.weight, torch.tensor([[4.0, 2.0], [-2.0, 0.0]]), atol=1e-3, rtol=1e-3)


# Reset


@SOURCES
def test_reset_moves_the_code_and_the_next_step_keeps_it(source: str) -> None:
    quantizer = vq(4, 3, codebook=source, kmeans_init=False, reset_below=0.2)
    codebook: Codebook = quantizer.codebook
    with torch.no_grad():
        codebook.place(slice(None), torch.eye(4, 3) + 100 * (torch.arange(4) == 3)[:, None], torch.ones(4))
        codebook.counts[3] = 0.01
    z = torch.eye(3).repeat(10, 1) + 0.01 * torch.randn(30, 3)
    quantizer(z)
    moved = codebook.weight[3].detach().clone()
    assert (moved == z).all(1).any()  # exactly a vector of the batch
    assert codebook.counts[3] > 0.2 * codebook.counts.mean()
    elsewhere = (int(moved.argmax()) + 1) % 3
    quantizer(codebook.weight[elsewhere].detach().expand(30, 3))  # the next step does not hit it
    torch.testing.assert_close(codebook.weight[3].detach(), moved, atol=1e-4, rtol=1e-4)


@SOURCES
def test_reset_brings_lost_codes_back(source: str) -> None:
    """8 codes of which 6 start far away: without a reset that holds, 2 codes stay in use for ever."""
    torch.manual_seed(0)
    quantizer = vq(8, 4, codebook=source, kmeans_init=False, reset_below=0.1)
    far = torch.randn(8, 4) + 1000 * (torch.arange(8) >= 2)[:, None]
    with torch.no_grad():
        quantizer.codebook.place(slice(None), far, torch.ones(8))
    for _ in range(300):
        quantizer(torch.randn(64, 4))
    assert used(quantizer, torch.randn(1000, 4)) >= 7
    assert quantizer.codebook.vectors().abs().max() < 10


def test_without_reset_lost_codes_stay_lost() -> None:
    quantizer = vq(8, 4, kmeans_init=False, reset_below=0.0)
    quantizer.codebook.place(slice(2, None), torch.full((6, 4), 1000.0), torch.ones(6))
    for _ in range(50):
        quantizer(torch.randn(64, 4))
    assert used(quantizer, torch.randn(1000, 4)) <= 2


@SOURCES
def test_reset_choice_is_the_same_after_resume(source: str) -> None:
    one, other = (vq(64, 3, codebook=source, reset_below=0.5) for _ in range(2))
    one(torch.randn(300, 3))
    other.load_state_dict(one.state_dict())
    torch.manual_seed(1)
    z = torch.randn(20, 3) * 3
    one(z)
    torch.manual_seed(2)  # the choice does not come from the global generator
    other(z)
    assert torch.equal(one.codebook.weight, other.codebook.weight)


def test_few_vectors_reset_few_codes() -> None:
    quantizer = vq(32, 3, kmeans_init=False, reset_below=0.5)
    quantizer.codebook.counts.zero_()
    quantizer.codebook.counts[0] = 32.0
    z = torch.randn(5, 3)
    quantizer(z)
    moved = [(row == z).all(1).any().item() for row in quantizer.codebook.weight]
    assert sum(moved) == 5
