"""Motion capture as features: rotations, resampling, and the real clips where the machine has them."""

import json

import numpy as np
import pytest

from anyglot import assets
from anyglot.data.corpora.mocap import JOINTS, WIDTH, _matrices, features, resample, run
from anyglot.errors import ConfigError


def frames(count: int) -> np.ndarray:
    """Random but smooth frames `[count, 44]`, 1/30 s each."""
    generator = np.random.default_rng(0)
    found = np.cumsum(generator.standard_normal((count, 44)) * 0.05, axis=0) + generator.standard_normal(44)
    found[:, 0] = 1 / 30
    place = 4
    for numbers in JOINTS:
        if numbers == 4:
            found[:, place : place + 4] /= np.linalg.norm(found[:, place : place + 4], axis=1, keepdims=True)
        place += numbers
    return found


def test_quaternions_give_rotations() -> None:
    half = np.pi / 4
    about_y = _matrices(np.array([[np.cos(half), 0, np.sin(half), 0]]))[0]
    np.testing.assert_allclose(about_y @ [0, 0, 1], [1, 0, 0], atol=1e-12)
    about_x = _matrices(np.array([[np.cos(half), np.sin(half), 0, 0]]))[0]
    np.testing.assert_allclose(about_x @ [0, 1, 0], [0, 0, 1], atol=1e-12)


def test_a_quaternion_and_its_negative_are_one_rotation() -> None:
    plain = frames(12)
    flipped = plain.copy()
    flipped[5:, 4:8] *= -1
    np.testing.assert_allclose(features(resample(plain, 25)), features(resample(flipped, 25)), atol=1e-6)


def test_resampling_at_the_same_rate_changes_nothing() -> None:
    plain = frames(12)
    back = resample(plain, 30)
    assert back.shape == (12, 43)
    np.testing.assert_allclose(features(back), features(plain[:, 1:]), atol=1e-5)


def test_features_do_not_know_place_or_heading() -> None:
    plain = frames(8)[:, 1:]
    turned = plain.copy()
    angle = 1.1
    matrix = _matrices(np.array([[np.cos(angle / 2), 0, np.sin(angle / 2), 0]]))[0]
    turned[:, :3] = plain[:, :3] @ matrix.T + (2, 0, -1)
    w, x, y, z = plain[:, 3:7].T
    c, s = np.cos(angle / 2), np.sin(angle / 2)  # the product of the turn and the root's quaternion
    turned[:, 3:7] = np.stack([c * w - s * y, c * x + s * z, c * y + s * w, c * z - s * x], 1)
    found = features(plain)
    assert found.shape == (8, WIDTH)
    np.testing.assert_allclose(features(turned), found, atol=1e-5)


def test_real_clips(tmp_path) -> None:
    if not assets.cached("pybullet"):
        pytest.skip("the wheel of pybullet is not cached; `anyglot fetch mocap` downloads it")
    run({}, tmp_path, "here")
    documents = [json.loads(line) for line in (tmp_path / "motion.jsonl").read_text().splitlines()]
    assert len(documents) == 30
    names = {document["parts"][0]["text"] for document in documents}
    assert {"walk", "backflip", "dance a"} <= names
    for document in documents:
        motion = np.load(tmp_path / document["parts"][1]["path"])
        assert motion.shape[1] == WIDTH
        assert motion.dtype == np.float32
        assert np.isfinite(motion).all()


def test_impossible_settings_are_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="heldout"):
        run({"heldout": 1.0}, tmp_path, "here")
