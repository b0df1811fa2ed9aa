"""What a video tokenizer is trained for: as a picture tokenizer, with frames in a row and a discriminator of clips."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anyglot.errors import ConfigError
from anyglot.tokenizers.networks.discriminator import ClipDiscriminator
from anyglot.tokenizers.objectives.image import ImageObjective, ImageObjectiveConfig, random_window

SHOWN = 6  # frames of a clip in TensorBoard


@dataclass
class VideoObjectiveConfig(ImageObjectiveConfig):
    """frames: of a training clip, 1 more than a multiple of the network's `time_stride`; a shorter clip holds its last
    frame. skip: up to so many frames are left out between two, drawn for each clip: faster motion. stills: share of
    the batches that are pictures, clips of one frame. The rest: see `ImageObjectiveConfig`; perceptual_pictures counts
    frames, spread over the clips."""

    frames: int = 9
    skip: int = 0
    stills: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 1 or self.skip < 0 or not 0 <= self.stills <= 1:
            raise ConfigError("frames must be at least 1, skip 0 or more, stills a share from 0 to 1")


class VideoObjective(ImageObjective):
    """The losses of both players of a video VQGAN. Its state is the discriminator's."""

    config: VideoObjectiveConfig

    def make_discriminator(self) -> nn.Module:
        return ClipDiscriminator(self.config.discriminator_width, self.config.discriminator_layers)

    def pictures(self, batch: Tensor) -> Tensor:
        frames = batch.transpose(1, 2).flatten(0, 1)
        count = self.config.perceptual_pictures or len(frames)
        return frames[
            torch.arange(min(count, len(frames)), device=batch.device) * len(frames) // min(count, len(frames))
        ]


def crop(
    media: Sequence[np.ndarray], config: VideoObjectiveConfig, generator: np.random.Generator, batch_size: int
) -> Tensor:
    """A training batch `[batch_size, 3, frames, height, width]` in [-1, 1]: random clips, crops and mirrorings."""
    frames = 1 if generator.random() < config.stills else config.frames
    chosen = generator.integers(len(media), size=batch_size)
    clips = np.stack([_window(media[index], frames, config, generator) for index in chosen])
    return torch.from_numpy(clips.transpose(0, 4, 1, 2, 3).astype(np.float32, order="C") / 127.5 - 1.0)


def _window(clip: np.ndarray, frames: int, config: VideoObjectiveConfig, generator: np.random.Generator) -> np.ndarray:
    """A random window in space and time of a clip, `[frames, height, width, 3]`: one place and mirroring for all."""
    step = 1 + int(generator.integers(config.skip + 1))
    reach = (frames - 1) * step + 1
    start = int(generator.integers(max(1, len(clip) - reach + 1)))
    times = np.minimum(start + step * np.arange(frames), len(clip) - 1)
    stacked = clip[times].transpose(1, 2, 0, 3)  # [height, width, frames, 3]
    window = random_window(stacked.reshape(*stacked.shape[:2], -1), config, generator)
    return window.reshape(*window.shape[:2], frames, 3).transpose(2, 0, 1, 3)


def show(log: Any, step: int, model: Any, media: Sequence[np.ndarray], decoded: Sequence[np.ndarray]) -> None:
    """Log some frames of each clip, side by side, above their reconstructions."""
    strips = []
    for original, drawn in zip(media, decoded, strict=True):
        times = np.arange(SHOWN) * (len(original) - 1) // (SHOWN - 1)
        height, width = original.shape[1:3]
        strips.append(np.concatenate([original[times], drawn[times, :height, :width]], 1))  # one above the other
    for index, strip in enumerate(strips):
        log.pictures(step, f"original above reconstruction/{index}", np.concatenate(list(strip), 1)[None])


OBJECTIVE = VideoObjective
CONFIG = VideoObjectiveConfig
