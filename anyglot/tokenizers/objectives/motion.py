"""What a motion tokenizer is trained for: features and how they change, with more weight on some (T2M-GPT)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from anyglot.errors import ConfigError
from anyglot.tokenizers.motion import Reconstruction
from anyglot.tokenizers.skeletons.figures import FIGURES


@dataclass
class MotionObjectiveConfig:
    """frames: of a training piece, a multiple of the network's stride; shorter motions hold their last frame.

    velocity: weight of the smooth L1 loss of frame-to-frame differences, beside that of the features, which is 1.
    stressed, stress: features [start, end) whose loss is added once more with this weight: HumanML3D's local joint
    positions are [4, 67], of weight 0.5 in T2M-GPT. mirror: skeleton (see `figures.FIGURES`) whose motions are shown in
    a mirror half of the time, or empty."""

    frames: int = 64
    velocity: float = 0.5
    stressed: list[int] = field(default_factory=list)
    stress: float = 0.5
    mirror: str = ""

    def __post_init__(self) -> None:
        if self.frames < 2 or self.velocity < 0 or self.stress < 0 or len(self.stressed) not in (0, 2):
            raise ConfigError("frames must be 2 or more, velocity and stress 0 or more, stressed [start, end) or empty")
        if self.stressed and not 0 <= self.stressed[0] < self.stressed[1]:
            raise ConfigError(f"stressed: features [start, end), start before end, got {self.stressed}")
        if self.mirror and (self.mirror not in FIGURES or FIGURES[self.mirror].mirrored is None):
            known = [name for name, figure in FIGURES.items() if figure.mirrored]
            raise ConfigError(f"mirror: {self.mirror!r} is none of {', '.join(known)}")


class MotionObjective(nn.Module):
    """The loss of a motion tokenizer. There is no second player."""

    discriminator: nn.Module | None = None

    def __init__(self, config: MotionObjectiveConfig) -> None:
        super().__init__()
        self.config = config

    def generator_loss(self, model: Any, batch: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor], Reconstruction]:
        """The loss to minimise, its terms and the reconstruction, of motions `[batch, frames, features]`."""
        reconstruction: Reconstruction = model(batch)
        output, wanted = reconstruction.output, model.normalised(batch)
        terms = {"features": smooth_l1_loss(output, wanted)}
        terms["velocity"] = smooth_l1_loss(output.diff(dim=1), wanted.diff(dim=1))
        loss = terms["features"] + self.config.velocity * terms["velocity"]
        if self.config.stressed:
            if self.config.stressed[1] > batch.shape[-1]:
                raise ConfigError(f"stressed: {self.config.stressed}, but motions have {batch.shape[-1]} features")
            some = slice(*self.config.stressed)
            terms["stressed"] = smooth_l1_loss(output[..., some], wanted[..., some])
            loss = loss + self.config.stress * terms["stressed"]
        terms["quantizer"] = model.quantizer.loss(reconstruction.quantized)
        return loss + terms["quantizer"], {k: v.detach() for k, v in terms.items()}, reconstruction

    def discriminator_loss(
        self, batch: Tensor, reconstruction: Reconstruction, step: int
    ) -> tuple[Tensor, dict[str, Tensor]] | None:
        """None: there is no discriminator."""
        return None


def crop(
    media: Sequence[np.ndarray], config: MotionObjectiveConfig, generator: np.random.Generator, batch_size: int
) -> Tensor:
    """A training batch `[batch_size, frames, features]`: random motions, a random piece of each."""
    mirrored = FIGURES[config.mirror].mirrored if config.mirror else None
    pieces = []
    for index in generator.integers(len(media), size=batch_size):
        motion = media[index]
        start = int(generator.integers(max(1, len(motion) - config.frames + 1)))
        piece = motion[start : start + config.frames]
        if config.mirror and motion.shape[1] != FIGURES[config.mirror].features:
            raise ConfigError(
                f"mirror: {config.mirror} has {FIGURES[config.mirror].features} features, motions {motion.shape[1]}"
            )
        if mirrored is not None and generator.random() < 0.5:
            piece = mirrored(piece)
        pieces.append(np.pad(piece, ((0, config.frames - len(piece)), (0, 0)), mode="edge"))
    return torch.from_numpy(np.stack(pieces))


def show(log: Any, step: int, model: Any, media: Sequence[np.ndarray], decoded: Sequence[np.ndarray]) -> None:
    """Draw the features over time, each scaled by its spread, originals above reconstructions."""
    for index, pair in enumerate(zip(media, decoded, strict=True)):
        shades = [
            (np.clip((m - model.mean.cpu().numpy()) / model.std.cpu().numpy() / 6 + 0.5, 0, 1) * 255) for m in pair
        ]
        length = min(len(shade) for shade in shades)
        strip = np.concatenate([shade[:length].T for shade in shades]).astype(np.uint8)
        log.pictures(step, f"original above reconstruction/{index}", np.repeat(strip[None, :, :, None], 3, axis=3))


OBJECTIVE = MotionObjective
CONFIG = MotionObjectiveConfig
