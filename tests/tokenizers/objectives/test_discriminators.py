"""The two discriminators of speech: shapes, folding, and that each can learn to tell a buzz from a tone."""

import pytest
import torch

from anyglot.tokenizers.objectives.adversarial import hinge_discriminator
from anyglot.tokenizers.objectives.period_discriminator import MultiPeriodDiscriminator, PeriodDiscriminator
from anyglot.tokenizers.objectives.stft_discriminator import MultiScaleSTFTDiscriminator

KINDS = {
    "stft": lambda: MultiScaleSTFTDiscriminator([256, 128], channels=4),
    "period": lambda: MultiPeriodDiscriminator([2, 3, 5], channels=4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_features_of_every_scale(kind):
    discriminator = KINDS[kind]()
    scores, features = discriminator(torch.randn(2, 1001))  # a length that no period divides
    assert len(scores) == len(features) == (2 if kind == "stft" else 3)
    assert all(score.shape[:2] == (2, 1) for score in scores)
    assert all(len(maps) == 5 for maps in features)


@pytest.mark.parametrize(("kind", "lr", "steps"), [("stft", 1e-2, 40), ("period", 3e-3, 70)])
def test_it_learns_to_tell_sounds_apart(kind, lr, steps):
    torch.manual_seed(0)
    discriminator = KINDS[kind]()
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=lr)
    time = torch.arange(1024) / 16000
    for _ in range(steps):
        phase = 6.3 * torch.rand(4, 1)
        real = 0.3 * torch.sin(2 * torch.pi * 300 * time + phase)
        fake = real.sign() * 0.2
        loss = hinge_discriminator(discriminator(real)[0], discriminator(fake)[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5  # 1 is chance


def test_a_period_sees_each_of_its_phases_alone():
    torch.manual_seed(0)
    discriminator = PeriodDiscriminator(5, channels=2)
    audio = torch.randn(1, 500)
    changed = audio.clone()
    changed[:, 3::5] += 1.0
    difference = (discriminator(audio)[0] != discriminator(changed)[0]).any(dim=2)[0, 0]
    assert difference.tolist() == [False, False, False, True, False]
