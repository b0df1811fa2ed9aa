"""A figure that is measured item by item, so that it can be given an interval and held against another."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LEVEL = 0.95  # of intervals
NORMAL = 1.959964  # standard deviations of a normal distribution that hold so much of it
RESAMPLES = 2000
FEWEST = 10  # groups from which on a difference may be called certain: a bootstrap of fewer is too sure of itself

SCALES: dict[str, Callable[[Any], Any]] = {  # what is made of the ratio
    "": lambda ratio: ratio,
    "psnr": lambda ratio: 10 * np.log10(255.0**2 / np.maximum(ratio, 1e-9)),  # dB of a mean squared error of 0 to 255
}


@dataclass
class Score:
    """The sum of `numerators` by the sum of `denominators`, on a scale: a share, a mean, an error rate over all words.

    ids: of the items, in order. failed: item -> why nothing was measured of it. It counts in no mean: what a mean of
    the others leaves out has to be told beside it. groups: of which group each item is, such as pictures of one prompt,
    which tell less than as many of different prompts; none: every item is its own.
    """

    ids: list[str]
    numerators: list[float]
    denominators: list[float]
    scale: str = ""
    failed: dict[str, str] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)

    @staticmethod
    def mean(
        ids: Sequence[str],
        values: Iterable[float],
        scale: str = "",
        failed: Mapping[str, str] = {},
        groups: Sequence[str] = (),
    ) -> "Score":
        """The mean of one value per item; of truth values, the share of true ones."""
        numbers = [float(value) for value in values]
        return Score(list(ids), numbers, [1.0] * len(numbers), scale, dict(failed), list(groups))

    @property
    def value(self) -> float | None:
        """The figure; None if there is nothing to divide by."""
        total = sum(self.denominators)
        return float(SCALES[self.scale](sum(self.numerators) / total)) if total else None

    def interval(self, seed: int = 0) -> tuple[float, float] | None:
        """The 95 % percentile bootstrap interval over groups (Efron 1979); None of fewer than two.

        Of items that are all 0 or all 1, as no resample differs then: Wilson's interval of a share (1927), of as many
        items as the groups' weights come to (Kish 1965).
        """
        up, down = _by_group(self.groups, self.numerators, self.denominators)
        if len(down) > 1 and down.sum() and not self.scale and (not up.any() or (up == down).all()):
            margin = NORMAL**2 / (down.sum() ** 2 / (down**2).sum() + NORMAL**2)
            return (0.0, float(margin)) if not up.any() else (1.0 - float(margin), 1.0)
        scale = SCALES[self.scale]
        return _interval((up, down), lambda up, down: scale(up.sum(-1) / down.sum(-1)), seed)


@dataclass(frozen=True)
class Difference:
    """How much a figure is above another, on the items that both have. interval: None where it cannot be known.

    groups: of how many independent ones the items are.
    """

    before: float
    after: float
    interval: tuple[float, float] | None
    items: int
    groups: int

    @property
    def value(self) -> float:
        """after - before."""
        return self.after - self.before

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out 0, of ten groups or more."""
        return self.groups >= FEWEST and self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def difference(before: Score, after: Score, seed: int = 0) -> Difference | None:
    """What changed on the items that both scores have, by a paired bootstrap of groups; None if they share none."""
    places = {key: place for place, key in enumerate(keys(after.ids))}
    pairs = [(place, places[key]) for place, key in enumerate(keys(before.ids)) if key in places]
    of, side = (before.groups, 0) if before.groups else (after.groups, 1)
    groups = [of[pair[side]] for pair in pairs] if of else []
    columns = _by_group(
        groups,
        *(
            [values[pair[place]] for pair in pairs]
            for place, score in enumerate((before, after))
            for values in (score.numerators, score.denominators)
        ),
    )
    up, down, up_after, down_after = columns
    if not pairs or not down.sum() or not down_after.sum():
        return None
    scale = SCALES[before.scale]

    def changed(up: Any, down: Any, up_after: Any, down_after: Any) -> Any:
        return scale(up_after.sum(-1) / down_after.sum(-1)) - scale(up.sum(-1) / down.sum(-1))

    first, second = (float(scale(a.sum() / b.sum())) for a, b in ((up, down), (up_after, down_after)))
    return Difference(first, second, _interval(columns, changed, seed), len(pairs), len(up))


def _by_group(groups: Sequence[str], *columns: Sequence[float]) -> list[np.ndarray]:
    """Columns `[items]` as their sums `[groups]`; as they are, if there are no groups."""
    values = [np.asarray(column, dtype=np.float64) for column in columns]
    if not groups:
        return values
    _, places = np.unique(groups, return_inverse=True)
    return [np.bincount(places, column) for column in values]


def keys(ids: Sequence[str]) -> list[tuple[str, int]]:
    """Each id with how many of its kind stand before it, so that every item has a name: documents may share an id."""
    seen: Counter[str] = Counter()
    found = []
    for name in ids:
        found.append((name, seen[name]))
        seen[name] += 1
    return found


def _interval(columns: Sequence[np.ndarray], statistic: Callable[..., Any], seed: int) -> tuple[float, float] | None:
    """The percentile interval of a statistic of columns `[groups]`, resampled together."""
    from scipy.stats import bootstrap

    groups = len(columns[0])
    if groups < 2:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may hold no group that has a denominator
        found = bootstrap(
            columns,
            lambda *resampled, axis: statistic(*resampled),
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=max(1, 4_000_000 // groups),  # of the resamples in memory at a time
            confidence_level=LEVEL,
            method="percentile",
            random_state=np.random.default_rng(seed),
        )
    drawn = found.bootstrap_distribution
    if not np.isfinite(drawn).all():
        return None
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
