"""HumanML3D's 263 features of a motion (Guo et al. 2022), to joint positions and back.

A motion is joint positions `[frames, 22, 3]` in metres, y up, at 20 frames a second. A frame's features are
    0        turn of the root about y until the next frame, as the sine's half angle: the root turns by twice it
    1:3      the root's way in x and z until the next frame, seen from the root
    3        the root's height
    4:67     positions of the 21 other joints, seen from the root, which stands at x = z = 0
    67:193   rotations of the 21 joints relative to their parents, the first two columns of each matrix
    193:259  every joint's way until the next frame, seen from the root
    259:263  1 where a foot stands: left ankle, left toe, right ankle, right toe
so that N frames give N - 1 features. Positions decode exactly, up to where and in which direction the motion starts.
"""

from itertools import pairwise

import numpy as np

from anyglot.errors import MediaError

FPS = 20.0
JOINTS = 22
FEATURES = 263
CHAINS = ((0, 2, 5, 8, 11), (0, 1, 4, 7, 10), (0, 3, 6, 9, 12, 15), (9, 14, 17, 19, 21), (9, 13, 16, 18, 20))
# Where each joint lies from its parent in the pose from which rotations are counted.
OFFSETS = np.array(
    [(0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, -1, 0), (0, 1, 0), (0, -1, 0), (0, -1, 0), (0, 1, 0),
     (0, 0, 1), (0, 0, 1), (0, 1, 0), (1, 0, 0), (-1, 0, 0), (0, 0, 1)] + 6 * [(0, -1, 0)], dtype=np.float64
)  # fmt: skip
RIGHT_HIP, LEFT_HIP, RIGHT_SHOULDER, LEFT_SHOULDER = 2, 1, 17, 16
NAMES = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
)  # fmt: skip
FEET = (7, 10, 8, 11)
STANDS_BELOW = 0.002  # square metres a frame, of a foot that stands
SMOOTHING = 20.0  # frames, standard deviation of the direction that the root faces


def to_joints(features: np.ndarray) -> np.ndarray:
    """Positions `[frames, 22, 3]` of features `[frames, 263]`; starts at x = z = 0, unturned."""
    _check(features, (FEATURES,), "features [frames, 263]")
    features = features.astype(np.float64)
    turned = np.concatenate([[0.0], np.cumsum(features[:-1, 0])])  # the way until the next frame counts from there on
    way = np.zeros((len(features), 3))
    way[1:, 0], way[1:, 2] = features[:-1, 1], features[:-1, 2]
    root = np.cumsum(_turn(way, -2 * turned), axis=0)
    root[:, 1] = features[:, 3]
    others = _turn(features[:, 4:67].reshape(-1, JOINTS - 1, 3), -2 * turned[:, None])
    others += root[:, None] * (1, 0, 1)
    return np.concatenate([root[:, None], others], axis=1).astype(np.float32)


def to_features(joints: np.ndarray, yaw: np.ndarray | None = None) -> np.ndarray:
    """Features `[frames - 1, 263]` of positions `[frames, 22, 3]` of a person who stands on y = 0.

    yaw: by how much each frame turns about y to face z, radians [frames], where it is known; else the root faces where
    hips and shoulders do, smoothed over time, and the first frame is left unturned. Raises MediaError for another
    shape or NaN.
    """
    _check(joints, (JOINTS, 3), "joint positions [frames, 22, 3]")
    if len(joints) < 2:
        raise MediaError(f"a motion needs two frames or more, got {len(joints)}")
    joints = joints.astype(np.float64)
    yaw = facing(joints) if yaw is None else yaw
    turns = np.angle(np.exp(1j * np.diff(yaw)))  # by the shorter way
    ways = _turn(np.diff(joints, axis=0), yaw[1:, None])
    local = joints - joints[:, :1] * (1, 0, 1)
    feet = (np.diff(joints[:, FEET], axis=0) ** 2).sum(-1) < STANDS_BELOW
    parts = (
        turns[:, None] / 2,
        ways[:, 0, ::2],
        joints[:-1, 0, 1:2],
        _turn(local, yaw[:, None])[:-1, 1:].reshape(len(turns), -1),
        rotations(joints, yaw)[:-1, 1:, :, :2].swapaxes(-1, -2).reshape(len(turns), -1),
        _turn(np.diff(joints, axis=0), yaw[:-1, None]).reshape(len(turns), -1),
        feet.astype(np.float64),
    )
    return np.concatenate(parts, axis=1).astype(np.float32)


def facing(joints: np.ndarray) -> np.ndarray:
    """By how much frames `[frames, 22, 3]` turn about y to face z, radians `[frames]`; 0 for the first."""
    from scipy.ndimage import gaussian_filter1d

    across = joints[:, RIGHT_HIP] - joints[:, LEFT_HIP] + joints[:, RIGHT_SHOULDER] - joints[:, LEFT_SHOULDER]
    forward = gaussian_filter1d(np.cross((0.0, 1.0, 0.0), _unit(across)), SMOOTHING, axis=0, mode="nearest")
    yaw = np.arctan2(-forward[:, 0], forward[:, 2])
    yaw[0] = 0.0  # as the data set has it
    return yaw


def standing(joints: np.ndarray) -> np.ndarray:
    """Positions `[frames, 22, 3]` put on the floor, begun at x = z = 0 and facing z, as the data set's are."""
    across = joints[:1, RIGHT_HIP] - joints[:1, LEFT_HIP] + joints[:1, RIGHT_SHOULDER] - joints[:1, LEFT_SHOULDER]
    forward = np.cross((0.0, 1.0, 0.0), _unit(across))
    placed = joints - joints[:1, :1] * (1, 0, 1) - (0, joints[..., 1].min(), 0)
    return _turn(placed, np.arctan2(-forward[:, 0], forward[:, 2])[:, None])


def rotations(joints: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Rotations `[frames, 22, 3, 3]` of joints relative to their parents, which turn `OFFSETS` into the bones.

    A bone's rotation is the shortest, so that twist along the bone is not known. The root's is that of `yaw`.
    """
    found = np.broadcast_to(np.eye(3), (len(joints), JOINTS, 3, 3)).copy()
    root = _about_y(yaw)
    found[:, 0] = root
    for chain in CHAINS:
        parent = root
        for start, end in pairwise(chain):
            turned = _shortest(OFFSETS[end], _unit(joints[:, end] - joints[:, start]))
            found[:, end] = parent.swapaxes(-1, -2) @ turned
            parent = turned
    return found


def _turn(vectors: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Turn vectors `[..., 3]` about y by `angle` `[...]`, radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y, z = np.moveaxis(vectors, -1, 0)
    return np.stack([cos * x + sin * z, y, cos * z - sin * x], axis=-1)


def _about_y(angle: np.ndarray) -> np.ndarray:
    """Rotation matrices `[n, 3, 3]` about y."""
    return np.moveaxis(_turn(np.broadcast_to(np.eye(3), (len(angle), 3, 3)), angle[:, None]), -1, -2)


def _shortest(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Matrices `[n, 3, 3]` of the shortest rotation from a unit vector `[3]` to unit vectors `[n, 3]` (Rodrigues)."""
    axis = np.cross(source, target)
    cosine = target @ source
    cross = np.zeros((len(target), 3, 3))
    cross[:, 0, 1], cross[:, 0, 2] = -axis[:, 2], axis[:, 1]
    cross[:, 1, 0], cross[:, 1, 2] = axis[:, 2], -axis[:, 0]
    cross[:, 2, 0], cross[:, 2, 1] = -axis[:, 1], axis[:, 0]
    found = np.eye(3) + cross + cross @ cross / np.maximum(1 + cosine, 1e-9)[:, None, None]
    across = _unit(np.cross(source, np.eye(3)[np.abs(source).argmin()]))
    found[cosine < -1 + 1e-9] = 2 * np.outer(across, across) - np.eye(3)  # opposite: half a turn about any axis across
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _check(motion: np.ndarray, shape: tuple[int, ...], what: str) -> None:
    if motion.ndim != len(shape) + 1 or motion.shape[1:] != shape or len(motion) == 0:
        raise MediaError(f"expected {what}, got {list(motion.shape)}")
    if not np.isfinite(motion).all():
        raise MediaError(f"expected finite {what}, got NaN or infinity in {int((~np.isfinite(motion)).sum())} numbers")
