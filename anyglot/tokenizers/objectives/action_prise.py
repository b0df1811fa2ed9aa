"""What PRISE is trained for: actions from observation and code, and what will be observed (arXiv:2402.10450)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from anyglot.errors import ConfigError
from anyglot.tokenizers.action_prise import Reconstruction


@dataclass
class PriseObjectiveConfig:
    """steps: how many are foreseen from the first one of a training piece, which is one longer.

    forward: weight of the squared error of the observations foreseen, beside that of the actions, which is 1."""

    steps: int = 3
    forward: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.forward < 0:
            raise ConfigError("steps must be 1 or more, forward 0 or more")


class PriseObjective(nn.Module):
    """The loss of PRISE's first stage. There is no second player."""

    discriminator: nn.Module | None = None

    def __init__(self, config: PriseObjectiveConfig) -> None:
        super().__init__()
        self.config = config

    def generator_loss(self, model: Any, batch: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor], Reconstruction]:
        """The loss to minimise, its terms and the reconstruction, of pieces `[batch, steps + 1, features]`."""
        found: Reconstruction = model(batch)
        observed, done = model.split(model.normalised(batch))
        terms = {"actions": mse_loss(found.actions, done)}
        terms["forward"] = mse_loss(found.observations[:, 1:], observed[:, 1:])
        terms["quantizer"] = model.quantizer.loss(found.quantized)
        loss = terms["actions"] + self.config.forward * terms["forward"] + terms["quantizer"]
        return loss, {name: term.detach() for name, term in terms.items()}, found

    def discriminator_loss(
        self, batch: Tensor, reconstruction: Reconstruction, step: int
    ) -> tuple[Tensor, dict[str, Tensor]] | None:
        """None: there is no discriminator."""
        return None


def crop(
    media: Sequence[np.ndarray], config: PriseObjectiveConfig, generator: np.random.Generator, batch_size: int
) -> Tensor:
    """A training batch `[batch_size, steps + 1, features]`: random demonstrations, a random piece of each."""
    length, pieces = config.steps + 1, []
    for index in generator.integers(len(media), size=batch_size):
        steps = media[index]
        start = int(generator.integers(max(1, len(steps) - length + 1)))
        piece = steps[start : start + length]
        pieces.append(np.pad(piece, ((0, length - len(piece)), (0, 0)), mode="edge"))
    return torch.from_numpy(np.stack(pieces))


def show(log: Any, step: int, model: Any, media: Sequence[np.ndarray], decoded: Sequence[np.ndarray]) -> None:
    """Draw actions over time, original above the one decoded where what is observed is known."""
    width = model.config.observation
    codes = model.encode(media)
    for index, (steps, found) in enumerate(
        zip(media, model.decode(codes, [steps[:, :width] for steps in media]), strict=True)
    ):
        mean, std = model.mean.cpu().numpy()[width:], model.std.cpu().numpy()[width:]
        shades = [np.clip((m[:, width:] - mean) / std / 6 + 0.5, 0, 1) * 255 for m in (steps, found)]
        strip = np.concatenate([shade.T for shade in shades]).astype(np.uint8)
        log.pictures(step, f"original above reconstruction/{index}", np.repeat(strip[None, :, :, None], 3, axis=3))


OBJECTIVE = PriseObjective
CONFIG = PriseObjectiveConfig
