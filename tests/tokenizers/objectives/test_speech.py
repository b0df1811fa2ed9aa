"""The training losses of a speech tokenizer and the batches it learns from."""

import numpy as np
import pytest
import torch

from anyglot.config import load_mapping, typed
from anyglot.errors import ConfigError
from anyglot.tokenizers.objectives.speech import SpeechObjective, SpeechObjectiveConfig, crop
from anyglot.tokenizers.speech import SpeechConfig, SpeechTokenizer

SMALL = {"seconds": 0.1, "mel_windows": [256, 64], "mel_bands": [15, 5]}
ADVERSARIAL = {**SMALL, "stft_windows": [128], "periods": [3], "discriminator_channels": 2}


def model():
    torch.manual_seed(0)
    return SpeechTokenizer(
        SpeechConfig(
            dim=8,
            encoder={"type": "mel", "hop": 160, "stacked": 1, "window": 256, "mels": 20, "channels": 16, "blocks": 1},
            decoder={"type": "istft", "hop": 160, "window": 320, "delay": 80, "channels": 16, "blocks": 1},
            quantizer={"type": "residual", "levels": 2, "inner": {"type": "vq", "size": 8, "kmeans_init": False}},
        )
    ).train()


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(2, 1600, generator=generator)


def test_without_a_discriminator_it_is_mel_and_quantizer():
    objective = SpeechObjective(SpeechObjectiveConfig(**SMALL))
    assert objective.discriminator is None
    assert list(objective.parameters()) == []
    loss, terms, reconstruction = objective.generator_loss(model(), batch(), 0)
    assert loss.item() == pytest.approx(float(15.0 * terms["mel"] + terms["quantizer"]), rel=1e-5)
    assert reconstruction.output.shape == (2, 1600)
    assert objective.discriminator_loss(batch(), reconstruction, 0) is None


def test_the_discriminator_starts_at_its_step_and_keeps_its_gradients_to_itself():
    objective = SpeechObjective(SpeechObjectiveConfig(**ADVERSARIAL, discriminator_start=5))
    tokenizer = model()
    _, terms, reconstruction = objective.generator_loss(tokenizer, batch(), 4)
    assert "adversarial" not in terms
    assert objective.discriminator_loss(batch(), reconstruction, 4) is None
    loss, terms, reconstruction = objective.generator_loss(tokenizer, batch(), 5)
    assert {"adversarial", "feature_matching"} <= set(terms)
    loss.backward()
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert all(parameter.requires_grad for parameter in objective.parameters())
    assert all(parameter.grad is not None for parameter in tokenizer.decoder.parameters())
    tokenizer.zero_grad(set_to_none=True)
    answer = objective.discriminator_loss(batch(), reconstruction, 5)
    assert answer is not None
    answer[0].backward()
    assert all(parameter.grad is not None for parameter in objective.discriminator.parameters())
    assert all(parameter.grad is None for parameter in tokenizer.parameters())


def gradients(commitment):
    """Of the output and of the encoder's last layer, with balanced losses and that commitment weight."""
    torch.manual_seed(1)
    objective = SpeechObjective(SpeechObjectiveConfig(**ADVERSARIAL, balanced=True, waveform=1.0))
    tokenizer = model()
    tokenizer.quantizer.weights["commitment"] = commitment
    at_output = []

    def watch(module, inputs, result):
        result[0].register_hook(at_output.append)

    tokenizer.decoder.register_forward_hook(watch)
    objective.generator_loss(tokenizer, batch(), 0)[0].backward()
    return at_output[-1], tokenizer.encoder.project.weight.grad


def test_balanced_gradients_leave_the_commitment_outside():
    (output, without), (same, once), (_, twice) = (gradients(weight) for weight in (0.0, 1.0, 2.0))
    assert 0.2 < output.norm(dim=1).mean() < 1.5  # about 1: the shares add up
    assert torch.equal(output, same)
    assert (once - without).abs().max() > 1e-6
    torch.testing.assert_close(twice - once, once - without, atol=1e-5, rtol=1e-3)  # at its own scale, not a share


def test_training_lowers_the_loss():
    objective = SpeechObjective(SpeechObjectiveConfig(**SMALL))
    tokenizer = model()
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss, terms, _ = objective.generator_loss(tokenizer, batch(), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(terms["mel"]))
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_crops_are_a_function_of_the_generator_and_come_from_the_sounds():
    media = [np.arange(1, length + 1, dtype=np.float32) + 1e5 * index for index, length in enumerate((5000, 700, 1600))]
    config = SpeechObjectiveConfig(**SMALL)
    first, again = (crop(media, config, np.random.default_rng(3), 32) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (32, 1600)
    assert not torch.equal(first, crop(media, config, np.random.default_rng(4), 32))
    lengths = set()
    for row in first.numpy():
        piece = row[row != 0]
        assert np.array_equal(np.diff(piece), np.ones(len(piece) - 1))  # one contiguous piece of one sound
        inside = np.flatnonzero(row)
        assert inside[-1] - inside[0] + 1 == len(piece)
        lengths.add(len(piece))
    assert lengths == {1600, 700}


@pytest.mark.parametrize(
    "fields",
    [{"mel": -1.0}, {"mel": 0.0}, {"mel_windows": [256], "mel_bands": [20, 5]}, {"seconds": 0.01}],
)
def test_weights_and_scales_that_cannot_work_are_refused(fields):
    with pytest.raises(ConfigError):
        SpeechObjectiveConfig(**{**SMALL, **fields})


def test_a_sample_rate_unlike_the_tokenizers_is_refused():
    objective = SpeechObjective(SpeechObjectiveConfig(**SMALL, sample_rate=24000))
    with pytest.raises(ConfigError, match="24000"):
        objective.generator_loss(model(), batch(), 0)


@pytest.mark.parametrize("name", ["demo/speech", "speech/seanet", "speech/vocos", "speech/semantic"])
def test_shipped_configs_make_a_model_and_an_objective_that_fit(name):
    mapping = load_mapping(name)
    tokenizer = SpeechTokenizer(typed(SpeechConfig, mapping["model"], name))
    config = typed(SpeechObjectiveConfig, mapping["objective"], name)
    assert config.sample_rate == tokenizer.config.sample_rate
    assert config.distillation == 0 or config.dim == tokenizer.config.dim
    SpeechObjective(config)
    assert tokenizer.spec.bits_per_second > 0
