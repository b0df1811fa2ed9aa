"""The figure of pybullet's motion capture (DeepMimic), and its 63 numbers a frame, as the corpus `mocap` writes them.

    0        the root's height, metres
    1:4      its way since the frame before, seen from the root; y up
    4:62     rotations: as six numbers (see `skeleton.py`) those of root without its heading, chest, neck, right hip,
             right ankle, right shoulder and the left ones; as one angle those of knees and elbows, in their places
    62       how far the heading turned since the frame before, radians

The figure faces x, y is up, z to its right. Offsets are those of pybullet_data/humanoid/humanoid.urdf, a quarter of
their size, which are metres.
"""

import numpy as np

from anyglot.errors import MediaError
from anyglot.tokenizers.skeletons.skeleton import Skeleton, about, from_six, positions

# How many numbers each joint has in a captured frame: 4 a quaternion, 1 the angle of a hinge. Root, chest, neck, right
# hip, knee, ankle, shoulder, elbow, then the left ones.
JOINTS = (4, 4, 4, 4, 1, 4, 4, 1, 4, 1, 4, 4, 1)
FEATURES = 1 + 3 + sum(6 if numbers == 4 else 1 for numbers in JOINTS) + 1
_SIDE = ((0, 0, 0.339548), (0, -1.686184, 0), (0, -1.63948, 0), (-0.0962, 0.974, 0.73244), (0, -1.099152, 0))
_ENDS = ((0, 1.0, 0), (0, -1.035788, 0), (0.45, -0.2, 0))  # top of the head, wrist, tip of the foot
_LEFT = (1, 1, -1)
SKELETON = Skeleton(
    names=[
        "root", "chest", "neck", "right_hip", "right_knee", "right_ankle", "right_shoulder", "right_elbow",
        "left_hip", "left_knee", "left_ankle", "left_shoulder", "left_elbow",
        "head", "right_wrist", "left_wrist", "right_toe", "left_toe",
    ],
    parents=[-1, 0, 1, 0, 3, 4, 1, 6, 0, 8, 9, 1, 11, 2, 7, 12, 5, 10],
    offsets=0.25 * np.array([
        (0, 0, 0), (0, 0.944604, 0), (0, 0.895576, 0), *_SIDE, *(np.multiply(offset, _LEFT) for offset in _SIDE),
        _ENDS[0], _ENDS[1], _ENDS[1], _ENDS[2], _ENDS[2],
    ]),
)  # fmt: skip


def to_joints(features: np.ndarray) -> np.ndarray:
    """Positions `[frames, 18, 3]` in metres, y up; the motion starts at x = z = 0, its root unturned."""
    if features.ndim != 2 or features.shape[1] != FEATURES or not len(features):
        raise MediaError(f"expected features of the humanoid [frames, {FEATURES}], got {list(features.shape)}")
    features = features.astype(np.float64)
    turns = features[:, -1].copy()
    turns[0] = 0.0
    heading = about(1, np.cumsum(turns))
    way = np.einsum("fij,fj->fi", heading, features[:, 1:4])
    way[0] = 0.0
    root = np.cumsum(way, axis=0)
    root[:, 1] = features[:, 0]
    rotations = np.broadcast_to(np.eye(3), (len(features), len(SKELETON.names), 3, 3)).copy()
    place = 4
    for joint, numbers in enumerate(JOINTS):
        if numbers == 4:
            rotations[:, joint] = from_six(features[:, place : place + 6])
            place += 6
        else:
            rotations[:, joint] = about(2, features[:, place])
            place += 1
    rotations[:, 0] = heading @ rotations[:, 0]
    return positions(SKELETON, rotations, root)


def mirrored(features: np.ndarray) -> np.ndarray:
    """The same movement in a mirror: features `[..., 63]`, left and right exchanged."""
    blocks, place = [], 4
    for numbers in JOINTS:
        width = 6 if numbers == 4 else 1
        block = features[..., place : place + width]
        blocks.append(block * np.array((1, 1, -1, 1, 1, -1), block.dtype) if width == 6 else block)
        place += width
    middle, right, left = blocks[:3], blocks[3:8], blocks[8:]
    way = features[..., :4] * np.array((1, 1, 1, -1), features.dtype)
    return np.concatenate([way, *middle, *left, *right, -features[..., -1:]], axis=-1)
