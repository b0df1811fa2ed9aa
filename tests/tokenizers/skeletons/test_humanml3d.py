"""HumanML3D's features against the data set's own pair of files, and back."""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from anyglot.errors import MediaError
from anyglot.tokenizers.skeletons.humanml3d import (
    CHAINS,
    FEATURES,
    JOINTS,
    OFFSETS,
    facing,
    rotations,
    to_features,
    to_joints,
)

SHARED = Path(os.environ.get("ANYGLOT_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data")) / "humanml3d"


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    if not (SHARED / "features_012314.npy").exists():
        pytest.skip(f"no HumanML3D clip in {SHARED}: set ANYGLOT_SHARED_DATA to a folder with humanml3d/")
    return np.load(SHARED / "features_012314.npy"), np.load(SHARED / "joints_012314.npy")


def walk(frames: int = 60) -> np.ndarray:
    """A person of sticks who walks a curve, with swinging arms: float32 `[frames, 22, 3]`."""
    rest = np.zeros((JOINTS, 3))
    for chain in CHAINS:
        for start, end in pairwise(chain):
            rest[end] = rest[start] + OFFSETS[end] * 0.25
    rest[:, 1] -= rest[:, 1].min()
    time = np.arange(frames)[:, None] / 20
    joints = np.repeat(rest[None], frames, 0)
    joints[:, 18:22, 2] += 0.2 * np.sin(4 * time)
    angle = 0.3 * time[:, 0]
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, z = joints[..., 0].copy(), joints[..., 2].copy()
    joints[..., 0], joints[..., 2] = cos * x + sin * z + np.sin(time), cos * z - sin * x + time
    return joints.astype(np.float32)


def test_features_decode_to_the_data_set_s_joints(pair: tuple[np.ndarray, np.ndarray]) -> None:
    features, joints = pair
    decoded = to_joints(features)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, joints, atol=1e-6)


def test_joints_encode_to_the_data_set_s_features(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """All 263, where the direction that the root faces is the data set's; N frames give N - 1."""
    features, joints = pair
    yaw = np.concatenate([[0.0], 2 * np.cumsum(features[:-1, 0].astype(np.float64))])
    found = to_features(joints, yaw)
    np.testing.assert_allclose(found, features[:-1], atol=2e-5)
    np.testing.assert_array_equal(found[:, 259:], features[:-1, 259:])


@pytest.mark.parametrize("turned", [0.0, 2.0])
def test_joints_come_back_from_their_features(turned: float) -> None:
    """Exactly, but for where and in which direction the motion starts."""
    joints = walk().astype(np.float64)
    start = joints[:, :1] * (1, 0, 1)
    cos, sin = np.cos(turned), np.sin(turned)
    matrix = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    joints = ((joints - start[:1]) @ matrix.T).astype(np.float32)
    features = to_features(joints)
    assert features.shape == (59, FEATURES)
    assert features.dtype == np.float32
    np.testing.assert_allclose(to_joints(features), joints[:-1], atol=2e-6)


def test_features_do_not_know_where_a_motion_starts() -> None:
    joints = walk()
    np.testing.assert_allclose(to_features(joints), to_features(joints + np.float32([3, 0, -2])), atol=2e-5)


def test_rotations_turn_the_resting_bones_into_these() -> None:
    joints = walk().astype(np.float64)
    yaw = facing(joints)
    found = rotations(joints, yaw)
    assert np.allclose(found @ found.swapaxes(-1, -2), np.eye(3), atol=1e-9)
    assert np.allclose(np.linalg.det(found), 1)
    turned = found[:, 0]
    for start, end in ((0, 2), (2, 5), (5, 8), (8, 11)):  # along the right leg
        turned = turned @ found[:, end]
        bone = joints[:, end] - joints[:, start]
        np.testing.assert_allclose(turned @ OFFSETS[end], bone / np.linalg.norm(bone, axis=1, keepdims=True), atol=1e-9)


def test_feet_stand_where_they_do_not_move() -> None:
    joints = walk()
    joints[:, (7, 10)] = joints[:1, (7, 10)]
    feet = to_features(joints)[:, 259:]
    assert (feet[:, :2] == 1).all()
    assert (feet[:, 2:] == 0).any()


def test_other_shapes_are_refused() -> None:
    with pytest.raises(MediaError, match=r"expected features \[frames, 263\], got \[4, 251\]"):
        to_joints(np.zeros((4, 251), np.float32))
    with pytest.raises(MediaError, match=r"joint positions \[frames, 22, 3\], got \[4, 21, 3\]"):
        to_features(np.zeros((4, 21, 3), np.float32))
    with pytest.raises(MediaError, match="two frames or more"):
        to_features(np.zeros((1, 22, 3), np.float32))
    with pytest.raises(MediaError, match="NaN or infinity in 3"):
        to_features(np.where(np.arange(88).reshape(4, 22, 1) == 5, np.nan, np.zeros((4, 22, 3))).astype(np.float32))
