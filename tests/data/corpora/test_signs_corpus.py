"""Signing as features: the file format byte by byte, what is missing, mirrors, and the real clips where they are."""

import json
import struct

import numpy as np
import pytest

from anyglot import assets
from anyglot.data.corpora.signs import run, signs
from anyglot.errors import ConfigError, MediaError
from anyglot.tokenizers.skeletons.pose_files import PoseClip, read_pose
from anyglot.tokenizers.skeletons.signs import (
    BODY,
    FEATURES,
    HANDS,
    LEFT,
    RIGHT,
    UNSEEN_WRISTS,
    mirrored,
    seen,
    to_features,
    to_points,
)  # fmt: skip


def pose_bytes(positions: np.ndarray, confidence: np.ndarray, fps: float = 25.0, version: float = 0.2) -> bytes:
    """A file with components A (points p, q) and B (point r), written field by field."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value)) + value.encode()

    header = struct.pack("<fHHHH", version, 500, 400, 0, 2)
    header += text("A") + text("XYZC") + struct.pack("<HHH", 2, 1, 1) + text("p") + text("q")
    header += struct.pack("<HH", 0, 1) + struct.pack("<HHH", 255, 0, 0)
    header += text("B") + text("XYZC") + struct.pack("<HHH", 1, 0, 0) + text("r")
    body = struct.pack("<fIH", fps, len(positions), positions.shape[1])
    return header + body + positions.astype("<f4").tobytes() + confidence.astype("<f4").tobytes()


def test_a_pose_file_is_read_as_it_was_written(tmp_path):
    generator = np.random.default_rng(0)
    positions, confidence = generator.random((5, 2, 3, 3)), generator.random((5, 2, 3))
    content = pose_bytes(positions, confidence)
    (tmp_path / "a.pose").write_bytes(content)
    for source in (content, tmp_path / "a.pose"):
        clip = read_pose(source)
        assert clip.fps == 25
        assert clip.size == (500, 400, 0)
        assert clip.points == {"A": ["p", "q"], "B": ["r"]}
        np.testing.assert_allclose(clip.positions, positions[:, 0], rtol=1e-6)
        found, sure = clip.component("B", ("r",))
        np.testing.assert_allclose(found, positions[:, 0, 2:], rtol=1e-6)
        np.testing.assert_allclose(sure, confidence[:, 0, 2:], rtol=1e-6)


def test_bad_pose_files_are_named(tmp_path):
    positions, confidence = np.zeros((3, 1, 3, 3)), np.zeros((3, 1, 3))
    whole = pose_bytes(positions, confidence)
    for cut in (0, 3, 20, 60, len(whole) - 1):
        (tmp_path / "cut.pose").write_bytes(whole[:cut])
        with pytest.raises(MediaError, match=r"cut\.pose: not a whole \.pose file"):
            read_pose(tmp_path / "cut.pose")
    with pytest.raises(MediaError, match=r"version 0\.1"):
        read_pose(pose_bytes(positions, confidence, version=0.1))
    with pytest.raises(MediaError, match="0 frames"):
        read_pose(pose_bytes(positions[:0], confidence[:0]))
    with pytest.raises(MediaError, match="two components 'A'"):
        read_pose(whole.replace(b"\1\0B", b"\1\0A"))
    for fps in (np.inf, np.nan, 0.0):
        with pytest.raises(MediaError, match="3 frames of 1 people at"):
            read_pose(pose_bytes(positions, confidence, fps=fps))
    with pytest.raises(MediaError, match="no such file"):
        read_pose(tmp_path / "absent.pose")
    with pytest.raises(MediaError, match="no component 'C', only A, B"):
        read_pose(whole).component("C")
    with pytest.raises(MediaError, match="A has no landmark 'z'"):
        read_pose(whole).component("A", ("z",))


def clip(frames: int = 6, fps: float = 25.0) -> PoseClip:
    """Random landmarks of somebody whose shoulders are 100 pixels apart, everything seen."""
    generator = np.random.default_rng(1)
    points = {"POSE_LANDMARKS": list(BODY), **{hand: [str(i) for i in range(21)] for hand in HANDS}}
    positions = generator.random((frames, 47, 3)) * (50, 50, 0.1) + (200, 100, 250)
    positions[:, 1], positions[:, 2] = (300, 200, 250), (200, 200, 250)
    return PoseClip(fps, (500, 500, 0), points, positions.astype(np.float32), np.ones((frames, 47), np.float32))


def test_features_are_measured_in_shoulder_widths():
    given = clip()
    found = to_features(given, 25.0)
    assert found.shape == (6, FEATURES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 2:6], np.tile([0.5, 0, -0.5, 0], (6, 1)), atol=1e-6)
    points = to_points(found)
    np.testing.assert_allclose(points[:, :, :2] * 100 + (250, 200), given.positions[:, :, :2], atol=1e-3)
    depth = (given.positions[:, 6:26, 2] - given.positions[:, 5:6, 2]) * 500 / 100  # a share of the picture's width
    np.testing.assert_allclose(points[:, 6:26, 2], depth, atol=1e-3)
    nearer = clip()
    nearer.positions[..., :2] = nearer.positions[..., :2] * 2 + 30
    same = [index for index in range(FEATURES) if index < 10 or (index - 10) % 63 < 3]  # all but the hands' shapes
    np.testing.assert_allclose(to_features(nearer, 25.0)[:, same], found[:, same], atol=1e-5)


def test_what_is_not_seen_lies_between_what_is():
    given = clip()
    given.confidence[2, 26:] = 0
    given.positions[2, 26:] = 0
    given.confidence[:, 5:26] = 0
    given.positions[:, 5:26] = 0
    found = to_features(given, 25.0)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[2, RIGHT][1:], (found[1, RIGHT] + found[3, RIGHT])[1:] / 2, atol=1e-6)
    np.testing.assert_array_equal(seen(found)[:, 1], [True, True, False, True, True, True])
    np.testing.assert_allclose(found[:, LEFT][:, :3], np.tile([0, *UNSEEN_WRISTS[0]], (6, 1)), atol=1e-6)
    assert not found[:, LEFT][:, 3:].any()
    given.positions[4, 30] = 9000  # a hand as large as a house is no hand
    np.testing.assert_array_equal(seen(to_features(given, 25.0))[:, 1], [True, True, False, True, False, True])
    for lost, message in ((slice(5, 47), "no hand"), (slice(1, 3), "both shoulders are never seen")):
        given = clip()
        given.confidence[:, lost] = 0
        with pytest.raises(MediaError, match=message):
            to_features(given, 25.0)


def test_landmarks_of_other_models_are_refused():
    flat, few = clip(), clip()
    flat.positions = flat.positions[..., :2]
    few.points[HANDS[1]] = few.points[HANDS[1]][:20]
    for given, message in ((flat, "2 coordinates, expected 3"), (few, "20 RIGHT_HAND_LANDMARKS, expected 21")):
        with pytest.raises(MediaError, match=message):
            to_features(given, 25.0)


def test_mirrored_twice_is_the_same_and_one_hand_signs_with_the_right():
    found = to_features(clip(), 25.0)
    np.testing.assert_array_equal(mirrored(mirrored(found)), found)
    flipped = to_points(mirrored(found))
    np.testing.assert_allclose(flipped[:, 26:], to_points(found)[:, 5:26] * (-1, 1, 1), atol=1e-6)
    left_handed = clip()
    left_handed.confidence[:, 26:] = 0
    np.testing.assert_array_equal(seen(to_features(left_handed, 25.0, mirror=True)), [[False, True]] * 6)
    np.testing.assert_array_equal(seen(to_features(left_handed, 25.0)), [[True, False]] * 6)


def test_other_rates_cover_the_same_time():
    slow, fast = to_features(clip(7, 30.0), 15.0), to_features(clip(7, 30.0), 30.0)
    np.testing.assert_allclose(slow, fast[::2], atol=1e-6)
    assert len(to_features(clip(7, 29.97), 30.0)) == 7


def test_folds_are_even_and_clips_are_listed_once():
    index = "path,signed_language,words\n" + "".join(f"a/{i}.pose,ase,{'AB'[i % 2]}\n" for i in range(20))
    found = signs(index + "a/3.pose,fsl,B\n", 5)
    assert [sign.member for sign in found] == [f"a/{i}.pose" for i in range(20)]
    assert found[3].text == "the letter B in American Sign Language"
    for letter in "AB":
        assert sorted(sign.fold for sign in found if sign.letter == letter) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_real_clips(tmp_path):
    if not assets.cached("spoken-to-signed"):
        pytest.skip("the wheel of spoken-to-signed is not cached; `anyglot fetch signs` downloads it")
    run({}, tmp_path, "here")
    documents = [json.loads(line) for line in (tmp_path / "signs.jsonl").read_text().splitlines()]
    assert len(documents) == len({document["id"] for document in documents}) == 600
    assert {document["split"] for document in documents} == {"train", "heldout"}
    assert sum(document["split"] == "heldout" for document in documents) == pytest.approx(120, abs=10)
    assert "the letter B in American Sign Language" in {document["parts"][0]["text"] for document in documents}
    motions = [np.load(tmp_path / document["parts"][1]["path"]) for document in documents]
    frames = np.concatenate(motions)
    assert frames.shape[1] == FEATURES
    assert np.isfinite(frames).all()
    assert np.abs(frames).max() < 4  # shoulder widths
    assert (seen(frames)[:, 1]).mean() > 0.95


def test_impossible_settings_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="heldout_fold"):
        run({"heldout_fold": 5}, tmp_path, "here")
