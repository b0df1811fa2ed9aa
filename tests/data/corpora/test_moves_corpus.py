"""Movements as text, video and motion: what is cut from where, what the camera sees, what is kept of an earlier run."""

import json
import platform
from pathlib import Path

import numpy as np
import pytest

from anyglot import assets
from anyglot.data.corpora import mocap
from anyglot.data.corpora.humanoid import heading
from anyglot.data.corpora.moves import MovesCorpus, movements, pieces, run
from anyglot.errors import AssetError, ConfigError
from anyglot.tokenizers.clips import read_clip

SETTINGS = {
    "moves": ["run", "getup_faceup"],
    "views": ["the front", "the left", "the right"],
    "colours": ["red", "blue"],
    "workers": 1,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av", reason="pip install 'anyglot[video]' to test video files")
    if not assets.cached("pybullet"):
        pytest.skip("the wheel of pybullet is not cached; `anyglot fetch moves` downloads it")
    folder = tmp_path_factory.mktemp("moves")
    try:
        run(SETTINGS, folder, "here")
    except AssetError as error:
        pytest.skip(str(error))
    return folder


def documents(folder: Path) -> dict[str, dict]:
    return {line["id"]: line for line in map(json.loads, (folder / "moves.jsonl").read_text().splitlines())}


def test_some_are_few_enough_to_be_learnt_by_heart(corpus: Path) -> None:
    paired = [json.loads(line)["id"] for line in (corpus / "paired.jsonl").read_text().splitlines()]
    wanted = {f"{move}-{split}-0-{view}-red" for move in ("run", "getup_faceup") for split in ("train", "heldout")
              for view in ("the_front", "the_left")}  # fmt: skip
    assert len(paired) == len(wanted)
    assert set(paired) == wanted


def film(folder: Path, document: dict) -> np.ndarray:
    return frames_of(folder / document["parts"][1]["path"])


def frames_of(path: Path) -> np.ndarray:
    return read_clip(path, 0, 0, 10**6, 100).astype(int)


@pytest.mark.parametrize("length", [24, 39, 60, 133])
@pytest.mark.parametrize("step", [0.1, 0.5, 9.0])
def test_pieces_cover_a_movement_and_keep_out_of_what_is_held_out(length: int, step: float) -> None:
    config = MovesCorpus(step=step)
    seen: dict[str, set[int]] = {"train": set(), "heldout": set()}
    for split, _, piece in pieces(length, config):
        count = piece.stop - piece.start
        assert count % 3 == 1
        assert count <= 16 * 3 + 1
        seen[split] |= set(range(piece.start, piece.stop))
    kept = round(length * 0.7)
    assert max(seen["train"]) < kept <= min(seen["heldout"])
    assert max(seen["heldout"]) < length
    for split, frames in (("train", kept), ("heldout", length - kept)):
        if step <= 0.5:  # of what is shorter than a piece, up to 2 frames are no video frame of their own
            assert len(seen[split]) >= frames - 2


def test_what_belongs_together_is_of_the_same_time(corpus: Path) -> None:
    found = documents(corpus)
    frames = movements(["getup_faceup"])["getup_faceup"]
    whole = mocap.features(mocap.resample(frames, 30))
    spans = pieces(len(whole), MovesCorpus())
    assert len(found) == (2 + len(spans)) * 3 * 2
    for split, number, piece in spans:
        document = found[f"getup_faceup-{split}-{number}-the_left-blue"]
        assert document["split"] == split
        assert document["parts"][0]["text"] == "getup faceup, in blue, seen from the left"
        motion = np.load(corpus / document["parts"][2]["path"])
        np.testing.assert_array_equal(motion, whole[piece])
        clip = film(corpus, document)
        assert clip.shape == (1 + (len(motion) - 1) // 3, 64, 64, 3)


def rows_and_columns(frame: np.ndarray) -> np.ndarray:
    """Where red is, `[n, 2]`."""
    return np.argwhere(frame[..., 0] - frame[..., 1:].max(-1) > 60)


def test_the_camera_stands_where_the_text_says(corpus: Path) -> None:
    found = documents(corpus)
    left, right, front = (
        film(corpus, found[f"run-train-0-{view}-red"]) for view in ("the_left", "the_right", "the_front")
    )

    def column(frame: np.ndarray) -> float:
        return float(rows_and_columns(frame)[:, 1].mean())

    # Who stands at a runner's left side sees the runner go to the left.
    assert column(left[-1]) < column(left[0]) - 20
    assert column(right[-1]) > column(right[0]) + 20
    assert abs(column(front[0]) - column(front[-1])) < 8
    assert np.ptp(rows_and_columns(front[-1])[:, 0]) > np.ptp(rows_and_columns(front[0])[:, 0])  # comes nearer


def test_heights_on_the_picture_follow_the_motion(corpus: Path) -> None:
    """Getting up: the motion's first feature is the root's height, and the picture's topmost pixel rises with it."""
    document = documents(corpus)["getup_faceup-heldout-0-the_left-red"]
    clip, motion = film(corpus, document), np.load(corpus / document["parts"][2]["path"])
    top = np.array([rows_and_columns(frame)[:, 0].min() for frame in clip])
    assert np.corrcoef(top, motion[::3, 0])[0, 1] < -0.7


def test_colours_are_the_named_ones(corpus: Path) -> None:
    found = documents(corpus)
    for name, channel in (("red", 0), ("blue", 2)):
        clip = film(corpus, found[f"run-heldout-0-the_front-{name}"])
        others = [c for c in range(3) if c != channel]
        assert (clip[..., channel] - clip[..., others].max(-1) > 60).sum() > 20


def test_a_second_run_makes_only_what_is_missing(corpus: Path) -> None:
    films = sorted((corpus / "video").iterdir())
    before, content = [path.stat().st_mtime_ns for path in films], frames_of(films[0])
    films[0].unlink()
    run(SETTINGS, corpus, "here")
    assert [path.stat().st_mtime_ns for path in films[1:]] == before[1:]
    # The encoder rounds as its buffers happen to lie in memory: the same film, not always the same bytes.
    assert np.abs(frames_of(films[0]) - content).mean() < 0.5
    with pytest.raises(ConfigError, match="other settings"):
        run({**SETTINGS, "side": 32}, corpus, "here")


def test_headings_are_of_the_root() -> None:
    pose = np.zeros(43)
    for angle in (-2.0, 0.3, 1.5):
        pose[3:7] = np.cos(angle / 2), 0, np.sin(angle / 2), 0
        assert heading(pose) == pytest.approx(angle)


def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for fields, message in [
        ({"heldout": 1.0}, "heldout"),
        ({"motion_fps": 25.0}, "multiple of fps=10"),
        ({"colours": ["red", "pink"]}, "colours: one or more of red"),
        ({"views": []}, "views: one or more"),
    ]:
        with pytest.raises(ConfigError, match=message):
            run(fields, tmp_path, "here")
    if assets.cached("pybullet"):
        with pytest.raises(ConfigError, match="no 'swim'"):
            run({"moves": ["swim"]}, tmp_path, "here")
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
        with pytest.raises(AssetError, match="runs on that Python and system only"):
            run({"moves": ["run"]}, tmp_path / "other", "here")


@pytest.mark.parametrize("heldout", [0.001, 0.999])
def test_a_split_without_a_frame_is_refused(heldout: float) -> None:
    with pytest.raises(ConfigError, match="cuts a movement of 100 frames"):
        pieces(100, MovesCorpus(heldout=heldout))
