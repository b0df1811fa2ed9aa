"""Rotations and forward kinematics, against scipy and by hand; the figures that are drawn."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from anyglot import assets
from anyglot.data.corpora import mocap
from anyglot.errors import ConfigError, MediaError
from anyglot.tokenizers.skeletons import humanoid, signs
from anyglot.tokenizers.skeletons.drawing import LINES, _floor, draw
from anyglot.tokenizers.skeletons.figures import FIGURES, figure
from anyglot.tokenizers.skeletons.skeleton import Skeleton, about, from_euler, from_six, positions, to_euler, to_six

SHARED = Path(os.environ.get("ANYGLOT_SHARED_DATA") or Path(__file__).parents[4] / "shared" / "data")
ORDERS = ["".join(order) for order in itertools.permutations("XYZ")]


@pytest.mark.parametrize("order", ORDERS)
def test_euler_angles_are_scipy_s_in_any_order(order):
    degrees = np.random.default_rng(0).uniform(-180, 180, (50, 3)) * (1, 0.49, 1)
    matrices = from_euler(degrees, order)
    np.testing.assert_allclose(matrices, Rotation.from_euler(order, degrees, degrees=True).as_matrix(), atol=1e-12)
    np.testing.assert_allclose(to_euler(matrices, order), degrees, atol=1e-8)
    upright = from_euler(np.array([(20.0, 90.0, 50.0), (20.0, -90.0, 50.0), (0, 90, 0)]), order)
    np.testing.assert_allclose(from_euler(to_euler(upright, order), order), upright, atol=1e-9)  # one of many angles


def test_six_numbers_are_a_rotation():
    matrices = Rotation.random(40, random_state=0).as_matrix()
    np.testing.assert_allclose(from_six(to_six(matrices)), matrices, atol=1e-12)
    np.testing.assert_array_equal(to_six(matrices)[0], [*matrices[0, :, 0], *matrices[0, :, 1]])
    rough = from_six(np.random.default_rng(0).standard_normal((40, 6)) * 3)
    np.testing.assert_allclose(rough @ rough.swapaxes(1, 2), np.broadcast_to(np.eye(3), (40, 3, 3)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rough), 1)


def test_an_arm_by_hand():
    arm = Skeleton(["shoulder", "elbow", "wrist"], [-1, 0, 1], np.array([(9, 9, 9), (1, 0, 0), (1, 0, 0)]))
    turns = np.broadcast_to(np.eye(3), (1, 3, 3, 3)).copy()
    turns[0, 0] = about(2, np.array(np.pi / 2))  # the whole arm up
    turns[0, 1] = about(2, np.array(-np.pi / 2))  # the forearm back to level
    found = positions(arm, turns, np.array([(5.0, 0, 0)]))
    np.testing.assert_allclose(found[0], [(5, 0, 0), (5, 1, 0), (6, 1, 0)], atol=1e-12)
    with pytest.raises(MediaError, match="one root"):
        Skeleton(["a", "b"], [-1, 1], np.zeros((2, 3)))
    with pytest.raises(MediaError, match="2 joints, 2 parents, 3 offsets"):
        Skeleton(["a", "b"], [-1, 0], np.zeros((3, 3)))


def test_the_humanoid_s_features_give_back_its_joints():
    """Against forward kinematics of the captured angles themselves, turned to where each clip begins."""
    if not assets.cached("pybullet"):
        pytest.skip("the wheel of pybullet is not cached; `anyglot fetch mocap` downloads it")
    for name in ("walk", "spin", "cartwheel", "getup_faceup"):
        member = f"{mocap.FOLDER}{mocap.PREFIX}{name}.txt"
        poses = mocap.resample(np.array(json.loads(assets.open_member("pybullet", member))["Frames"]), 30.0)
        turns = np.broadcast_to(np.eye(3), (len(poses), 18, 3, 3)).copy()
        place = 3
        for joint, numbers in enumerate(humanoid.JOINTS):
            block = poses[:, place : place + numbers]
            quaternion = block[:, [1, 2, 3, 0]] if numbers == 4 else None
            turns[:, joint] = about(2, block[:, 0]) if quaternion is None else Rotation(quaternion).as_matrix()
            place += numbers
        plain = positions(humanoid.SKELETON, turns, poses[:, :3])
        first = turns[0, 0]
        back = about(1, np.array(-np.arctan2(first[0, 2], first[2, 2])))
        wanted = (plain - poses[0, :3] * (1, 0, 1)) @ back.T
        np.testing.assert_allclose(humanoid.to_joints(mocap.features(poses)), wanted, atol=1e-6)
    assert 0.1 > plain[..., 1].min() > -0.1  # on the floor
    with pytest.raises(MediaError, match=r"\[frames, 63\]"):
        humanoid.to_joints(np.zeros((4, 62)))


@pytest.mark.parametrize(("name", "across"), [("humanoid", 2), ("signs", 0)])
def test_a_mirror_exchanges_left_and_right(name, across):
    shown = FIGURES[name]
    generator = np.random.default_rng(0)
    motion = generator.standard_normal((5, shown.features))
    np.testing.assert_array_equal(shown.mirrored(shown.mirrored(motion)), motion)
    points, flipped = shown.joints(motion), shown.joints(shown.mirrored(motion))
    points[..., across] *= -1
    if name == "humanoid":
        names = humanoid.SKELETON.names
        other = [name.replace("left", "L").replace("right", "left").replace("L", "right") for name in names]
        points = points[:, [names.index(joint) for joint in other]]
    else:
        points = points[:, [0, 2, 1, 4, 3, *range(26, 47), *range(5, 26)]]
    np.testing.assert_allclose(flipped, points, atol=1e-6)
    assert not np.allclose(shown.joints(motion), flipped)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_in_view(name):
    shown = FIGURES[name]
    generator = np.random.default_rng(0)
    motion = generator.standard_normal((3, shown.features)).astype(np.float32)
    pictures = draw(shown, motion, side=64)
    assert pictures.shape == (3, 64, 64, 3)
    assert pictures.dtype == np.uint8
    border = np.concatenate([pictures[:, 0], pictures[:, -1]])
    assert (border > 200).all()  # the figure stays inside: at most the floor's pale lines reach the edge
    assert (pictures.min((1, 2, 3)) < 120).all()
    assert (pictures[0] != pictures[1]).any()
    joints = shown.joints(motion)
    assert {index for start, end, _ in shown.limbs for index in (start, end)} <= set(range(joints.shape[1]))
    assert figure(name, shown.features) is shown


def test_a_hand_that_is_not_seen_is_not_drawn():
    motion = np.zeros((1, signs.FEATURES), np.float32)
    motion[:, signs.RIGHT.start] = 1
    seen = FIGURES["signs"].seen(motion)
    assert seen.sum() == len(signs.BODY) + signs.HAND_POINTS
    assert seen[0, -1]


def test_real_motion_is_drawn_upright():
    path = SHARED / "humanml3d" / "features_012314.npy"
    if not path.exists():
        pytest.skip(f"{path} is not there; set ANYGLOT_SHARED_DATA to the folder that holds humanml3d")
    motion = np.load(path).astype(np.float32)
    joints = FIGURES["humanml3d"].joints(motion)
    assert (joints[0, 15, 1] > joints[0, 0, 1] > joints[0, 10, 1]).all()
    assert draw(FIGURES["humanml3d"], motion[:2], side=32).shape == (2, 32, 32, 3)


def test_another_skeleton_is_refused():
    with pytest.raises(ConfigError, match="'dog' is none of humanml3d, humanoid, signs"):
        figure("dog", 3)
    with pytest.raises(ConfigError, match="signs has 136 features, the model's `features` are 63"):
        figure("signs", 63)


def test_the_floor_under_a_figure_that_flies_away_has_few_lines():
    for size in (1.0, 60.0, 1e9):
        floor = _floor(np.array([[(0, 0, 0)], [(size, 1, 0.3 * size)]]))
        assert len(floor) <= 2 * (LINES + 3)
        assert floor[..., 0].min() <= 0 <= size <= floor[..., 0].max()
