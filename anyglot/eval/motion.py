"""How good a motion tokenizer is: how far features and joints are off, how feet slide, how the codebook is used.

Everything is measured on what a user gets: motions out of `decode(encode(motion))`, cut to the length of the original.
"""

from collections.abc import Callable, Sequence

import numpy as np

from anyglot.data.documents import Document
from anyglot.eval.answers import Answer, share_right
from anyglot.eval.documents import part_of, text_of
from anyglot.eval.image import CodeUsage
from anyglot.eval.scores import Score
from anyglot.inference.anyglot import media_of
from anyglot.tokenizers.motion import MotionTokenizer
from anyglot.tokenizers.skeletons.figures import Figure

SLIDES, STANDS = (
    0.5,
    0.05,
)  # m/s along the floor; metres above it: a foot that does the one while the other holds skates
COMPARED = 32  # moments of a motion at which it is compared with another


def evaluate(
    tokenizer: MotionTokenizer,
    heldout: Sequence[np.ndarray],
    texts: Sequence[str] = (),
    usage_of: Sequence[np.ndarray] = (),
) -> dict[str, float]:
    """Scores of a tokenizer on held-out motions, float32 `[frames, features]`.

    Args:
        texts: what they show; every modality's `evaluate` is given it, this one has no use for it.
        usage_of: motions over which codebook usage is counted (default: `heldout`).
    Returns:
        variance_left_heldout: squared error over variance, every feature in its training standard deviation, over all
        frames; 0 is perfect, 1 as good as the mean. velocity_error_heldout: root mean square of what the changes from
        frame to frame are off, in those units, `still_velocity_error_heldout` that of no movement at all, a baseline.
        items: motions. codes_per_second: of all levels. bits_per_second: at most. codebook_usage, code_entropy_bits:
        see `CodeUsage`. Where the tokenizer knows the skeleton, figures of its joints, named with `joints_`; see
        `joint_errors`.
    """
    codes = tokenizer.encode(heldout)
    decoded = tokenizer.decode(codes, [len(motion) for motion in heldout])
    mean, std = tokenizer.mean.cpu().numpy(), tokenizer.std.cpu().numpy()
    errors = [(b - a) / std for a, b in zip(heldout, decoded, strict=True)]
    spread = np.concatenate([(motion - mean) / std for motion in heldout])
    wanted = np.concatenate([np.diff(motion / std, axis=0) for motion in heldout])
    result = {
        "variance_left_heldout": float((np.concatenate(errors) ** 2).sum() / ((spread - spread.mean(0)) ** 2).sum()),
        "velocity_error_heldout": _rms(np.concatenate([np.diff(error, axis=0) for error in errors])),
        "still_velocity_error_heldout": _rms(wanted),
        "items": float(len(heldout)),
        "codes_per_second": tokenizer.spec.rate * len(tokenizer.spec.levels),
        "bits_per_second": tokenizer.spec.bits_per_second,
    }
    if tokenizer.figure is not None:
        result |= joint_errors(tokenizer.figure, heldout, decoded, tokenizer.config.fps)
    usage = CodeUsage(tokenizer.spec.levels)
    usage.update(tokenizer.encode(usage_of) if len(usage_of) else codes)
    return {**result, **usage.result()}


def joint_errors(
    figure: Figure, originals: Sequence[np.ndarray], decoded: Sequence[np.ndarray], fps: float
) -> dict[str, float]:
    """Errors of joints, means over all frames of pairs of motions in features, in the figure's unit.

    Returns:
        joints_error: `mpjpe` of where the joints are, the way of the root since the start counted in.
        joints_error_at_root: with the first joint of every frame in the same place. joints_error_aligned: `pa_mpjpe`.
        joints_velocity_error: a second. Where there are feet, `joints_skating_original` and `joints_skating_decoded`:
        `foot_skate_ratio` above the original's own floor.
    """
    pairs = [(figure.joints(a), figure.joints(b)) for a, b in zip(originals, decoded, strict=True)]
    frames = [len(a) for a, _ in pairs]

    def mean(metric: Callable[[np.ndarray, np.ndarray], float], weights: Sequence[int]) -> float:
        return float(np.average([metric(a, b) for a, b in pairs], weights=weights))

    found = {
        "joints_error": mean(mpjpe, frames),
        "joints_error_at_root": mean(lambda a, b: mpjpe(a - a[:, :1], b - b[:, :1]), frames),
        "joints_error_aligned": mean(pa_mpjpe, frames),
    }
    moving = [(a, b) for a, b in pairs if len(a) > 1]
    if moving:
        found["joints_velocity_error"] = float(
            np.average([velocity_error(a, b, fps) for a, b in moving], weights=[len(a) - 1 for a, _ in moving])
        )
    if figure.feet and moving:
        for name, which in (("original", 0), ("decoded", 1)):
            counts = [foot_skate(pair[which], figure.feet, fps, float(pair[0][..., 1].min())) for pair in moving]
            skating, standing = np.sum(counts, axis=0)
            found[f"joints_skating_{name}"] = float(skating / standing) if standing else 0.0
    return found


def mpjpe(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance of joints `[frames, joints, 3]` from where they should be."""
    return float(np.linalg.norm(a - b, axis=-1).mean())


def pa_mpjpe(a: np.ndarray, b: np.ndarray) -> float:
    """`mpjpe` after every frame of `b` was turned, scaled and moved to lie on `a` as well as it can (Procrustes)."""
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    u, strength, vt = np.linalg.svd(np.swapaxes(b, 1, 2) @ a)
    mirrored = np.linalg.det(u @ vt) < 0  # a mirror image is no rotation
    u[mirrored, :, -1] *= -1
    strength[mirrored, -1] *= -1
    scale = strength.sum(1) / np.maximum((b**2).sum((1, 2)), 1e-12)
    return mpjpe(a, scale[:, None, None] * b @ (u @ vt))


def velocity_error(a: np.ndarray, b: np.ndarray, fps: float) -> float:
    """Mean length of what the velocities of joints `[frames, joints, 3]` are off, in units a second."""
    return mpjpe(np.diff(a, axis=0), np.diff(b, axis=0)) * fps


def foot_skate_ratio(joints: np.ndarray, feet: Sequence[int], fps: float, floor: float = 0.0) -> float:
    """Of the moments at which a foot is near the floor, the share at which it slides; 0 if none is.

    joints: `[frames, joints, 3]` in metres, y up.
    """
    skating, standing = foot_skate(joints, feet, fps, floor)
    return skating / standing if standing else 0.0


def foot_skate(joints: np.ndarray, feet: Sequence[int], fps: float, floor: float) -> tuple[int, int]:
    """How often a foot slides, and how often it is near the floor, in a frame and the next."""
    chosen = joints[:, list(feet)]
    low = chosen[..., 1] - floor < STANDS
    stands = low[1:] & low[:-1]
    slides = np.linalg.norm(np.diff(chosen[..., [0, 2]], axis=0), axis=-1) * fps > SLIDES
    return int((stands & slides).sum()), int(stands.sum())


class Check:
    """A motion is right if the training motion nearest to it, of all, is called the same.

    Motions are compared at 32 moments from their first to their last frame, in training standard deviations. What a
    document's text says before its first comma is what its motion is called.
    """

    def __init__(self, tokenizer: MotionTokenizer, training: Sequence[Document]) -> None:
        self.tokenizer = tokenizer
        known: dict[str, tuple[str, np.ndarray]] = {}
        for document in training:
            if (part := part_of(document, "motion")) is not None and part.key not in known:
                known[part.key] = (called(document), self._line(media_of(tokenizer, part)))
        self.names = [name for name, _ in known.values()]
        self.lines = np.stack([line for _, line in known.values()]) if known else np.zeros((0, 0))

    def judge(self, answers: Sequence[Answer]) -> dict[str, Score]:
        """nearest_is_right: the share of motions whose nearest training motion is called what was asked for."""
        for answer in answers:
            part = answer.part("motion")
            answer.right, answer.note = False, "no motion"
            if part is not None and self.names:
                distances = ((self.lines - self._line(media_of(self.tokenizer, part))) ** 2).mean(1)
                nearest = self.names[int(distances.argmin())]
                answer.right, answer.note = nearest == called(answer.document), f"nearest: {nearest}"
        return {"nearest_is_right": share_right(answers)}

    def _line(self, motion: np.ndarray) -> np.ndarray:
        """`[COMPARED * features]` of a motion `[frames, features]`."""
        scaled = (motion - self.tokenizer.mean.cpu().numpy()) / self.tokenizer.std.cpu().numpy()
        return moments(scaled).reshape(-1)


def moments(motion: np.ndarray) -> np.ndarray:
    """A motion `[frames, features]` at 32 moments from its first to its last frame, `[32, features]`."""
    at = np.linspace(0, len(motion) - 1, COMPARED)
    return np.stack([np.interp(at, np.arange(len(motion)), column) for column in motion.T], axis=1)


def called(document: Document) -> str:
    """What a document's text says before its first comma."""
    return text_of(document).partition(",")[0].strip()


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))
