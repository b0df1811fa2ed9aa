"""A temperature that falls from one value to another as training goes on; its progress is part of the state."""

import torch
from torch import Tensor

from anyglot.errors import ConfigError
from anyglot.tokenizers.quantizers.buffers import Fp32Buffers


class Annealed(Fp32Buffers):
    """`start` times a constant factor per step, down (or up) to `end` after `steps` steps; constant for 0 steps."""

    updates: Tensor

    def __init__(self, start: float, end: float, steps: int) -> None:
        super().__init__()
        self.start, self.end, self.steps = start, end, steps
        self.register_buffer("updates", torch.tensor(0))

    @property
    def value(self) -> float:
        """The temperature of this step."""
        if self.steps == 0:
            return self.start
        return float(self.start * (self.end / self.start) ** min(int(self.updates) / self.steps, 1.0))

    def advance(self) -> None:
        """One step further."""
        self.updates += 1


def check_annealing(start: float, end: float, steps: int, where: str) -> None:
    """Raise ConfigError for `temperature`, `final_temperature` (0: stays) and `anneal_steps` that cannot work."""
    if start <= 0:
        raise ConfigError(f"{where}.temperature: must be above 0, got {start}")
    if end < 0 or steps < 0:
        raise ConfigError(f"{where}.final_temperature, anneal_steps: must be 0 or more, got {end}, {steps}")
    if (end > 0) != (steps > 0):
        raise ConfigError(
            f"{where}: final_temperature and anneal_steps go together, got {end} and {steps}; set both, or neither"
        )
