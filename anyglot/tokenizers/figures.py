"""The bodies that a motion tokenizer can know: from features to points in space, and which lines join them."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from anyglot.errors import ConfigError
from anyglot.tokenizers import humanml3d, humanoid, signs
from anyglot.tokenizers.skeleton import bones

Limb = tuple[int, int, str]


@dataclass(frozen=True)
class Figure:
    """features: numbers per frame. joints: features `[frames, features]` to points `[frames, joints, 3]`, y up.
    limbs: pairs of points to join, and "left", "right" or "middle". feet: points that may stand on the floor. facing:
    where the figure looks at first. head: its point, and its radius. unit: of length. seen: which points to draw, bool
    `[frames, joints]`; None: all."""

    features: int
    joints: Callable[[np.ndarray], np.ndarray]
    limbs: list[Limb]
    feet: tuple[int, ...]
    facing: tuple[float, float, float]
    head: tuple[int, float]
    unit: str
    seen: Callable[[np.ndarray], np.ndarray] | None = None


def _upright(features: np.ndarray) -> np.ndarray:
    """Points of signing, y up."""
    return signs.to_points(features) * np.array((1, -1, 1), features.dtype)


def _signs_seen(features: np.ndarray) -> np.ndarray:
    hands = np.repeat(signs.seen(features), signs.HAND_POINTS, axis=1)
    return np.concatenate([np.ones((len(features), len(signs.BODY)), bool), hands], axis=1)


def _humanml3d_limbs() -> list[Limb]:
    sides = ("right", "left", "middle", "right", "left")
    return [(a, b, side) for chain, side in zip(humanml3d.CHAINS, sides, strict=True) for a, b in pairwise(chain)]


def _humanoid_limbs() -> list[Limb]:
    return [
        (a, b, next((side for side in ("left", "right") if humanoid.SKELETON.names[b].startswith(side)), "middle"))
        for a, b in bones(humanoid.SKELETON.parents)
    ]


def _signs_limbs() -> list[Limb]:
    body = [
        (a, b, side) for (a, b), side in zip(signs.LIMBS, ("middle", "left", "right", "left", "right"), strict=True)
    ]
    hands = [(a, b, s) for limbs, s in zip(signs.HAND_LIMBS, ("left", "right"), strict=True) for a, b in limbs]
    return [*body, *hands]


FIGURES = {
    "humanml3d": Figure(
        humanml3d.FEATURES, humanml3d.to_joints, _humanml3d_limbs(), (10, 11), (0, 0, 1), (15, 0.1), "m"
    ),
    "humanoid": Figure(humanoid.FEATURES, humanoid.to_joints, _humanoid_limbs(), (16, 17), (1, 0, 0), (13, 0.1), "m"),
    "signs": Figure(signs.FEATURES, _upright, _signs_limbs(), (), (0, 0, 1), (0, 0.3), "shoulder widths", _signs_seen),
}


def figure(name: str, features: int) -> Figure:
    """The figure of that name. Raises ConfigError if there is none, or its features are not so many."""
    if name not in FIGURES:
        raise ConfigError(f"skeleton: {name!r} is none of {', '.join(FIGURES)}")
    if FIGURES[name].features != features:
        raise ConfigError(
            f"skeleton {name} has {FIGURES[name].features} features, the model's `features` are {features}"
        )
    return FIGURES[name]
