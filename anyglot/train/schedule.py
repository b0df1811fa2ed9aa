"""Learning-rate schedules and the time budget: pure functions of the step."""

from dataclasses import dataclass
from math import cos, pi

from anyglot.errors import ConfigError

KINDS = ("cosine", "wsd", "constant")


@dataclass
class ScheduleConfig:
    """Warm-up, then one of three shapes.

    kind: "cosine" falls from 1 to `final` along half a cosine; "wsd" (warm-up, stable, decay: MiniCPM,
    arXiv 2404.06395) stays at 1 and falls linearly over the last `decay` share of the steps; "constant" stays at 1.
    warmup: steps of linear rise from 1 / warmup. final: last factor. decay: share of all steps, "wsd" only.
    """

    kind: str = "cosine"
    warmup: int = 100
    final: float = 0.1
    decay: float = 0.2

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"schedule.kind {self.kind!r} is unknown; valid: {', '.join(KINDS)}")
        if self.warmup < 0 or not 0 <= self.final <= 1 or not 0 < self.decay <= 1:
            raise ConfigError("schedule: warmup must be >= 0, final in [0, 1] and decay in (0, 1]")


def factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """What to multiply the peak learning rate with at `step` of `steps`, counted from 0."""
    warmup = min(config.warmup, steps // 2)  # a run of very few steps still gets past its warm-up
    if step < warmup:
        return (step + 1) / warmup
    if config.kind == "constant":
        return 1.0
    start = warmup if config.kind == "cosine" else max(warmup, steps - round(config.decay * steps))
    progress = min(max((step - start) / max(steps - start, 1), 0.0), 1.0)
    if config.kind == "wsd":
        return 1.0 - (1.0 - config.final) * progress
    return config.final + (1.0 - config.final) * 0.5 * (1.0 + cos(pi * progress))


def steps_within(minutes: float, spent: float, step: int, step_seconds: float) -> int:
    """How many steps in all fit a budget of `minutes`, after `step` steps took `spent` seconds.

    `step_seconds` is the measured time of one step. At least one more step is always granted.
    """
    left = max(60.0 * minutes - spent, 0.0)
    return step + max(1, int(left / max(step_seconds, 1e-6)))
