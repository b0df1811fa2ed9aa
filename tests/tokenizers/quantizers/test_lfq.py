import pytest
import torch
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers import build, lfq
from anyglot.tokenizers.quantizers.entropy import (
    ROWS,
    batch_entropy,
    code_entropy,
    entropy,
    half_assignment,
    mean_assignment,
)
from anyglot.tokenizers.quantizers.lfq import LookupFreeQuantizer


def make(bits: int, **options: object) -> LookupFreeQuantizer:
    quantizer = build({"type": "lfq", "bits": bits, **options}, bits)
    assert isinstance(quantizer, LookupFreeQuantizer)
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
    assert vectors.unique().tolist() == [-1.0, 1.0]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert torch.equal(quantizer.encode(vectors.to(dtype)), codes)


def test_the_first_channel_is_the_lowest_bit() -> None:
    assert make(3, entropy=0.0).encode(torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]])).tolist() == [[1], [4]]


def test_zero_is_minus_one_in_code_and_bit() -> None:
    z = torch.tensor([[0.0, -0.0, 1e-30, -1e-30]])
    result = make(4)(z)
    assert result.codes.tolist() == [[4]]
    assert result.vectors.tolist() == [[-1, -1, 1, -1]]


def slow_entropies(z: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Softmax over all 2^bits codes, [n, 2^bits]: mean entropy of each, entropy of the mean."""
    bits = z.shape[1]
    codes = ((torch.arange(2**bits)[:, None] >> torch.arange(bits)) & 1).to(z) * 2 - 1
    p = torch.softmax(-(z[:, None] - codes).square().sum(-1) / temperature, 1)
    return torch.special.entr(p).sum(1).mean(), torch.special.entr(p.mean(0)).sum()


@pytest.mark.parametrize(("bits", "count"), [(1, 60), (2, 60), (3, ROWS + 60), (7, 60), (12, 60)])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_entropy_is_exact(bits: int, count: int, temperature: float) -> None:
    """Value and gradient in float64 against the softmax over all codes, 4096 of them at 12 bits; over several tiles."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(bits, bits, generator=generator, dtype=torch.float64)  # correlated bits
    z = (torch.randn(count, bits, generator=generator, dtype=torch.float64) @ mix).requires_grad_()
    logits = 4 * z / temperature
    sample, batch = code_entropy(logits).mean(), entropy(mean_assignment(logits, count, synced=False))
    slow_sample, slow_batch = slow_entropies(z, temperature)
    torch.testing.assert_close(sample, slow_sample, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(batch, slow_batch, atol=1e-10, rtol=1e-10)
    fast = torch.autograd.grad(sample - 0.7 * batch, z)[0]
    torch.testing.assert_close(fast, torch.autograd.grad(slow_sample - 0.7 * slow_batch, z)[0], atol=1e-9, rtol=1e-7)


def test_sum_over_bits_is_only_an_upper_bound() -> None:
    z = torch.randn(500, 1).repeat(1, 6)  # six equal bits: two codes, 1 bit of entropy
    exact = entropy(mean_assignment(400 * z, 500, synced=False))
    by_bits = sum(entropy(mean_assignment(400 * z[:, i : i + 1], 500, synced=False)) for i in range(6))
    assert exact < 0.8  # ln 2, and a little where bits are undecided
    assert by_bits > 4


def test_groups_add_up_to_an_upper_bound_that_tightens() -> None:
    """Groups take bits of different groups for independent: exact for 1, and for bits that are."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    logits = 4 * torch.randn(300, 8, generator=generator, dtype=torch.float64) @ mix
    found = [float(batch_entropy(logits, groups, 300, synced=False)) for groups in (1, 2, 4, 8)]
    assert found == sorted(found)
    assert found[0] == pytest.approx(float(entropy(mean_assignment(logits, 300, synced=False))))
    assert found[3] > found[0] + 0.1
    signs = ((torch.arange(16)[:, None] >> torch.arange(4)) & 1).double() * 2 - 1  # each pattern once
    independent = [float(batch_entropy(9 * signs, groups, 16, synced=False)) for groups in (1, 4)]
    assert independent[0] == pytest.approx(independent[1])


@pytest.mark.parametrize("kind", ["lfq", "bsq"])
def test_beyond_24_bits_the_config_must_name_the_approximation(kind: str) -> None:
    for bits in (25, 36, 48):
        with pytest.raises(ConfigError, match="groups: the entropy is exact up to 24 bits"):
            build({"type": kind, "bits": bits}, 6)
        quantizer = build({"type": kind, "bits": bits, "groups": 4}, 6)
        result = quantizer(torch.randn(40, 6, requires_grad=True))
        quantizer.loss(result).backward()
        assert result.losses["entropy"].isfinite()
        assert torch.equal(quantizer.decode(result.codes), result.vectors)
    for options in ({"groups": 0}, {"groups": 7}, {"temperature": 0.0}, {"entropy": -0.1}, {"bits": 63}):
        with pytest.raises(ConfigError):
            build({"type": kind, "bits": 6, **options}, 6)


def test_sharp_assignments_multiply_no_subnormals() -> None:
    """Products of tiny probabilities are subnormal numbers, which made a matrix product a hundred times slower."""
    logits = torch.randn(4096, 8, generator=torch.Generator().manual_seed(0)) * 60.0
    factors = half_assignment(torch.sigmoid(logits))
    smallest = factors[factors > 0].min()
    assert smallest**2 >= torch.finfo(torch.float32).tiny
    assert (factors == 0).any()
    torch.testing.assert_close(factors.sum(1), torch.ones(4096))


def test_mean_assignment_is_little_endian() -> None:
    quantizer = make(5)
    z = torch.randn(1, 5)
    distribution = mean_assignment(400 * z.sign(), 1, synced=False)
    assert int(distribution.flatten().argmax()) == int(quantizer.encode(z))


def test_loss_by_hand() -> None:
    quantizer = make(2, temperature=1.0, diversity=0.5, entropy=0.1, commitment=0.25)
    z = torch.tensor([[0.5, -1.0], [0.0, 2.0]])
    result = quantizer(z)
    sample, batch = slow_entropies(z, 1.0)
    assert result.losses["entropy"].item() == pytest.approx((sample - 0.5 * batch).item(), rel=1e-5)
    assert result.losses["commitment"].item() == (0.25 + 0 + 1 + 1) / 4
    assert quantizer.loss(result).item() == pytest.approx(
        0.1 * result.losses["entropy"].item() + 0.25 * result.losses["commitment"].item()
    )


def test_entropy_of_weight_zero_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> Tensor:
        raise AssertionError("computed")

    monkeypatch.setattr(lfq, "batch_entropy", forbidden)
    monkeypatch.setattr(lfq, "code_entropy", forbidden)
    assert set(make(4, entropy=0.0)(torch.randn(5, 4)).losses) == {"commitment"}
    with pytest.raises(AssertionError, match="computed"):
        make(4)(torch.randn(5, 4))


def test_saturated_bits_have_finite_gradients() -> None:
    z = (torch.randn(50, 8) * 100).requires_grad_()
    quantizer = make(8)
    quantizer.loss(quantizer(z)).backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_entropy_of_18_bits_never_makes_a_matrix_of_vectors_by_codes(largest_tensor) -> None:
    quantizer = make(18)
    z = torch.randn(16384, 18, requires_grad=True)
    assert largest_tensor(lambda: quantizer.loss(quantizer(z)).backward()) <= max(2**18, ROWS * 2**9)


def test_entropy_term_spreads_the_codes() -> None:
    """Latents that start as one sign pattern come to use most codes with the term, and few without."""
    usage = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        encoder = torch.nn.Linear(4, 6)
        torch.nn.init.constant_(encoder.bias, 1.5)
        quantizer = make(6, entropy=weight, temperature=1.0)
        optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)
        for _ in range(300):
            optimizer.zero_grad()
            quantizer.loss(quantizer(encoder(torch.randn(256, 4)))).backward()
            optimizer.step()
        usage[weight] = quantizer(encoder(torch.randn(5000, 4))).stats["perplexity"].item()
    assert usage[1.0] > 2 * usage[0.0]
