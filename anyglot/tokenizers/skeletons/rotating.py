"""The movement of any skeleton as features, and back: what a tokenizer of BVH or AMC files codes.

    0              the root's height, metres
    1:4            its way since the frame before, seen from the root; y up
    4:4 + 6 n      rotations of the n joints that can turn, six numbers each (see `skeleton.py`), the root's first,
                   without its heading
    4 + 6 n        how far the heading turned since the frame before, radians
Back exactly, up to where and in which direction the motion starts. The heading is the root's turn about y.
"""

from collections.abc import Sequence

import numpy as np

from anyglot.errors import MediaError
from anyglot.tokenizers.skeletons.skeleton import Animation, Skeleton, about, from_six, to_six


def width(turning: Sequence[int]) -> int:
    """How many features a skeleton has in which these joints turn."""
    return 5 + 6 * len(turning)


def to_features(animation: Animation, turning: Sequence[int]) -> np.ndarray:
    """Features float32 `[frames, 5 + 6 n]` of a movement; `turning`: joints that can turn, the root first."""
    turned = animation.rotations[:, 0]
    heading = np.arctan2(turned[:, 0, 2] - turned[:, 2, 0], turned[:, 0, 0] + turned[:, 2, 2])
    turns = np.angle(np.exp(1j * np.diff(heading, prepend=heading[0])))  # by the shorter way
    back = about(1, -heading)
    way = np.einsum("fij,fj->fi", back, np.diff(animation.root, axis=0, prepend=animation.root[:1]))
    rotations = animation.rotations[:, list(turning)].copy()
    rotations[:, 0] = back @ turned
    parts = [animation.root[:, 1:2], way, to_six(rotations).reshape(len(way), -1), turns[:, None]]
    return np.concatenate(parts, axis=1).astype(np.float32)


def to_animation(features: np.ndarray, skeleton: Skeleton, turning: Sequence[int], fps: float) -> Animation:
    """The movement of features `[frames, 5 + 6 n]`; it starts at x = z = 0, without heading."""
    if features.ndim != 2 or features.shape[1] != width(turning) or not len(features):
        raise MediaError(f"expected features of this skeleton [frames, {width(turning)}], got {list(features.shape)}")
    features = features.astype(np.float64)
    heading = about(1, np.cumsum(np.concatenate([[0.0], features[1:, -1]])))
    way = np.einsum("fij,fj->fi", heading, features[:, 1:4])
    way[0] = 0.0
    root = np.cumsum(way, axis=0)
    root[:, 1] = features[:, 0]
    rotations = np.broadcast_to(np.eye(3), (len(features), len(skeleton.names), 3, 3)).copy()
    rotations[:, list(turning)] = from_six(features[:, 4:-1].reshape(len(features), -1, 6))
    rotations[:, 0] = heading @ rotations[:, 0]
    return Animation(skeleton, rotations, root, fps)
