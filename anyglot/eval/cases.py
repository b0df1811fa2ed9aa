"""The items that an evaluation did best and worst, by what was measured of each."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from anyglot.eval.scores import SCALES, Score, keys

GROUPS = ("seen", "heldout", "untrained", "shuffled")  # ends of figures' names: whom they are of
LOWER = {  # words in the names of figures of which less is better
    *("wer", "cer", "error", "errors", "mse", "mae", "loss", "bits", "perplexity", "distance", "frechet", "fd"),
    *("left", "collision", "unresolved", "failures", "invalid"),
}


@dataclass(frozen=True)
class Case:
    """An item. nth: how many items with its id stand before it. figures: name -> its own value, main figure first."""

    id: str
    nth: int
    figures: dict[str, float]


def lower_is_better(name: str) -> bool:
    """Whether less of a figure is better: `wer`, `joints_error`, `bits_per_image_code`."""
    return not LOWER.isdisjoint(re.split(r"[^a-z]+", name.rpartition(".")[2]))


def direction_of(name: str) -> tuple[str, str]:
    """`lm.text_to_image.psnr_seen` is of direction `lm.text_to_image.seen`, figure `psnr`."""
    prefix, _, figure = name.rpartition(".")
    group = next((group for group in GROUPS if figure.endswith(f"_{group}")), "")
    return ".".join(word for word in (prefix, group) if word), figure.removesuffix(f"_{group}")


def by_direction(scores: Mapping[str, Score]) -> dict[str, dict[str, Score]]:
    """Direction -> its figures, the main one first. A figure of other items than the main one's stands alone."""
    found: dict[str, dict[str, Score]] = {}
    items: dict[str, set[str]] = {}
    for name, score in scores.items():
        direction, _ = direction_of(name)
        if direction in items and not items[direction].issuperset(score.ids):
            direction = name
        items.setdefault(direction, {*score.ids, *score.failed})
        found.setdefault(direction, {})[name] = score
    return found


def ranked(scores: Mapping[str, Score]) -> list[Case]:
    """The items of a direction, best first: by the main figure, then by the others; those without one come last."""
    columns = {name: _values(score) for name, score in scores.items()}

    def goodness(key: tuple[str, int]) -> list[float]:
        signs = {name: -1 if lower_is_better(name) else 1 for name in columns}
        return [signs[name] * column[key] if key in column else -inf for name, column in columns.items()]

    order = sorted(next(iter(columns.values()), {}), key=goodness, reverse=True)
    return [Case(*key, {name: column[key] for name, column in columns.items() if key in column}) for key in order]


def extremes(cases: Sequence[Case], number: int) -> tuple[list[Case], list[Case]]:
    """`number` of the best and of the worst of ranked cases, the very best and the very worst first; none is in both.
    Cases that are all alike have neither."""
    number = min(number, len(cases) // 2)
    if not number or cases[0].figures == cases[-1].figures:
        return [], []
    return list(cases[:number]), list(cases[: -number - 1 : -1])


def _values(score: Score) -> dict[tuple[str, int], float]:
    """Each item's own value, on the figure's scale; none of items that have nothing to divide by."""
    scale = SCALES[score.scale]
    shares = zip(keys(score.ids), score.numerators, score.denominators, strict=True)
    return {key: float(scale(up / down)) for key, up, down in shares if down}
