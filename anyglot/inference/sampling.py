"""How the next id is drawn: settings per modality, and noise that is a function of a request's seed alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from anyglot.errors import ConfigError

NUCLEUS = 256  # choices that are put in order first where top_p is asked for: seldom are more needed
GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


@dataclass
class SamplingConfig:
    """temperature: 0 takes the likeliest id. top_k: draw among so many, 0 for all.

    top_p: draw among the likeliest that together have this probability (nucleus sampling, arXiv 1904.09751).
    repetition_penalty: divides the positive logits of ids that stand in the span, or the text, that is being written,
    and multiplies the negative ones (CTRL, arXiv 1909.05858); 1 for none.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and isfinite(self.temperature)) or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"sampling: temperature {self.temperature} and top_k {self.top_k} must be >= 0, "
                f"and top_p {self.top_p} in (0, 1]"
            )
        if not (self.repetition_penalty > 0 and isfinite(self.repetition_penalty)):
            raise ConfigError(f"sampling: repetition_penalty {self.repetition_penalty} must be > 0; 1 is none")


def sample(logits: Tensor, config: SamplingConfig, ids: Tensor, keys: Tensor) -> Tensor:
    """Draw one choice per row.

    Args:
        logits: float `[rows, choices]`.
        ids: int64 `[choices]`, the id that each choice is.
        keys: int64 `[rows]`, see `noise_keys`: what a row gets does not depend on the rows beside it.
    Returns:
        int64 `[rows]`, the choices.
    """
    if config.temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / config.temperature
    if not 0 < config.top_k < logits.shape[-1] and config.top_p == 1:
        return (logits - waits(keys, ids[None]).log()).argmax(-1)
    logits, choices = _likeliest(logits, config)
    return choices.gather(1, (logits - waits(keys, ids[choices]).log()).argmax(-1, keepdim=True))[:, 0]


def _likeliest(logits: Tensor, config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """The logits that top_k and top_p leave, falling, and which choices they are; both `[rows, kept]`.

    Only as many are put in order as are needed. Rows that keep fewer than others have minus infinity behind theirs.
    """
    total = logits.shape[-1]
    width = min(config.top_k or NUCLEUS, total)
    kept, choices = logits.topk(width)
    if config.top_p == 1:
        return kept, choices
    mass = (kept if config.top_k else logits).logsumexp(-1, keepdim=True)
    while True:
        shares = (kept - mass).exp()
        through = shares.cumsum(-1)
        if config.top_k or width == total or bool((through[:, -1] >= config.top_p).all()):
            likelier = through - shares  # probability of all likelier choices: the likeliest is always kept
            return kept.masked_fill(likelier >= config.top_p, -torch.inf), choices
        width = min(8 * width, total)
        kept, choices = logits.topk(width)


def penalise(logits: Tensor, ids: Tensor, seen: Sequence[int], penalty: float) -> None:
    """Make ids that were `seen` less likely, in place. logits: `[choices]`; ids: `[choices]`, rising."""
    again = torch.tensor(sorted(set(seen)), device=ids.device)
    places = torch.searchsorted(ids, again).clamp(max=len(ids) - 1)
    places = places[ids[places] == again]
    old = logits[places]
    logits[places] = torch.where(old > 0, old / penalty, old * penalty)


def noise_keys(seeds: Sequence[int], steps: Sequence[int], device: torch.device) -> Tensor:
    """int64 `[rows]`: from what each row draws at this step of its own. Any integer is a seed."""
    wrapped = [(seed + 2**63) % 2**64 - 2**63 for seed in seeds]
    rows = _scrambled(torch.tensor(wrapped, device=device) * GOLDEN)
    return _scrambled(rows + torch.tensor(steps, device=device) * GOLDEN)


def waits(keys: Tensor, ids: Tensor) -> Tensor:
    """Exponentially distributed numbers, fp32 `[rows, choices]`: the choice with the least wait / probability is drawn.

    A function of key and id alone (SplitMix64, Steele et al. 2014): the same on every device and whatever else may be
    chosen. ids: `[rows, choices]` or `[1, choices]`.
    """
    bits = _scrambled(keys[:, None] + (ids + 1) * GOLDEN)
    uniform = (((bits >> 11) & (2**53 - 1)).double() + 0.5) * 2.0**-53
    return -torch.log1p(-uniform).float()


def _scrambled(z: Tensor) -> Tensor:
    """SplitMix64's finaliser of int64 numbers, which wrap."""
    z = (z ^ ((z >> 30) & (2**34 - 1))) * FIRST
    z = (z ^ ((z >> 27) & (2**37 - 1))) * SECOND
    return z ^ ((z >> 31) & (2**33 - 1))
