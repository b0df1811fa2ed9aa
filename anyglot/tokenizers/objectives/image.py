"""What an image tokenizer is trained for: pixels, optionally deep features, and late on a patch discriminator."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss

from anyglot.errors import ConfigError
from anyglot.tokenizers.image import Reconstruction
from anyglot.tokenizers.networks.discriminator import PatchDiscriminator
from anyglot.tokenizers.objectives.adversarial import (
    adaptive_weight,
    gradient_at,
    hinge_discriminator,
    hinge_generator,
    with_gradient,
)
from anyglot.tokenizers.objectives.perceptual import PerceptualLoss


@dataclass
class ImageObjectiveConfig:
    """height, width: of a training crop, in pixels; smaller pictures are padded with white. flip: mirror half of the
    crops. shift: move each crop by up to so many pixels, filling up with white.

    l1, l2: weights of the pixel losses, on [-1, 1]. The quantizer's own losses are added as they are.
    perceptual: weight of the feature loss, 0 for none. features, stages: see `PerceptualLoss`. perceptual_pictures:
    how many pictures of each batch it looks at (0: all); it is the dearest term. perceptual_start: its first step.
    adversarial: share of the discriminator's gradient at the output, relative to that of the reconstruction (the
    adaptive weight), 0 for none. discriminator_width, discriminator_layers: see `PatchDiscriminator`.
    discriminator_start: the step from which it trains. adversarial_start: the step from which it counts; over the
    next adversarial_ramp steps its weight grows to the full."""

    height: int = 256
    width: int = 256
    flip: bool = True
    shift: int = 0
    l1: float = 1.0
    l2: float = 0.0
    perceptual: float = 1.0
    features: str = "efficientnet_lite0"
    stages: int = 3
    perceptual_pictures: int = 0
    perceptual_start: int = 0
    adversarial: float = 0.5
    discriminator_width: int = 64
    discriminator_layers: int = 2
    discriminator_start: int = 0
    adversarial_start: int = 10000
    adversarial_ramp: int = 1000

    def __post_init__(self) -> None:
        if self.adversarial > 0 and self.adversarial_start < self.discriminator_start:
            raise ConfigError("adversarial_start: the discriminator counts before it trains (discriminator_start)")
        if min(self.l1, self.l2, self.perceptual, self.adversarial) < 0 or self.l1 + self.l2 + self.perceptual == 0:
            raise ConfigError("l1, l2, perceptual and adversarial must be >= 0, and one of the first three positive")


class ImageObjective(nn.Module):
    """The losses of both players of a VQGAN. Its state is the discriminator's."""

    def __init__(self, config: ImageObjectiveConfig) -> None:
        super().__init__()
        self.config = config
        self.perceptual = PerceptualLoss(config.features, config.stages) if config.perceptual > 0 else None
        self.discriminator: nn.Module | None = None
        if config.adversarial > 0:
            self.discriminator = self.make_discriminator()

    def make_discriminator(self) -> nn.Module:
        """The other player: judges a batch, one logit per patch."""
        return PatchDiscriminator(self.config.discriminator_width, self.config.discriminator_layers)

    def pictures(self, batch: Tensor) -> Tensor:
        """What of a batch the perceptual loss looks at, `[count, 3, height, width]`."""
        return batch[: self.config.perceptual_pictures or None]

    def generator_loss(
        self, model: nn.Module, batch: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor], Reconstruction]:
        """The loss to minimise for the tokenizer, its terms and the reconstruction.

        Args:
            model: an `ImageTokenizer`. batch: pictures `[batch, 3, height, width]` in [-1, 1]. step: from 0.
        """
        reconstruction: Reconstruction = model(batch)
        output = reconstruction.output
        terms = {"l1": l1_loss(output, batch), "l2": mse_loss(output, batch)}
        loss = self.config.l1 * terms["l1"] + self.config.l2 * terms["l2"]
        if self.perceptual is not None and step >= self.config.perceptual_start:
            terms["perceptual"] = self.perceptual(self.pictures(output), self.pictures(batch))
            loss = loss + self.config.perceptual * terms["perceptual"]
        if self.discriminator is not None and step >= self.config.adversarial_start:
            loss, adversarial = self._balanced(loss, output, step)
            terms.update(adversarial)
        quantizer: Any = model.quantizer
        terms["quantizer"] = quantizer.loss(reconstruction.quantized)
        return loss + terms["quantizer"], {k: v.detach() for k, v in terms.items()}, reconstruction

    def discriminator_loss(
        self, batch: Tensor, reconstruction: Reconstruction, step: int
    ) -> tuple[Tensor, dict[str, Tensor]] | None:
        """The loss to minimise for the discriminator, or None before its first step."""
        if self.discriminator is None or step < self.config.discriminator_start:
            return None
        real, fake = self.discriminator(torch.cat([batch, reconstruction.output.detach()])).float().chunk(2)
        loss = hinge_discriminator([real], [fake])
        return loss, {"discriminator": loss.detach(), "real": real.detach().mean(), "fake": fake.detach().mean()}

    def _balanced(self, loss: Tensor, output: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the adversarial term to the reconstruction loss, each differentiated down to the output just once."""
        assert self.discriminator is not None
        adversarial = hinge_generator([self.discriminator(output).float()])
        pull, push = gradient_at(loss, output), gradient_at(adversarial, output)
        ramp = min(1.0, (step - self.config.adversarial_start + 1) / max(1, self.config.adversarial_ramp))
        weight = self.config.adversarial * ramp * adaptive_weight(pull, push)
        total = with_gradient(loss + weight * adversarial, output, pull + weight * push)
        return total, {"adversarial": adversarial, "adversarial_weight": weight}


def crop(
    media: Sequence[np.ndarray], config: ImageObjectiveConfig, generator: np.random.Generator, batch_size: int
) -> Tensor:
    """A training batch `[batch_size, 3, height, width]` in [-1, 1]: random pictures, crops, mirrorings and shifts."""
    chosen = generator.integers(len(media), size=batch_size)
    pictures = np.stack([random_window(media[index], config, generator) for index in chosen])
    # In NumPy: a torch operation here, in the loop's loader thread, would start a second team of spinning threads.
    return torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32, order="C") / 127.5 - 1.0)


def random_window(picture: np.ndarray, config: ImageObjectiveConfig, generator: np.random.Generator) -> np.ndarray:
    """A random window of a picture `[height, width, channels]` on a white ground that reaches `shift` pixels beyond."""
    size = (config.height, config.width)
    around = [max(0, wanted - side) for side, wanted in zip(picture.shape, size, strict=False)]  # centre small ones
    margins = [(space // 2 + config.shift, space - space // 2 + config.shift) for space in around]
    ground = np.pad(picture, (*margins, (0, 0)), constant_values=255)
    top, left = (int(generator.integers(s - w + 1)) for s, w in zip(ground.shape, size, strict=False))
    window = ground[top : top + size[0], left : left + size[1]]
    return window[:, ::-1] if config.flip and generator.random() < 0.5 else window


def show(log: Any, step: int, model: Any, media: Sequence[np.ndarray], decoded: Sequence[np.ndarray]) -> None:
    """Log pictures above their reconstructions."""
    height, width = (min(picture.shape[axis] for picture in [*media, *decoded]) for axis in (0, 1))
    rows = [np.concatenate([picture[:height, :width] for picture in row], 1) for row in (media, decoded)]
    log.pictures(step, "original above reconstruction", np.concatenate(rows)[None])


OBJECTIVE = ImageObjective
CONFIG = ImageObjectiveConfig
