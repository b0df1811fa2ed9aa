"""Signing as features: landmarks of the upper body and both hands, 136 numbers a frame, and back to points.

Lengths are in widths of the signer's shoulders, x to the right of the picture and y down, from the middle between the
shoulders. A frame is
    0:10     x, y of nose, left and right shoulder, left and right elbow
    10:73    the left hand: 1 where it was seen, else 0; x, y of its wrist; x, y, z of 20 other points from the wrist
    73:136   the right hand
What was not seen in a frame lies between the frames before and after it in which it was; a hand that never was hangs
beside the body, its points all in one.
"""

import numpy as np

from anyglot.errors import MediaError
from anyglot.tokenizers.skeletons.pose_files import PoseClip

BODY = ("NOSE", "LEFT_SHOULDER", "RIGHT_SHOULDER", "LEFT_ELBOW", "RIGHT_ELBOW")
HANDS = ("LEFT_HAND_LANDMARKS", "RIGHT_HAND_LANDMARKS")
HAND_POINTS = 21
HAND = 3 + 3 * (HAND_POINTS - 1)
FEATURES = 2 * len(BODY) + 2 * HAND
LEFT, RIGHT = slice(2 * len(BODY), 2 * len(BODY) + HAND), slice(2 * len(BODY) + HAND, FEATURES)
# Where to place what a clip never shows, in shoulder widths; the signer's left is on the picture's right.
UNSEEN_BODY = np.array([(0, -0.75), (0.5, 0), (-0.5, 0), (0.65, 0.8), (-0.65, 0.8)])
LARGEST_HAND = 1.5  # a larger one, from its wrist, is an error of who tracked it
UNSEEN_WRISTS = np.array([(0.6, 1.5), (-0.6, 1.5)])
POINTS = len(BODY) + 2 * HAND_POINTS
# Lines to draw between points: body, then each hand's wrist to its elbow, and its fingers.
_FINGERS = [(0, 1), (1, 2), (2, 3), (3, 4)]
_FINGERS += [(joint - 1 if joint % 4 != 1 else 0, joint) for joint in range(5, HAND_POINTS)] + [
    (5, 9),
    (9, 13),
    (13, 17),
]
LIMBS = [(1, 2), (1, 3), (2, 4), (3, 5), (4, 5 + HAND_POINTS)]
HAND_LIMBS = [[(start + a, start + b) for a, b in _FINGERS] for start in (5, 5 + HAND_POINTS)]


def to_features(clip: PoseClip, fps: float, mirror: bool = False) -> np.ndarray:
    """Features float32 `[frames, 136]` of a clip, at `fps`.

    mirror: turn left into right where only the left hand is seen, so that all who sign with one hand use the same.
    Raises MediaError where both shoulders, or any hand, are never seen, or a hand has not its 21 points in space.
    """
    if clip.positions.shape[-1] != 3:
        raise MediaError(f"landmarks of {clip.positions.shape[-1]} coordinates, expected 3: estimated by another model")
    body, seen = clip.component("POSE_LANDMARKS", BODY)
    shoulders = (seen[:, 1] > 0) & (seen[:, 2] > 0)
    if not shoulders.any():
        raise MediaError("both shoulders are never seen, so that there is no measure; leave the clip out")
    centre = _between((body[:, 1, :2] + body[:, 2, :2]) / 2, shoulders)
    width = float(np.median(np.linalg.norm(body[shoulders, 1, :2] - body[shoulders, 2, :2], axis=1)))
    if width <= 0:
        raise MediaError("both shoulders are in one place, so that there is no measure; leave the clip out")
    parts = [
        _between((body[:, index, :2] - centre) / width, seen[:, index] > 0, UNSEEN_BODY[index])
        for index in range(len(BODY))
    ]
    for hand, unseen in zip(HANDS, UNSEEN_WRISTS, strict=True):
        points, confidence = clip.component(hand)
        if points.shape[1] != HAND_POINTS:
            raise MediaError(f"{points.shape[1]} {hand}, expected {HAND_POINTS}: estimated by another model")
        shape = (points[:, 1:] - points[:, :1]) / width
        if clip.size[2] == 0:
            shape = shape * (1, 1, clip.size[0])
        there = (confidence[:, 0] > 0) & (np.linalg.norm(shape, axis=-1).max(1) < LARGEST_HAND)
        wrist = _between((points[:, 0, :2] - centre) / width, there, unseen)
        shape = _between(shape.reshape(len(shape), -1), there)
        parts += [there[:, None].astype(np.float64), wrist, shape]
    found = _resampled(np.concatenate(parts, axis=1), clip.fps, fps)
    left, right = found[:, LEFT.start].any(), found[:, RIGHT.start].any()
    if not left and not right:
        raise MediaError("no hand is ever seen; leave the clip out")
    if mirror and not right:
        found = mirrored(found)
    return found.astype(np.float32)


def mirrored(features: np.ndarray) -> np.ndarray:
    """The same signing in a mirror: features `[..., 136]`, left and right exchanged, x negated."""
    found = features.copy()
    body = found[..., : 2 * len(BODY)].reshape(*found.shape[:-1], len(BODY), 2)[..., [0, 2, 1, 4, 3], :] * (-1, 1)
    found[..., : 2 * len(BODY)] = body.reshape(*found.shape[:-1], -1)
    signs = np.array([1, -1, 1] + [-1, 1, 1] * (HAND_POINTS - 1))
    found[..., LEFT], found[..., RIGHT] = features[..., RIGHT] * signs, features[..., LEFT] * signs
    return found


def to_points(features: np.ndarray) -> np.ndarray:
    """Points `[frames, 47, 3]` in shoulder widths (body, left hand, right hand) of features `[frames, 136]`.

    z is 0 for the body, for hands it counts from the wrist.
    """
    if features.ndim != 2 or features.shape[1] != FEATURES:
        raise MediaError(f"expected features of signing [frames, {FEATURES}], got {list(features.shape)}")
    points = np.zeros((len(features), POINTS, 3), features.dtype)
    points[:, : len(BODY), :2] = features[:, : 2 * len(BODY)].reshape(len(features), len(BODY), 2)
    for hand, start in ((LEFT, len(BODY)), (RIGHT, len(BODY) + HAND_POINTS)):
        block = features[:, hand]
        points[:, start, :2] = block[:, 1:3]
        points[:, start + 1 : start + HAND_POINTS] = block[:, 3:].reshape(len(block), -1, 3) + points[:, start, None]
    return points


def seen(features: np.ndarray) -> np.ndarray:
    """Whether the left and the right hand is there, bool `[frames, 2]`."""
    return features[:, [LEFT.start, RIGHT.start]] > 0.5


def _between(values: np.ndarray, known: np.ndarray, unknown: np.ndarray | float = 0.0) -> np.ndarray:
    """Values `[frames, n]` where `known`, else between the known ones around, held at the ends; `unknown` if none."""
    if not known.any():
        return np.broadcast_to(unknown, values.shape).astype(np.float64)
    times = np.arange(len(values))
    return np.stack([np.interp(times, times[known], column[known].astype(np.float64)) for column in values.T], axis=1)


def _resampled(features: np.ndarray, fps: float, wanted: float) -> np.ndarray:
    """Features at another rate, linearly; whether a hand is seen from the nearest frame."""
    if abs(fps - wanted) < 0.05:  # 29.97 is 30
        return features
    times = np.arange(0, len(features) - 1 + 1e-9, fps / wanted)
    found = np.stack([np.interp(times, np.arange(len(features)), column) for column in features.T], axis=1)
    nearest = np.rint(times).astype(int)
    for hand in (LEFT, RIGHT):
        found[:, hand.start] = features[nearest, hand.start]
    return found
