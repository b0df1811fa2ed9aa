"""SQ-VAE: the evidence bound by hand, sampling, and the residual stack."""

import math
from typing import Any

import pytest
import torch

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers import build


def make(width: int = 4, **options: Any) -> Any:
    return build({"type": "sq_vae", "size": 8, **options}, width)


def test_evidence_by_hand() -> None:
    quantizer = make(variance=0.3, weight=0.5).eval()
    z = torch.randn(20, 4)
    result = quantizer(z)
    codes = quantizer.stack[0].weight
    log_q = torch.log_softmax(-torch.cdist(z, codes).square() / (2 * 0.3), 1)
    divergence = (log_q.exp() * log_q).sum(1) + math.log(8)
    expected = ((z - codes[result.codes[:, 0]]).square().sum(1) / (2 * 0.3) + divergence).mean()
    torch.testing.assert_close(result.losses["evidence"], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(quantizer.loss(result), 0.5 * expected, atol=1e-4, rtol=1e-4)


def test_evidence_of_a_stack_by_hand() -> None:
    """One Gaussian whose variance is the sum of the levels' spans the stack; the entropies add."""
    quantizer = make(levels=3, variance=0.4).eval()
    z = torch.randn(20, 4)
    with torch.no_grad():
        result = quantizer(z)
    torch.testing.assert_close(quantizer.variances.detach(), torch.tensor([0.4, 0.1, 0.025]))
    distance = (z - result.vectors).square().sum(1) / (2 * 0.525)
    assert result.losses["evidence"].item() >= distance.mean().item() - 1e-5
    assert result.losses["evidence"].item() <= distance.mean().item() + 3 * math.log(8) + 1e-5


def test_more_levels_are_never_worse_after_training() -> None:
    """Each level of a trained stack lowers the error of the levels before it."""
    quantizer = make(levels=3, variance=0.3, weight=0.01, temperature=0.5)
    optimizer = torch.optim.Adam(quantizer.parameters(), 1e-2)
    x = torch.randn(512, 4)
    for _ in range(200):
        result = quantizer(x)
        loss = 2 * (result.vectors - x).square().mean().log() + quantizer.loss(result)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    quantizer.eval()
    codes = quantizer.encode(x)
    errors = []
    for level in range(3):
        partial = codes.clone()
        partial[:, level + 1 :] = -1
        errors.append((quantizer.decode(partial) - x).square().mean().item())
    assert errors[0] > errors[1] > errors[2]


def test_variance_falls_for_vectors_on_their_codes_and_grows_for_others() -> None:
    signs = []
    for away in (0.0, 3.0):
        quantizer = make(variance=0.3, temperature=0.5)
        z = quantizer.stack[0].weight.detach().repeat(50, 1) + away * torch.randn(400, 4)
        result = quantizer(z)
        error = (result.vectors - z).square().mean()
        (4 / 2 * error.log() + quantizer.loss(result)).backward()
        signs.append(quantizer.log_variance.grad.item())
    assert signs[0] > 0 > signs[1]  # descent goes against the gradient


def test_training_draws_and_evaluation_does_not() -> None:
    quantizer = make(variance=2.0)
    z = torch.randn(50, 4)
    assert not torch.equal(quantizer(z).vectors, quantizer(z).vectors)
    state = torch.get_rng_state()
    quantizer.eval()
    assert torch.equal(quantizer(z).vectors, quantizer.decode(quantizer.encode(z)))
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_harden_with_the_variance() -> None:
    """The stochastic vectors of training come to those of evaluation as the variance vanishes."""
    gaps = []
    for variance in (10.0, 0.1, 1e-4):
        torch.manual_seed(0)
        gaps.append(make(variance=variance, temperature=0.1)(torch.randn(300, 4)).stats["gap"].item())
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 1}, "size"),
        ({"levels": 0}, "levels"),
        ({"width": -1}, "width"),
        ({"variance": 0.0}, "variance"),
        ({"weight": 0.0}, "weight"),
        ({"temperature": 0.0}, "temperature"),
        ({"final_temperature": 0.5}, "go together"),
    ],
)
def test_impossible_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**options)
