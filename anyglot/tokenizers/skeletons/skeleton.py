"""A tree of joints, and where its joints are when they are turned: forward kinematics.

Rotations are matrices `[..., 3, 3]` that act on column vectors; as six numbers they are the matrix's first column, then
its second (Zhou et al., arXiv:1812.07035), from which the third follows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anyglot.errors import MediaError

AXES = "XYZ"


@dataclass
class Skeleton:
    """names of the joints; parents: index of each joint's parent, -1 of the first, the root; parents come first.
    offsets: float64 `[joints, 3]`, where a joint lies from its parent while nothing is turned."""

    names: list[str]
    parents: list[int]
    offsets: np.ndarray

    def __post_init__(self) -> None:
        self.offsets = np.asarray(self.offsets, dtype=np.float64)
        ordered = all(-1 < parent < joint for joint, parent in enumerate(self.parents) if joint)
        if not self.names or self.parents[0] != -1 or not ordered:
            raise MediaError("a skeleton has one root, which comes first, and every parent comes before its children")
        if not len(self.names) == len(self.parents) == len(self.offsets):
            raise MediaError(f"{len(self.names)} joints, {len(self.parents)} parents, {len(self.offsets)} offsets")


def positions(skeleton: Skeleton, rotations: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Joint positions `[frames, joints, 3]`.

    rotations: of joints relative to their parents `[frames, joints, 3, 3]`. root: where the root is `[frames, 3]`, its
    offset counted.
    """
    turned = np.empty_like(rotations)
    found = np.empty((len(root), len(skeleton.parents), 3))
    for joint, parent in enumerate(skeleton.parents):
        if parent < 0:
            turned[:, joint], found[:, joint] = rotations[:, joint], root
        else:
            turned[:, joint] = turned[:, parent] @ rotations[:, joint]
            found[:, joint] = found[:, parent] + turned[:, parent] @ skeleton.offsets[joint]
    return found


def to_six(matrices: np.ndarray) -> np.ndarray:
    """Matrices `[..., 3, 3]` as numbers `[..., 6]`."""
    return matrices[..., :2].swapaxes(-1, -2).reshape(*matrices.shape[:-2], 6)


def from_six(numbers: np.ndarray) -> np.ndarray:
    """The rotations `[..., 3, 3]` nearest to numbers `[..., 6]`, by Gram and Schmidt's process."""
    first, second = numbers[..., :3].astype(np.float64), numbers[..., 3:].astype(np.float64)
    first = _unit(first)
    second = _unit(second - (first * second).sum(-1, keepdims=True) * first)
    return np.stack([first, second, np.cross(first, second)], axis=-1)


def from_euler(degrees: np.ndarray, order: str) -> np.ndarray:
    """Matrices `[..., 3, 3]` of angles `[..., n]` about the turning axes in `order`: "ZXY" is Rz @ Rx @ Ry."""
    found = np.broadcast_to(np.eye(3), (*degrees.shape[:-1], 3, 3))
    for place, axis in enumerate(order):
        found = found @ about(AXES.index(axis), np.radians(degrees[..., place]))
    return found


def to_euler(matrices: np.ndarray, order: str) -> np.ndarray:
    """Angles `[..., 3]` in degrees, inverse of `from_euler` for three different axes. Where the middle one is a right
    angle, the first and last are not determined alone: the last is 0."""
    i, j, k = (AXES.index(axis) for axis in order)
    sign = 1.0 if (j - i) % 3 == 1 else -1.0
    sine = np.clip(sign * matrices[..., i, k], -1, 1)
    level = np.hypot(matrices[..., j, k], matrices[..., k, k]) < 1e-7
    first = np.arctan2(-sign * matrices[..., j, k], matrices[..., k, k])
    last = np.arctan2(-sign * matrices[..., i, j], matrices[..., i, i])
    locked = np.arctan2(sign * matrices[..., k, j], matrices[..., j, j])
    middle = np.arctan2(sine, np.hypot(matrices[..., i, i], matrices[..., i, j]))
    return np.degrees(np.stack([np.where(level, locked, first), middle, np.where(level, 0.0, last)], axis=-1))


def about(axis: int, angle: np.ndarray) -> np.ndarray:
    """Matrices `[..., 3, 3]` that turn about the x, y or z axis (0, 1, 2) by angles `[...]` in radians."""
    found = np.zeros((*np.shape(angle), 3, 3))
    a, b = (axis + 1) % 3, (axis + 2) % 3
    found[..., axis, axis] = 1
    found[..., a, a] = found[..., b, b] = np.cos(angle)
    found[..., b, a] = np.sin(angle)
    found[..., a, b] = -found[..., b, a]
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def bones(parents: Sequence[int]) -> list[tuple[int, int]]:
    """(parent, joint) of every joint that has one: the lines of a stick figure."""
    return [(parent, joint) for joint, parent in enumerate(parents) if parent >= 0]


@dataclass
class Animation:
    """A skeleton that moves. rotations: of joints relative to their parents `[frames, joints, 3, 3]`. root: where the
    root is `[frames, 3]`, y up, in metres as the skeleton's offsets are. fps: frames a second."""

    skeleton: Skeleton
    rotations: np.ndarray
    root: np.ndarray
    fps: float

    def positions(self) -> np.ndarray:
        """Joint positions `[frames, joints, 3]`."""
        return positions(self.skeleton, self.rotations, self.root)

    def at(self, fps: float) -> "Animation":
        """The same movement at another rate: places linearly between frames, rotations the shorter way."""
        if abs(self.fps / fps - 1) < 1e-3:
            return self
        times = np.arange(0, len(self.root) - 1 + 1e-6, self.fps / fps)
        before = np.minimum(times.astype(int), max(len(self.root) - 2, 0))
        after = np.minimum(before + 1, len(self.root) - 1)
        share = (times - before)[:, None]
        six = to_six(self.rotations)
        mixed = (1 - share[..., None]) * six[before] + share[..., None] * six[after]
        root = (1 - share) * self.root[before] + share * self.root[after]
        return Animation(self.skeleton, from_six(mixed), root, fps)
