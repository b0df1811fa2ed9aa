"""The balancer: gradients at the output have the stated shares, whatever the scale of the losses."""

import pytest
import torch

from anyglot.tokenizers.objectives.balancer import Balancer


def test_shares_of_the_gradient_are_the_weights():
    torch.manual_seed(0)
    balancer = Balancer({"small": 1.0, "large": 3.0}, decay=0.0)
    output = torch.randn(2, 50, requires_grad=True)
    # Orthogonal gradients, so that their parts can be told apart: one loss sees the first half, one the second.
    losses = {"small": output[:, :25].square().mean(), "large": 1e4 * output[:, 25:].abs().mean()}
    balancer(losses, output).backward()
    norms = [output.grad[:, half].norm(dim=1).mean() for half in (slice(0, 25), slice(25, 50))]
    assert norms[0] / sum(norms) == pytest.approx(0.25, abs=1e-3)
    assert sum(norms) == pytest.approx(1.0, abs=1e-3)


def test_an_absent_loss_leaves_its_share_to_the_others():
    balancer = Balancer({"mel": 1.0, "adversarial": 1.0})
    output = torch.randn(2, 8, requires_grad=True)
    balancer({"mel": output.square().sum()}, output).backward()
    assert output.grad.norm(dim=1).mean() == pytest.approx(1.0, abs=1e-3)


def test_norms_are_smoothed_without_a_bias_towards_the_start():
    balancer = Balancer({"loss": 1.0}, decay=0.5)
    output = torch.zeros(1, 4, requires_grad=True)
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0])
    norms = []
    for scale in (1.0, 3.0):
        output.grad = None
        balancer({"loss": (scale * weights * output).sum()}, output).backward()
        norms.append(float(output.grad.norm()))
    assert norms[0] == pytest.approx(1.0)
    assert norms[1] == pytest.approx(3.0 / ((0.5 * 1.0 + 3.0) / 1.5), rel=1e-5)


def test_state_survives_saving():
    balancer = Balancer({"loss": 1.0})
    output = torch.randn(2, 8, requires_grad=True)
    balancer({"loss": output.square().sum()}, output)
    other = Balancer({"loss": 1.0})
    other.load_state_dict(balancer.state_dict())
    gradients = []
    for each in (balancer, other):
        output.grad = None
        each({"loss": (2 * output).sum()}, output).backward()
        gradients.append(output.grad.clone())
    assert torch.equal(*gradients)
