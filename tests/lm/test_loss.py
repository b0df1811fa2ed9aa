"""Block-wise cross-entropy against torch's, its gradients, and its memory."""

import resource
import subprocess
import sys

import pytest
import torch
from torch import nn

from anyglot.lm.loss import BlockwiseCrossEntropy, _BlockwiseLoss


def reference(hidden, weight, labels, weights, z_loss, softcap=0.0):
    """The slow twin: all logits at once."""
    logits = hidden @ weight.T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    log_z = logits.logsumexp(-1)
    nll = torch.nn.functional.cross_entropy(logits, labels.clamp(min=0), reduction="none")
    return (weights * (nll + z_loss * log_z**2)).sum(), nll


@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("rows", [1, 3, 0])
def test_equals_full_cross_entropy(softcap, z_loss, rows):
    torch.manual_seed(0)
    hidden = torch.randn(11, 16, dtype=torch.float64, requires_grad=True)
    weight = nn.Parameter(torch.randn(97, 16, dtype=torch.float64))
    labels = torch.randint(97, (11,))
    weights = torch.rand(11)
    weights[3:5] = 0
    labels[3] = -100
    expected, expected_nll = reference(hidden, weight, labels, weights, z_loss, softcap)
    expected_gradients = torch.autograd.grad(3 * expected, [hidden, weight])

    loss = BlockwiseCrossEntropy(weight, z_loss, rows, softcap=softcap)(hidden, labels, weights)
    gradients = torch.autograd.grad(3 * loss.total, [hidden, weight])

    torch.testing.assert_close(loss.total.double(), expected, rtol=1e-5, atol=1e-6)
    counted = weights > 0
    torch.testing.assert_close(loss.nll[counted].double(), expected_nll[counted], rtol=1e-5, atol=1e-5)
    assert (loss.nll[~counted] == 0).all()
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_what_monitors_are_told_is_what_full_logits_say(softcap):
    torch.manual_seed(0)
    hidden, weight = torch.randn(7, 16, requires_grad=True), nn.Parameter(torch.randn(97, 16))
    labels, weights = torch.randint(97, (7,)), torch.rand(7)
    weights[2] = 0
    logits = hidden @ weight.T
    logits = softcap * torch.tanh(logits / softcap) if softcap else logits
    (gradient,) = torch.autograd.grad(reference(hidden, weight, labels, weights, 1e-2, softcap)[0], hidden)
    loss = BlockwiseCrossEntropy(weight, 1e-2, 3, softcap=softcap)(hidden, labels, weights)
    counted = (weights > 0).float()
    torch.testing.assert_close(loss.log_z, logits.logsumexp(1) * counted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss.logit_rms, logits.square().mean(1).sqrt() * counted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss.gradient_norm, gradient.norm(dim=1), rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        assert (BlockwiseCrossEntropy(weight)(hidden, labels, weights).gradient_norm == 0).all()
    quiet = BlockwiseCrossEntropy(weight, 1e-2, 3, softcap=softcap)
    quiet.measures_rms = False
    same = quiet(hidden, labels, weights)
    assert same.logit_rms is None
    assert torch.equal(same.total, loss.total)
    assert all(torch.equal(getattr(same, name), getattr(loss, name)) for name in ("nll", "log_z", "gradient_norm"))


def test_nothing_counted_gives_zero_loss_and_gradient():
    hidden = torch.randn(4, 8, requires_grad=True)
    weight = nn.Parameter(torch.randn(10, 8))
    loss = BlockwiseCrossEntropy(weight)(hidden, torch.full((4,), -100), torch.zeros(4))
    loss.total.backward()
    assert loss.total == 0
    assert (hidden.grad == 0).all()
    assert (weight.grad == 0).all()


def test_shapes_of_a_packed_batch_are_flattened():
    weight = nn.Parameter(torch.randn(10, 8))
    loss = BlockwiseCrossEntropy(weight)(torch.randn(2, 3, 8), torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3))
    assert loss.nll.shape == (6,)


MEMORY_PROBE = """
import resource, torch
from torch import nn
from anyglot.lm.loss import BlockwiseCrossEntropy, _BlockwiseLoss
torch.set_num_threads(1)
weight = nn.Parameter(torch.randn(300_000, 256) / 16)
hidden = torch.randn(8192, 256, requires_grad=True)
labels = torch.randint(300_000, (8192,))
loss = BlockwiseCrossEntropy(weight)
loss(hidden[:8], labels[:8], torch.ones(8)).total.backward()  # gradients and libraries exist before the measurement
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loss(hidden, labels, torch.ones(8192)).total.backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
def test_memory_at_300k_ids_and_8192_tokens_stays_under_1_gb():
    """The full logits would take 9.8 GB."""
    assert resource.RLIMIT_AS  # a Unix
    output = subprocess.run([sys.executable, "-c", MEMORY_PROBE], capture_output=True, text=True, check=True).stdout
    assert int(output) < 1e9, f"extra peak {int(output) / 1e6:.0f} MB"


def test_where_no_gradient_is_wanted_none_is_computed(monkeypatch):
    asked = []

    def apply(*arguments, real=_BlockwiseLoss.apply):
        asked.append(any(isinstance(one, torch.Tensor) and one.requires_grad for one in arguments))
        return real(*arguments)

    monkeypatch.setattr(_BlockwiseLoss, "apply", apply)
    hidden, labels = torch.randn(5, 8, requires_grad=True), torch.randint(20, (5,))
    loss = BlockwiseCrossEntropy(nn.Parameter(torch.randn(20, 8)))
    with torch.no_grad():
        nll = loss(hidden, labels, torch.ones(5)).nll
    assert torch.equal(loss(hidden, labels, torch.ones(5)).nll, nll)
    assert asked == [False, True]
