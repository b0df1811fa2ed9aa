"""The bodies that a motion tokenizer can know: from features to points in space, and which lines join them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from anyglot.errors import ConfigError
from anyglot.tokenizers.skeletons import humanml3d, humanoid, rotating, signs
from anyglot.tokenizers.skeletons.skeleton import Skeleton, bones

Limb = tuple[int, int, str]


@dataclass(frozen=True)
class Figure:
    """features: numbers per frame. joints: features `[frames, features]` to points `[frames, joints, 3]`, y up.
    limbs: pairs of points to join, and "left", "right" or "middle". feet: points that may stand on the floor. facing:
    where the figure looks at first. head: its point and its radius, if it has one. unit: of length. seen: which points
    to draw, bool `[frames, joints]`; None: all. mirrored: features to those of the movement in a mirror."""

    features: int
    joints: Callable[[np.ndarray], np.ndarray]
    limbs: list[Limb]
    feet: tuple[int, ...]
    facing: tuple[float, float, float]
    head: tuple[int, float] | None
    unit: str
    seen: Callable[[np.ndarray], np.ndarray] | None = None
    mirrored: Callable[[np.ndarray], np.ndarray] | None = None


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
    "humanoid": Figure(
        humanoid.FEATURES,
        humanoid.to_joints,
        _humanoid_limbs(),
        (16, 17),
        (1, 0, 0),
        (13, 0.1),
        "m",
        None,
        humanoid.mirrored,
    ),
    "signs": Figure(
        signs.FEATURES,
        _upright,
        _signs_limbs(),
        (),
        (0, 0, 1),
        (0, 0.3),
        "shoulder widths",
        _signs_seen,
        signs.mirrored,
    ),
}


def rigged(skeleton: Skeleton, turning: Sequence[int]) -> Figure:
    """The figure of a skeleton whose features are `rotating`'s; sides, feet and head by the names of its joints."""
    names = [name.lower() for name in skeleton.names]

    def side(name: str) -> str:
        return next((s for s in ("left", "right") if name.startswith((s, s[0] + "_")) or s in name), "middle")

    feet = tuple(joint for joint, name in enumerate(names) if ("foot" in name or "toe" in name) and "end" not in name)
    head = next((joint for joint, name in enumerate(names) if "head" in name), None)
    return Figure(
        rotating.width(turning),
        lambda features: rotating.to_animation(features, skeleton, turning, 1.0).positions(),
        [(parent, joint, side(names[joint])) for parent, joint in bones(skeleton.parents)],
        feet,
        (0, 0, 1),
        None if head is None else (head, 0.1),
        "m",
    )


def figure(name: str, features: int) -> Figure:
    """The figure of that name. Raises ConfigError if there is none, or its features are not so many."""
    if name not in FIGURES:
        raise ConfigError(f"skeleton: {name!r} is none of {', '.join(FIGURES)}")
    if FIGURES[name].features != features:
        raise ConfigError(
            f"skeleton {name} has {FIGURES[name].features} features, the model's `features` are {features}"
        )
    return FIGURES[name]
