"""What moves codes out of use: next to codes in use, or to anchors, at rates by hand."""

import math

import pytest
import torch
from torch import Tensor

from anyglot.tokenizers.quantizers import build
from anyglot.tokenizers.quantizers.reset import ANCHORS, NOISE, ONLINE, make_reset, probabilistic_anchors
from anyglot.tokenizers.quantizers.vq import VectorQuantizer

SOURCES = pytest.mark.parametrize("source", ["ema", "learned"])


def vq(size: int, dim: int, **options: object) -> VectorQuantizer:
    quantizer = build({"type": "vq", "size": size, "kmeans_init": False, **options}, dim)
    assert isinstance(quantizer, VectorQuantizer)
    return quantizer


def placed(source: str, codes: Tensor, counts: Tensor, **options: object) -> VectorQuantizer:
    """A quantizer with these codes [size, width], used so often [size]."""
    quantizer = vq(len(codes), codes.shape[1], codebook=source, **options)
    with torch.no_grad():
        quantizer.codebook.place(slice(None), codes, counts)
    return quantizer


def used(quantizer: VectorQuantizer, z: Tensor) -> int:
    return len(quantizer.encode(z).unique())


def test_no_reset_below_0() -> None:
    assert make_reset("vector", 0.0) is None


@SOURCES
def test_split_moves_next_to_the_code_in_use_and_the_next_step_keeps_it(source: str) -> None:
    codes = torch.tensor([[0.0, 0.0], [50.0, 50.0], [51.0, 50.0]])
    quantizer = placed(source, codes, torch.tensor([10.0, 1e-6, 1e-6]), reset="split")
    z = torch.randn(100, 2) * 0.1
    quantizer(z)
    moved = quantizer.codebook.vectors()[1:].detach()
    spread = codes.std()
    assert (moved.norm(dim=1) < 6 * NOISE * spread + 0.2).all()
    assert len(moved.unique(dim=0)) == 2
    quantizer(quantizer.codebook.vectors()[:1].detach().expand(10, 2))
    torch.testing.assert_close(quantizer.codebook.vectors()[1:].detach(), moved, atol=1e-2, rtol=1e-2)


@SOURCES
@pytest.mark.parametrize("reset", ["split", *ONLINE])
def test_every_reset_brings_lost_codes_back(source: str, reset: str) -> None:
    torch.manual_seed(0)
    far = torch.randn(8, 4) + 1000 * (torch.arange(8) >= 2)[:, None]
    quantizer = placed(source, far, torch.ones(8), reset=reset, reset_below=0.1, decay=0.9)
    for _ in range(300):
        quantizer(torch.randn(64, 4))
    assert used(quantizer, torch.randn(1000, 4)) >= 7
    assert quantizer.codebook.vectors().abs().max() < 10


@pytest.mark.parametrize("reset", ONLINE)
def test_an_unused_code_becomes_its_anchor_and_a_used_one_stays(reset: str) -> None:
    codes = torch.tensor([[0.0, 0.0], [9.0, 9.0]])
    quantizer = placed("learned", codes, torch.tensor([1.0, 0.0]), reset=reset, reset_below=0.01)
    z = torch.randn(20, 2)
    quantizer(z)
    found = quantizer.codebook.weight.detach()
    assert torch.equal(found[0], codes[0])
    assert (found[1] == z).all(1).any()


def test_rate_by_hand() -> None:
    """a = exp(-share / below): counts 1 and 3 have shares 0.5 and 1.5 of their mean."""
    codes = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    quantizer = placed("learned", codes, torch.tensor([1.0, 3.0]), reset="closest", reset_below=0.5)
    reset = make_reset("closest", 0.5)
    assert reset is not None
    with torch.no_grad():
        reset(quantizer.codebook, torch.tensor([[1.0, 0.0], [3.0, 1.0], [9.0, 9.0]]))
    a, b = math.exp(-1), math.exp(-3)
    torch.testing.assert_close(quantizer.codebook.weight.detach(), torch.tensor([[a, 0.0], [4 - b, b]]))
    assert quantizer.codebook.counts.tolist() == [1.0, 3.0]


def test_published_rate() -> None:
    """exp(-N K 10 / (1 - g)) of the paper, N the code's share of all vectors, is below = (1 - g) / 10."""
    decay, counts = 0.99, torch.tensor([0.001, 0.002, 5.0])
    published = torch.exp(-counts / counts.sum() * 3 * 10 / (1 - decay))
    torch.testing.assert_close(torch.exp(-counts / counts.mean() / ((1 - decay) / 10)), published)


def test_anchors_are_what_they_say() -> None:
    quantizer = vq(6, 3, codebook="learned", reset="closest")
    codes, h = torch.randn(6, 3), torch.randn(40, 3)
    closest = ANCHORS["closest"](quantizer.codebook, codes, h)
    assert torch.equal(closest, h[torch.cdist(codes, h).argmin(1)])
    some = ANCHORS["random"](quantizer.codebook, codes, h)
    assert len(some.unique(dim=0)) == 6
    assert all((row == h).all(1).any() for row in some)
    few = ANCHORS["random"](quantizer.codebook, codes, h[:2])
    assert len(few) == 6
    for choose in ANCHORS.values():
        assert choose(quantizer.codebook, codes, h[:0]) is None


def test_probabilistic_anchors_follow_the_softmax_of_the_distance() -> None:
    quantizer = vq(2, 1, codebook="learned")
    h = torch.tensor([[0.0], [1.0], [5.0]])
    codes = torch.zeros(20000, 1)
    drawn = probabilistic_anchors(quantizer.codebook, codes, h)
    assert drawn is not None
    share = [(drawn == value).float().mean().item() for value in (0.0, 1.0, 5.0)]
    assert share[0] == pytest.approx(1 / (1 + math.exp(-1)), abs=0.02)
    assert share[2] < 1e-3
