"""Whether what a motion shows can still be told after coding: a classifier of labels, trained on original motions.

Its accuracy is that of this classifier over these statistics; people read signs better.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from anyglot.tokenizers.skeletons import signs

Statistics = Callable[[np.ndarray], np.ndarray]
TIPS = [3, 7, 11, 15, 19]  # of thumb and fingers, among a hand's points without the wrist
TREES = 500


@dataclass
class Recognised:
    """original, decoded: bool `[motions]`, whether the label of each held-out motion was recognised."""

    original: np.ndarray
    decoded: np.ndarray


def recognition(
    statistics: Statistics,
    training: Sequence[np.ndarray],
    labels: Sequence[str],
    heldout: Sequence[np.ndarray],
    decoded: Sequence[np.ndarray],
    wanted: Sequence[str],
    seed: int = 0,
) -> Recognised:
    """Train extremely randomised trees on original training motions; ask them about held-out ones and what codes give
    back of these.

    Args:
        statistics: a motion `[frames, features]` to numbers `[n]`. labels, wanted: of training and held-out motions.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    trees = ExtraTreesClassifier(TREES, random_state=seed)
    trees.fit(np.stack([statistics(motion) for motion in training]), list(labels))

    def right(motions: Sequence[np.ndarray]) -> np.ndarray:
        return trees.predict(np.stack([statistics(motion) for motion in motions])) == np.asarray(wanted)

    return Recognised(right(heldout), right(decoded))


class SignLetters:
    """Of a signed letter, in the features of `skeletons.signs`: shape and place of the right hand in the hold.

    Frames count by how still the wrist is and how near the middle of the clip they are. The hand is scaled to one size.
    """

    stillness = 0.02  # shoulder widths a frame at which a frame counts 1/e of a still one

    def __call__(self, motion: np.ndarray) -> np.ndarray:
        """Motion `[frames, 136]` to numbers `[152]`."""
        motion = motion.astype(np.float64)
        right, left = motion[:, signs.RIGHT], motion[:, signs.LEFT]
        moved = np.linalg.norm(np.diff(right[:, 1:3], axis=0, prepend=right[:1, 1:3]), axis=1)
        there = np.clip(right[:, 0], 0, 1) + 1e-6
        weights = there * np.exp(-moved / self.stillness - 2 * np.linspace(-1, 1, len(motion)) ** 2)
        weights /= weights.sum()
        points = right[:, 3:].reshape(len(motion), -1, 3)
        knuckles = np.linalg.norm(points[:, [4, 8, 12, 16]], axis=-1).mean(1)
        points = points / (knuckles[:, None, None] + 1e-6)
        shape = np.einsum("f,fpc->pc", weights, points)
        moves = np.sqrt(np.einsum("f,fpc->pc", weights, (points - shape) ** 2))[TIPS, :2]
        tips = points[:, TIPS]
        apart = np.linalg.norm(tips[:, :, None] - tips[:, None], axis=-1)[:, *np.triu_indices(len(TIPS), 1)]
        other = float(np.clip(left[:, 0], 0, 1).mean())
        second = left[:, 3:].mean(0) * (other > 0.3)  # a hand that hardly comes into view tells nothing
        reach = np.linalg.norm(tips, axis=-1)
        wrist = right[:, 1:3]
        held = weights @ wrist
        spread_out = np.sqrt(there @ (wrist - held) ** 2 / there.sum())
        shift = wrist[len(wrist) * 3 // 4] - wrist[len(wrist) // 4]
        place = [held, spread_out, shift]
        return np.concatenate([shape.ravel(), weights @ apart, weights @ reach, moves.ravel(), *place, [other], second])
