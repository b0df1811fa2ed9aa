"""How the next id is drawn, per modality."""

from dataclasses import dataclass

import torch
from torch import Tensor

from anyglot.errors import ConfigError


@dataclass
class SamplingConfig:
    """temperature: 0 takes the likeliest id. top_k: draw among so many, 0 for all.

    top_p: draw among the likeliest that together have this probability (nucleus sampling, arXiv 1904.09751).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"sampling: temperature {self.temperature} and top_k {self.top_k} must be >= 0, "
                f"and top_p {self.top_p} in (0, 1]"
            )


def sample(logits: Tensor, config: SamplingConfig, noise: Tensor) -> Tensor:
    """Draw one choice per row.

    Args:
        logits: float `[rows, choices]`.
        noise: uniform in (0, 1), `[rows, choices]`, from each row's own generator: what a row gets does not depend
            on the rows beside it.
    Returns:
        int64 `[rows]`.
    """
    if config.temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / config.temperature
    if config.top_k and config.top_k < logits.shape[-1]:
        smallest = logits.topk(config.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if config.top_p < 1:
        ordered, order = logits.softmax(-1).sort(descending=True)
        before = ordered.cumsum(-1) - ordered  # probability of all likelier choices: the likeliest is always kept
        dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(1, order, before >= config.top_p)
        logits = logits.masked_fill(dropped, -torch.inf)
    return (logits - (-noise.log()).log()).argmax(-1)  # Gumbel-max
