import pytest
import torch
from torch import nn

from anyglot.tokenizers.objectives.adversarial import (
    adaptive_weight,
    feature_matching,
    gradient_at,
    hinge_discriminator,
    hinge_generator,
    with_gradient,
)


def test_hinge_values_by_hand():
    real, fake = [torch.tensor([2.0, 0.5])], [torch.tensor([-3.0, 0.0])]
    assert hinge_discriminator(real, fake).item() == pytest.approx(0.5 * (0.25 + 0.5))
    assert hinge_generator(fake).item() == pytest.approx(1.5)


def test_several_discriminators_count_alike_whatever_their_size():
    small, large = torch.zeros(2), torch.zeros(2000)
    assert hinge_discriminator([small, large], [small, large]).item() == pytest.approx(1.0)
    assert hinge_generator([small + 1, large + 3]).item() == pytest.approx(-2.0)


def test_feature_matching_is_relative_and_spares_the_real_side():
    real = [[torch.full((3,), 2.0, requires_grad=True)]]
    fake = [[torch.full((3,), 3.0, requires_grad=True)]]
    loss = feature_matching(real, fake)
    assert loss.item() == pytest.approx(0.5, rel=1e-4)
    loss.backward()
    assert real[0][0].grad is None
    assert fake[0][0].grad is not None


def test_adaptive_weight_equalises_both_pulls_with_a_frozen_last_layer():
    torch.manual_seed(0)
    body, last = nn.Linear(4, 4), nn.Linear(4, 3).requires_grad_(False)
    output = last(body(torch.randn(8, 4)))
    reconstruction, adversarial = (output**2).mean(), 7 * output.sum()
    g_rec, g_adv = gradient_at(reconstruction, output), gradient_at(adversarial, output)
    weight = adaptive_weight(g_rec, g_adv)
    assert (weight * g_adv).norm().item() == pytest.approx(g_rec.norm().item(), rel=1e-3)
    assert body.weight.grad is None
    assert adaptive_weight(g_rec, 0 * g_adv, maximum=2.0).item() == 2.0


def test_carried_gradients_equal_a_second_backward():
    torch.manual_seed(0)
    layer, twin = nn.Linear(4, 3), nn.Linear(4, 3)
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(8, 4)
    output = layer(x)
    loss = output.pow(2).mean() + 0.3 * output.sin().sum()
    carried = with_gradient(
        loss, output, gradient_at(output.pow(2).mean(), output) + 0.3 * gradient_at(output.sin().sum(), output)
    )
    carried.backward()
    plain = twin(x)
    (plain.pow(2).mean() + 0.3 * plain.sin().sum()).backward()
    assert carried.item() == pytest.approx(loss.item())
    torch.testing.assert_close(layer.weight.grad, twin.weight.grad)
