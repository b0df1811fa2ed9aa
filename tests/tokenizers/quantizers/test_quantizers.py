"""The contract of base.py, over the small configs of cases/."""

import copy

import pytest
import torch
from torch import Tensor, nn

from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers.quantizers import Quantizer, build, codebooks
from anyglot.tokenizers.quantizers.fitted import FittedQuantizer
from tests.tokenizers.quantizers.cases import BOUNDED, CONFIGS, DIM, OWN_GRADIENT, SOFT

EMA = {"type": "vq", "size": 12}
every_config = pytest.mark.parametrize("name", CONFIGS)


def vectors(*grid: int, seed: int = 0) -> Tensor:
    return torch.randn(*grid, DIM, generator=torch.Generator().manual_seed(seed))


def trained(name: str, steps: int = 12) -> Quantizer:
    """A quantizer past the start of its codebooks, in training mode."""
    torch.manual_seed(0)
    quantizer = made(name)
    optimizer = adam(quantizer)
    for step in range(steps):
        train_step(quantizer, optimizer, vectors(3, 20, seed=step))
    assert quantizer.ready
    return quantizer


def made(name: str) -> Quantizer:
    """A new quantizer, fitted if it is of those."""
    quantizer = build(CONFIGS[name], DIM)
    if isinstance(quantizer, FittedQuantizer):
        quantizer.fit(vectors(400, seed=77), labels=torch.arange(400) % 4)
    return quantizer


def adam(quantizer: Quantizer) -> torch.optim.Optimizer:
    return torch.optim.Adam([*quantizer.parameters(), nn.Parameter(torch.zeros(1))], lr=1e-2)


def train_step(quantizer: Quantizer, optimizer: torch.optim.Optimizer, z: Tensor, mask: Tensor | None = None) -> None:
    optimizer.zero_grad()
    result = quantizer(z.clone().requires_grad_(), mask)
    (quantizer.loss(result) + (result.vectors - z.nan_to_num()).square().mean()).backward()
    optimizer.step()


def assert_same_state(one: nn.Module, other: nn.Module, exact: bool = True) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        if exact:
            assert torch.equal(a, b), name
        else:
            torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


@every_config
def test_shapes_and_types(name: str) -> None:
    quantizer = trained(name)
    for grid in [(7,), (2, 5), (2, 3, 4), ()]:
        result = quantizer.eval()(vectors(*grid))
        assert result.vectors.shape == (*grid, DIM)
        assert result.codes.shape == (*grid, len(quantizer.levels))
        assert result.codes.dtype == torch.int64
        for level, size in enumerate(quantizer.levels):
            codes = result.codes[..., level]
            assert int(codes.min()) >= 0
            assert int(codes.max()) < size
        assert all(term.ndim == 0 and term.isfinite() for term in result.losses.values())
        assert not any(value.requires_grad for value in result.stats.values())
        assert 0 < result.stats["usage"] <= 1
        assert 1 <= result.stats["perplexity"] <= max(quantizer.levels) + 1e-3


@every_config
def test_decode_of_encode_is_forward(name: str) -> None:
    quantizer = trained(name).eval()
    z = vectors(4, 50, seed=99)
    result = quantizer(z)
    codes = quantizer.encode(z)
    assert torch.equal(codes, result.codes)
    assert torch.equal(quantizer.decode(codes), result.vectors)
    half = quantizer(z.to(torch.bfloat16))
    assert half.vectors.dtype == torch.bfloat16
    assert torch.equal(quantizer.decode(half.codes).to(torch.bfloat16), half.vectors)


@every_config
def test_decode_in_training_uses_the_code_that_forward_used(name: str) -> None:
    if name in SOFT:
        return  # its training vectors mix several codes
    quantizer = trained(name)
    z = vectors(4, 50, seed=98)
    before = copy.deepcopy(quantizer)
    result = quantizer(z)  # moves the codebook afterwards
    assert torch.equal(before.decode(result.codes), result.vectors)


@every_config
def test_save_and_load_gives_the_same_codes(name: str) -> None:
    quantizer = trained(name).eval()
    other = build(CONFIGS[name], DIM).eval()
    other.load_state_dict(quantizer.state_dict())
    z = vectors(4, 50, seed=99)
    assert torch.equal(other(z).codes, quantizer(z).codes)
    assert torch.equal(other.decode(other.encode(z)), quantizer(z).vectors)


@every_config
@pytest.mark.parametrize("steps", [1, 12])
def test_resumed_step_equals_uninterrupted(name: str, steps: int) -> None:
    """Also in the middle of collecting vectors for k-means: after 1 step the 48 vectors are not there yet."""
    torch.manual_seed(0)
    quantizer = made(name)
    optimizer = adam(quantizer)
    for step in range(steps):
        train_step(quantizer, optimizer, vectors(30, seed=step))
    other = build(CONFIGS[name], DIM)
    other.load_state_dict(quantizer.state_dict())
    other_optimizer = adam(other)
    other_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(3):
        torch.manual_seed(step)
        train_step(quantizer, optimizer, vectors(30, seed=100 + step))
        torch.manual_seed(step)
        train_step(other, other_optimizer, vectors(30, seed=100 + step))
    assert_same_state(quantizer, other)


@every_config
def test_gradient_passes_once(name: str) -> None:
    quantizer = trained(name)
    z = vectors(5, 4, seed=7).requires_grad_()
    result = quantizer(z)
    direction = vectors(5, 4, seed=8)
    (gradient,) = torch.autograd.grad((result.vectors * direction).sum(), z)
    if name in OWN_GRADIENT:
        assert gradient.isfinite().all()
        assert (gradient.abs().sum(-1) > 0).all()
        return
    if quantizer.projects or name in BOUNDED:
        expected = torch.autograd.grad(
            (quantizer.project_out(quantizer.bound(quantizer.project_in(z))) * direction).sum(), z
        )[0]
    else:
        expected = direction
    torch.testing.assert_close(gradient, expected)


@every_config
def test_every_parameter_is_trained(name: str) -> None:
    quantizer = trained(name)
    z = vectors(5, 40, seed=7).requires_grad_()
    result = quantizer(z)
    (quantizer.loss(result) + (result.vectors - vectors(5, 40)).square().mean()).backward()
    for key, parameter in quantizer.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@every_config
def test_masked_equals_unpadded(name: str) -> None:
    """Padding filled with NaN enters neither codes, losses, gradients nor running statistics."""
    quantizer = trained(name)
    other = copy.deepcopy(quantizer)
    lengths = [9, 20, 4]
    mask = torch.arange(20) < torch.tensor(lengths)[:, None]
    padded = vectors(3, 20, seed=5)
    padded[~mask] = torch.nan
    flat = padded[mask].clone().requires_grad_()
    padded.requires_grad_()
    torch.manual_seed(0)
    masked = quantizer(padded, mask)
    torch.manual_seed(0)
    unpadded = other(flat)
    assert torch.equal(masked.codes[mask], unpadded.codes)
    assert torch.equal(masked.vectors[mask], unpadded.vectors)
    assert (masked.codes[~mask] == -1).all()
    assert (masked.vectors[~mask] == 0).all()
    for result, module in ((masked, quantizer), (unpadded, other)):
        (module.loss(result) + result.vectors.square().sum()).backward()
    assert padded.grad is not None
    assert torch.equal(padded.grad[mask], flat.grad)
    assert (padded.grad[~mask] == 0).all()
    assert_same_state(quantizer, other)
    torch.testing.assert_close(masked.losses, unpadded.losses)


@every_config
def test_true_mask_equals_no_mask(name: str) -> None:
    quantizer = trained(name)
    other = copy.deepcopy(quantizer)
    z = vectors(3, 20, seed=5)
    torch.manual_seed(0)
    masked = quantizer(z, torch.ones(3, 20, dtype=torch.bool))
    torch.manual_seed(0)
    plain = other(z)
    assert torch.equal(masked.codes, plain.codes)
    assert torch.equal(masked.vectors, plain.vectors)
    assert {k: v.item() for k, v in masked.losses.items()} == {k: v.item() for k, v in plain.losses.items()}
    assert_same_state(quantizer, other)


@every_config
def test_fully_masked_batch_changes_nothing(name: str) -> None:
    quantizer = trained(name)
    before = copy.deepcopy(quantizer)
    z = torch.full((2, 3, DIM), torch.nan, requires_grad=True)
    result = quantizer(z, torch.zeros(2, 3, dtype=torch.bool))
    (quantizer.loss(result) + result.vectors.sum()).backward()
    assert (result.vectors == 0).all()
    assert (z.grad == 0).all()
    for key, buffer in quantizer.named_buffers():
        if not key.endswith("updates"):
            assert torch.equal(buffer, dict(before.named_buffers())[key]), key


@every_config
def test_autocast_changes_no_code(name: str) -> None:
    quantizer = trained(name).eval()
    z = vectors(2000, seed=3)
    plain = quantizer(z)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            under = quantizer(z)
            assert torch.equal(quantizer.encode(z), plain.codes)
        assert torch.equal(under.codes, plain.codes)
        assert torch.equal(under.vectors, plain.vectors)
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(quantizer(z).codes, plain.codes)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@every_config
def test_statistics_stay_fp32_in_a_bf16_engine(name: str) -> None:
    quantizer = trained(name)
    twin = copy.deepcopy(quantizer)
    quantizer.to(torch.bfloat16)
    z = vectors(3, 40, seed=4).to(torch.bfloat16).float()
    kept = {torch.float32, torch.float64}
    assert {buffer.dtype for buffer in quantizer.buffers() if buffer.is_floating_point()} <= kept
    result = quantizer(z.to(torch.bfloat16))
    assert result.vectors.dtype == torch.bfloat16
    if (
        not list(quantizer.parameters()) and name not in SOFT
    ):  # then nothing is rounded: a step changes the averages as in fp32
        twin(z)
        assert_same_state(quantizer, twin)
    assert quantizer.decode(result.codes).dtype == torch.float32


@every_config
def test_evaluation_and_no_grad_change_nothing(name: str) -> None:
    quantizer = trained(name)
    before = copy.deepcopy(quantizer)
    with torch.no_grad():
        quantizer(vectors(3, 20, seed=5))
    quantizer.encode(vectors(3, 20, seed=6))
    quantizer.eval()(vectors(3, 20, seed=7))
    assert_same_state(quantizer, before)


@every_config
def test_missing_codes_decode_to_nothing(name: str) -> None:
    quantizer = trained(name).eval()
    nothing = torch.full((3, len(quantizer.levels)), -1)
    assert (quantizer.decode(nothing) == 0).all()


@every_config
def test_batch_size_changes_no_code(name: str) -> None:
    quantizer = trained(name).eval()
    z = vectors(700, seed=11)
    together = quantizer.encode(z)
    apart = torch.cat([quantizer.encode(part) for part in z.split([1, 2, 64, 633])])
    assert torch.equal(together, apart)


@every_config
def test_bad_input_names_the_shape(name: str) -> None:
    quantizer = trained(name)
    before = copy.deepcopy(quantizer)
    bad = vectors(2, 3)
    bad[0, 1, 2] = torch.nan
    infinite = vectors(2, 3)
    infinite[1, 1, 0] = torch.inf
    for z, what in [
        (bad, "NaN or infinity in 1 of 6"),
        (infinite, "NaN or infinity in 1 of 6"),
        (torch.zeros(0, DIM), "empty"),
        (torch.zeros(2, 0, DIM), "empty"),
        (torch.zeros(2, DIM + 1), rf"\[2, {DIM + 1}\]"),
        (torch.tensor(1.0), r"got torch.float32 \[\]"),
        (torch.zeros(2, DIM, dtype=torch.int64), "int64"),
    ]:
        for call in (quantizer, quantizer.encode):
            with pytest.raises(AnyglotError, match=rf"\[\.\.\., {DIM}\].*{what}"):
                call(z)
    with pytest.raises(AnyglotError, match=r"bool mask \[2, 3\]"):
        quantizer(vectors(2, 3), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(AnyglotError, match=r"bool mask \[2, 3\]"):
        quantizer(vectors(2, 3), torch.ones(2, 3))
    levels = len(quantizer.levels)
    for codes in (torch.zeros(3, levels + 1, dtype=torch.int64), torch.zeros(3, levels), torch.tensor(0)):
        with pytest.raises(AnyglotError, match=rf"integer codes \[\.\.\., {levels}\]"):
            quantizer.decode(codes)
    for value in (-2, max(quantizer.levels)):
        with pytest.raises(AnyglotError, match="must lie in 0"):
            quantizer.decode(torch.full((3, levels), value))
    assert_same_state(quantizer, before)


@every_config
def test_optimising_against_the_quantizer_lowers_the_error(name: str) -> None:
    """An affine encoder and decoder around it learn to reconstruct low-rank data: gradients mean something."""
    torch.manual_seed(0)
    quantizer = made(name)
    encoder, decoder = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
    optimizer = torch.optim.Adam([p for m in (encoder, quantizer, decoder) for p in m.parameters()], lr=1e-2)
    mix = torch.randn(2, DIM)
    for _ in range(300):
        x = torch.randn(128, 2) @ mix
        result = quantizer(encoder(x))
        loss = (decoder(result.vectors) - x).square().mean()
        optimizer.zero_grad()
        (loss + quantizer.loss(result)).backward()
        optimizer.step()
    x = torch.randn(2000, 2) @ mix
    quantizer.eval()
    error = (decoder(quantizer(encoder(x)).vectors) - x).square().mean() / x.square().mean()
    assert error < 0.35


def test_build_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match=r"codec\.quantizer\.type: no quantizer 'residul'; did you mean 'residual'"):
        build({"type": "residul"}, 4, "codec.quantizer")
    with pytest.raises(ConfigError, match="valid: vq, residual"):
        build({"size": 4}, 4)
    with pytest.raises(ConfigError, match="unknown key 'sise'; did you mean 'size'"):
        build({"type": "vq", "sise": 4}, 4)
    with pytest.raises(ConfigError, match="required key 'size'"):
        build({"type": "vq"}, 4)
    with pytest.raises(ConfigError, match="required key 'levels'"):
        build({"type": "residual", "inner": EMA}, 4)
    with pytest.raises(ConfigError, match="inner: unknown key 'wdith'; did you mean 'width'"):
        build({"type": "residual", "levels": 2, "inner": {**EMA, "wdith": 1}}, 4)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({**EMA, "size": 1}, "size"),
        ({**EMA, "width": -1}, "width"),
        ({**EMA, "decay": 1.0}, "decay"),
        ({**EMA, "reset_below": 2.0}, "share of the mean"),
        ({**EMA, "commitment": -1.0}, "commitment"),
        ({**EMA, "codebook": "frozen"}, "codebook"),
        ({"type": "fsq", "sizes": []}, "sizes"),
        ({"type": "fsq", "sizes": [8, 1]}, "sizes"),
        ({"type": "fsq", "sizes": [2000]}, "sizes"),
        ({"type": "fsq", "sizes": [256] * 8}, "63 bits"),
        ({"type": "lfq", "bits": 63}, "bits"),
        ({"type": "lfq", "bits": 30}, "entropy"),
        ({"type": "lfq", "bits": 8, "temperature": 0.0}, "temperature"),
        ({"type": "residual", "levels": 0, "inner": EMA}, "levels"),
        ({"type": "residual", "levels": 2, "inner": EMA, "dropout": 1.5}, "dropout"),
        ({"type": "residual", "levels": 2, "inner": {"type": "fsq", "sizes": [5, 5, 5, 5]}}, "clamp"),
        ({"type": "residual", "levels": 2, "inner": {"type": "residual", "levels": 2, "inner": EMA}}, "one code"),
    ],
)
def test_build_refuses_impossible_values(mapping: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(mapping, 4, "here")


@every_config
def test_codebooks_are_what_each_code_alone_decodes_to(name: str) -> None:
    quantizer = trained(name).eval()
    for level, (size, vectors_of_level) in enumerate(zip(quantizer.levels, codebooks(quantizer), strict=True)):
        assert vectors_of_level.shape == (size, DIM)
        code = torch.full((len(quantizer.levels),), -1)
        code[level] = size - 1
        torch.testing.assert_close(vectors_of_level[-1], quantizer.decode(code))
