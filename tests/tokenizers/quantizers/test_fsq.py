from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers import build
from anyglot.tokenizers.quantizers.fsq import ROWS, FiniteScalarQuantizer


def fsq(sizes: list[int], **options: object) -> FiniteScalarQuantizer:
    quantizer = build({"type": "fsq", "sizes": sizes, **options}, len(sizes))
    assert isinstance(quantizer, FiniteScalarQuantizer)
    return quantizer


@pytest.mark.parametrize("size", [*range(2, 18), 100, 255, 256, 999, 1000])
@pytest.mark.parametrize("bound", ["tanh", "clamp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_size_has_exactly_its_levels(size: int, bound: str, dtype: torch.dtype) -> None:
    """Eq. 16 of the survey gives size + 1 values for even sizes, and leaves the range where tanh saturates."""
    quantizer = fsq([size], bound=bound)
    z = torch.cat([torch.linspace(-12, 12, 200_000), torch.tensor([-1e4, -60, 60, 1e4])])[:, None].to(dtype)
    codes = quantizer.encode(z)[:, 0]
    assert int(codes[0]) == int(codes[-4]) == 0
    assert int(codes[-1]) == size - 1
    if dtype == torch.float32:
        assert codes.unique().tolist() == list(range(size))
    values = quantizer(z).vectors.float()
    assert values.min() >= -1
    assert values.max() <= 1


@pytest.mark.parametrize("size", range(3, 17))
def test_zero_is_a_level_and_levels_are_even_steps(size: int) -> None:
    quantizer = fsq([size])
    assert quantizer(torch.zeros(1, 1)).vectors.item() == 0
    values = quantizer.decode(torch.arange(size)[:, None])[:, 0]
    torch.testing.assert_close(values.diff(), torch.full((size - 1,), 1 / (size // 2)))


def test_equals_slow_twin() -> None:
    """The paper's formula, channel by channel, and the mixed-radix number, first channel lowest."""
    sizes = [8, 5, 2, 7]
    z = torch.randn(200, 4) * 2
    result = fsq(sizes)(z)
    for vector, code, quantized in zip(z.double().numpy(), result.codes[:, 0].tolist(), result.vectors, strict=True):
        index, expected = 0, []
        for channel in reversed(range(4)):
            half = (sizes[channel] - 1) * (1 - 1e-3) / 2
            offset = 0.5 if sizes[channel] % 2 == 0 else 0.0
            level = round(np.tanh(vector[channel] + np.tan(offset / half)) * half - offset)
            expected.insert(0, level / (sizes[channel] // 2))
            index = index * sizes[channel] + level + sizes[channel] // 2
        assert code == index
        assert quantized.tolist() == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=16), st.integers(0, 2**31))
def test_codes_are_exact_at_every_size(sizes: list[int], seed: int) -> None:
    """Random levels of each channel, decoded and encoded again, up to 2^63 codes; float sums lose them from 2^24."""
    while prod(sizes) >= 2**63:
        sizes = sizes[:-1]
    quantizer = fsq(sizes, bound="clamp")
    generator = np.random.default_rng(seed)
    codes = [0, prod(sizes) - 1] + [int(generator.integers(0, prod(sizes))) for _ in range(20)]
    column = torch.tensor(codes)[:, None]
    assert quantizer.encode(quantizer.decode(column)).equal(column)


def test_five_to_the_twelfth() -> None:
    codes = torch.arange(0, 5**12, 997)[:, None]
    quantizer = fsq([5] * 12, bound="clamp")
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


def test_all_codes_differ() -> None:
    vectors = fsq([8, 5, 4]).decode(torch.arange(160)[:, None])
    assert len(vectors.unique(dim=0)) == 160


def test_uses_its_codebook_on_normal_vectors() -> None:
    stats = fsq([8, 5, 5])(torch.randn(20000, 3)).stats
    assert stats["usage"] > 0.95


def test_gradient_is_that_of_the_bound() -> None:
    z = torch.tensor([[0.0], [0.5], [-2.0]], requires_grad=True)
    fsq([5])(z).vectors.sum().backward()
    torch.testing.assert_close(z.grad, (1 - torch.tanh(z.detach()) ** 2) * 2 * (1 - 1e-3) / 2)


@pytest.mark.parametrize("bound", ["tanh", "clamp"])
def test_long_rows_give_what_short_ones_do(bound: str) -> None:
    """A multiple of ROWS vectors is computed as fewer, longer rows: same codes, vectors and gradients, bit for bit."""
    quantizer = fsq([8, 5, 4, 3, 2, 7], bound=bound)
    z = (torch.randn(2 * ROWS, 6) * 2).requires_grad_()
    together, rest = quantizer(z), quantizer(z[1:])
    assert torch.equal(together.codes[1:], rest.codes)
    assert torch.equal(together.vectors[1:], rest.vectors)
    direction = torch.randn(2 * ROWS, 6)
    (first,) = torch.autograd.grad((together.vectors * direction).sum(), z)
    (second,) = torch.autograd.grad((rest.vectors * direction[1:]).sum(), z)
    assert torch.equal(first[1:], second[1:])


def test_codes_are_exact_on_both_sides_of_what_fp32_holds() -> None:
    """Products in fp32 pack codes below 2^24, integers beyond; slow twin in Python's integers."""
    for sizes in ([8] * 7 + [7], [8] * 8, [255, 255, 257], [256, 256, 256]):
        quantizer = fsq(sizes)
        z = torch.randn(500, len(sizes)) * 3
        levels = (quantizer.bound(z) * (torch.tensor(sizes) // 2)).round().to(torch.int64) + torch.tensor(sizes) // 2
        expected = [sum(k * prod(sizes[:i]) for i, k in enumerate(row)) for row in levels.tolist()]
        assert quantizer.encode(z)[:, 0].tolist() == expected


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8])
def test_gradients_are_finite_and_die_only_far_out(size: int) -> None:
    """Two levels too, where an inverse tanh of the shift would be NaN. Far out a tanh is flat: normalise before it."""
    z = torch.linspace(-3, 3, 601)[:, None].requires_grad_()
    fsq([size])(z).vectors.sum().backward()
    assert z.grad is not None
    assert (z.grad > 0).all()
    far = torch.tensor([[-1e30], [1e30]], requires_grad=True)
    fsq([size])(far).vectors.sum().backward()
    assert far.grad is not None
    assert (far.grad == 0).all()


def test_even_sizes_reach_one_step_further_down() -> None:
    values = fsq([4]).decode(torch.arange(4)[:, None])[:, 0]
    assert values.tolist() == [-1.0, -0.5, 0.0, 0.5]


def test_stats_by_hand() -> None:
    result = fsq([4])(torch.tensor([[-9.0], [-9.0], [0.0], [9.0]]))
    assert result.codes[:, 0].tolist() == [0, 0, 2, 3]
    assert result.stats["usage"].item() == 0.75
    assert result.stats["perplexity"].item() == pytest.approx(2**1.5)


def test_refuses_what_cannot_work() -> None:
    for sizes in ([], [1, 5], [1001], [8] * 21):
        with pytest.raises(ConfigError, match=r"quantizer\.sizes"):
            build({"type": "fsq", "sizes": sizes}, 4)
