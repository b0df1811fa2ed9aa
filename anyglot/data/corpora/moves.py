"""Real movements as text, video and motion at once: the motion capture of `mocap`, filmed from several sides.

Written below the output folder:
    motion/MOVE-SPLIT-NUMBER.npy                 a piece of a movement, in the features of `mocap`, at motion_fps
    video/MOVE-SPLIT-NUMBER-VIEW-COLOUR.mp4      the same span of time filmed, at fps
    moves.jsonl                                  a document for every film: what it shows, the film, the motion
    paired.jsonl                                 of these, few enough to be learnt by heart: of each movement the first
                                                 piece of each split, from `paired_views`, in the first colour
    settings.json                                what it was made with; written first
The last share of each movement's time is held out; pieces of the rest overlap each other, but never reach into it. Each
motion frame number `k * motion_fps / fps` is what video frame k shows.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anyglot import assets
from anyglot.config import to_mapping, typed
from anyglot.data.corpora.humanoid import Shot, render_all
from anyglot.data.corpora.mocap import PREFIX, features, resample
from anyglot.data.progress import JobProgress
from anyglot.errors import ConfigError
from anyglot.files import atomic_path, write_json, write_text

VIEWS = {  # degrees from the face towards the left side
    "the front": 0,
    "the front left": 45,
    "the left": 90,
    "the back left": 135,
    "behind": 180,
    "the back right": 225,
    "the right": 270,
    "the front right": 315,
}
COLOURS = {"red": (0.8, 0.15, 0.15), "green": (0.15, 0.6, 0.2), "blue": (0.15, 0.3, 0.8)}


@dataclass
class MovesCorpus:
    """Fields of configs/corpora/moves.yaml; see there."""

    fps: float = 10.0
    motion_fps: float = 30.0
    frames: int = 17
    step: float = 0.5
    heldout: float = 0.3
    side: int = 64
    moves: list[str] = field(default_factory=list)
    views: list[str] = field(default_factory=lambda: list(VIEWS))
    colours: list[str] = field(default_factory=lambda: list(COLOURS))
    paired_views: list[str] = field(default_factory=lambda: ["the front", "the left"])
    workers: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.heldout < 1 or self.fps <= 0 or self.step <= 0 or self.frames < 2:
            raise ConfigError("heldout must lie between 0 and 1, fps and step above 0, frames be 2 or more")
        if self.motion_fps < self.fps or self.motion_fps % self.fps:
            raise ConfigError(f"motion_fps must be a multiple of fps={self.fps:g}, got {self.motion_fps:g}")
        if self.side < 16:
            raise ConfigError("side must be 16 or more")
        for key, names, valid in (
            ("views", self.views, VIEWS),
            ("colours", self.colours, COLOURS),
            ("paired_views", self.paired_views, self.views),
        ):
            if not names or not set(names) <= set(valid):
                raise ConfigError(f"{key}: one or more of {', '.join(valid)}, got {names}")


def run(mapping: dict[str, Any], out: Path, where: str) -> None:
    """Build the corpus in `out`; films that are there are kept.

    Raises ConfigError for a mistake, or a folder made with other settings; AssetError if the package cannot be had or
    its renderer does not run here.
    """
    config = typed(MovesCorpus, mapping, where)
    _settle(out, config)
    lines, paired, shots = [], [], []
    for name, frames in movements(config.moves).items():
        poses = resample(frames, config.motion_fps)
        motion = features(poses)
        for split, number, piece in pieces(len(poses), config):
            stem = f"{name}-{split}-{number}"
            with atomic_path(out / "motion" / f"{stem}.npy") as temporary, open(temporary, "wb") as file:
                np.save(file, motion[piece])
            filmed = poses[piece][:: round(config.motion_fps / config.fps)]
            for view in config.views:
                for colour in config.colours:
                    film = f"{stem}-{view.replace(' ', '_')}-{colour}"
                    shots.append(Shot(out / "video" / f"{film}.mp4", filmed, VIEWS[view], COLOURS[colour]))
                    parts = [
                        {"type": "text", "text": f"{name.replace('_', ' ')}, in {colour}, seen from {view}"},
                        {"type": "video", "path": f"video/{film}.mp4"},
                        {"type": "motion", "path": f"motion/{stem}.npy"},
                    ]
                    lines.append(json.dumps({"id": film, "split": split, "parts": parts}) + "\n")
                    if number == 0 and view in config.paired_views and colour == config.colours[0]:
                        paired.append(lines[-1])
    with JobProgress(out, {"films": len(shots)}) as progress:
        for done in render_all(shots, config.side, config.fps, config.workers or len(os.sched_getaffinity(0))):
            progress.reach("films", done)
    write_text(out / "paired.jsonl", "".join(paired))
    write_text(out / "moves.jsonl", "".join(lines))


def movements(wanted: list[str]) -> dict[str, np.ndarray]:
    """The captured movements by name, frames `[n, 44]` (see `mocap`); `wanted` = [] for all."""
    members = {Path(name).stem.removeprefix(PREFIX): name for name in assets.members("pybullet") if PREFIX in name}
    if unknown := [name for name in wanted if name not in members]:
        raise ConfigError(f"moves: there is no {unknown[0]!r}; valid: {', '.join(members)}")
    return {
        name: np.array(json.loads(assets.open_member("pybullet", members[name]))["Frames"], dtype=np.float64)
        for name in wanted or members
    }


def pieces(length: int, config: MovesCorpus) -> list[tuple[str, int, slice]]:
    """Split, number and span of the pieces of a movement of `length` motion frames.

    A span has `1 + n * motion_fps / fps` motion frames: those of n + 1 video frames, `frames` at most. Together they
    cover what they are cut from but for what no further video frame fits into. Raises ConfigError if a split is left
    without a frame.
    """
    ratio = round(config.motion_fps / config.fps)
    kept = round(length * (1 - config.heldout))
    if not 0 < kept < length:
        raise ConfigError(
            f"heldout={config.heldout:g} cuts a movement of {length} frames into {kept} to train and {length - kept} "
            "to hold out; both need one or more"
        )
    found = []
    for split, first, last in (("train", 0, kept), ("heldout", kept, length)):
        span = min(config.frames, 1 + (last - first - 1) // ratio)
        room = (last - first) - (1 + (span - 1) * ratio)  # how far the piece can be shifted
        count = 1 + int(np.ceil(room / (config.step * config.motion_fps))) if span == config.frames else 1
        for number, start in enumerate(np.linspace(first, first + room, count).astype(int)):
            found.append((split, number, slice(int(start), int(start) + 1 + (span - 1) * ratio)))
    return found


def _settle(out: Path, config: MovesCorpus) -> None:
    """Refuse to mix films of different settings in one folder: those that are there are kept as they are."""
    settings = {key: value for key, value in to_mapping(config).items() if key != "workers"}
    settings["asset"] = assets.find("pybullet").sha256
    path = out / "settings.json"
    if path.exists() and json.loads(path.read_text("utf-8")) != settings:
        raise ConfigError(f"{path} names other settings than this run's; choose another folder, or delete {out}")
    write_json(path, settings)
