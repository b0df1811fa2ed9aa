from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from anyglot.tokenizers.quantizers import build
from anyglot.tokenizers.quantizers.bsq import BinarySphericalQuantizer
from tests.tokenizers.quantizers.test_lfq import slow_entropies


def make(bits: int, **options: object) -> BinarySphericalQuantizer:
    quantizer = build({"type": "bsq", "bits": bits, **options}, bits)
    assert isinstance(quantizer, BinarySphericalQuantizer)
    return quantizer


@pytest.mark.parametrize("bits", range(1, 63))
def test_codes_are_exact_at_every_width(bits: int) -> None:
    """Packing in fp32 makes 36-bit codes collide, in bf16 18-bit ones."""
    quantizer = make(bits, entropy=0.0)
    generator = torch.Generator().manual_seed(bits)
    codes = torch.cat(
        [torch.tensor([0, 2**bits - 1, 2**bits - 2]), torch.randint(0, 2**bits, (50,), generator=generator)]
    )
    codes = codes[codes >= 0][:, None]
    vectors = quantizer.decode(codes)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(codes)))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert torch.equal(quantizer.encode(vectors.to(dtype)), codes)


def test_the_first_channel_is_the_lowest_bit() -> None:
    assert make(3).encode(torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]])).tolist() == [[1], [4]]


def test_zero_is_minus_in_code_and_bit() -> None:
    """With sign(0) = +1 in the code and bit = u > 0, as printed, code and index would disagree."""
    quantizer = make(4)
    z = torch.tensor([[0.0, -0.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    result = quantizer(z)
    assert result.codes.tolist() == [[4], [0]]
    assert result.vectors.tolist() == [[-0.5, -0.5, 0.5, -0.5], [-0.5, -0.5, -0.5, -0.5]]
    assert torch.equal(quantizer.decode(result.codes), result.vectors)


@pytest.mark.parametrize("length", [0.0, 1e-38, 1e-20, 1e-3, 1e20, 1e38])
def test_any_length_has_a_direction_and_a_finite_gradient(length: float) -> None:
    quantizer = make(8, entropy=0.0)
    direction = F.normalize(torch.randn(50, 8), dim=1)
    z = (direction * length).requires_grad_()
    result = quantizer(z)
    (result.vectors.sum() + quantizer.loss(result)).backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    if length > 1e-6:
        assert torch.equal(result.codes, quantizer(direction).codes)
        torch.testing.assert_close(quantizer.bound(z).norm(dim=1), torch.ones(50))


@pytest.mark.parametrize("bits", [1, 2, 4, 9, 18, 36, 62])
def test_the_error_is_bounded_and_axes_attain_the_bound(bits: int) -> None:
    """|u - c| <= sqrt(2 - 2 / sqrt(L)); random directions average 0.53 for 4 bits, .61 for 16."""
    quantizer = make(bits, entropy=0.0)
    worst = (2 - 2 / bits**0.5) ** 0.5
    u = F.normalize(torch.randn(20_000, bits), dim=1)
    error = (u - quantizer(u).vectors).norm(dim=1)
    assert error.max() <= worst + 1e-5
    axes = torch.eye(bits)
    torch.testing.assert_close((axes - quantizer(axes).vectors).norm(dim=1), torch.full((bits,), worst))
    expected = {4: 0.53, 18: 0.61}
    if bits in expected:
        assert error.mean().item() == pytest.approx(expected[bits], abs=0.015)


def test_the_corner_is_the_nearest_of_all() -> None:
    quantizer = make(6)
    corners = quantizer.decode(torch.arange(64)[:, None])
    z = torch.randn(500, 6)
    distance = torch.cdist(F.normalize(z, dim=1), corners)
    assert torch.equal(distance.argmin(1), quantizer.encode(z)[:, 0])


def test_entropy_by_softmax_over_all_corners() -> None:
    """The log-odds of bit i are 4 u_i / (temperature sqrt(bits)): that of softmax(-|u - c|^2 / temperature)."""
    quantizer = make(8, temperature=0.1, diversity=0.7)
    z = torch.randn(40, 8)
    u = F.normalize(z.double(), dim=1)
    sample, batch = slow_entropies(u * 8**0.5, 0.1 * 8)  # the same, stretched by sqrt(bits)
    assert quantizer(z).losses["entropy"].item() == pytest.approx((sample - 0.7 * batch).item(), rel=1e-4)


def test_36_bits_decode_to_what_forward_gave() -> None:
    quantizer = make(36, groups=2)
    z = torch.randn(3, 50, 36)
    result = quantizer(z)
    assert result.codes.max() > 2**32
    assert torch.equal(quantizer.decode(quantizer.encode(z)), result.vectors)
    assert len(result.codes.unique()) == 150


def test_each_level_of_a_residual_stack_lowers_the_error() -> None:
    """Of unit vectors, as an encoder before it learns to emit."""
    u = F.normalize(torch.randn(4000, 12), dim=1)
    errors = []
    for levels in range(1, 6):
        stack = build({"type": "residual", "levels": levels, "inner": {"type": "bsq", "bits": 12}}, 12)
        errors.append((stack(u).vectors - u).square().sum(1).mean().item())
    assert all(less < 0.8 * more for more, less in pairwise(errors))
