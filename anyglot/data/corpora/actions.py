"""Actions out of the motion capture of the pybullet package: people, and a robot dog, as a controller sees them.

Written below the output folder: action/KIND-NAME-SPLIT.npy, and a file of documents per kind, name and action each:

dog.jsonl     12 joint angles of a Laikago robot that walks.
joints.jsonl  62 numbers that describe a person's pose (see `mocap.py`), which are the targets of its joints.
steps.jsonl   186 numbers: the pose, how it changed since the frame before, how it changes until the next frame; the
              first two are the observation, the last is the action.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyglot import assets
from anyglot.config import typed
from anyglot.data.corpora import mocap
from anyglot.data.progress import JobProgress
from anyglot.errors import ConfigError
from anyglot.files import atomic_path

ROOT = 7  # numbers of the dog's root, which no motor moves


@dataclass
class ActionsCorpus:
    """Fields of configs/corpora/actions.yaml; see there."""

    fps: float = 60.0
    heldout: float = 0.2

    def __post_init__(self) -> None:
        if self.fps <= 0 or not 0 < self.heldout < 1:
            raise ConfigError("fps must be above 0, heldout a share between 0 and 1")


def run(mapping: dict[str, Any], out: Path, where: str) -> None:
    """Build the corpus in `out`. Raises AssetError if the package cannot be had."""
    config = typed(ActionsCorpus, mapping, where)
    members = assets.members("pybullet")
    lines: dict[str, list[str]] = {"dog": [], "joints": [], "steps": []}
    (out / "action").mkdir(parents=True, exist_ok=True)
    with JobProgress(out, {"clips": len(members)}) as progress:
        for done, member in enumerate(members, start=1):
            name = Path(member).stem.removeprefix(mocap.PREFIX)
            frames = np.array(json.loads(assets.open_member("pybullet", member))["Frames"], dtype=np.float64)
            for kind, split, action in pieces(frames, config):
                path = out / "action" / f"{kind}-{name}-{split}.npy"
                with atomic_path(path) as temporary, open(temporary, "wb") as file:
                    np.save(file, action)
                parts = [
                    {"type": "text", "text": name.replace("_", " ")},
                    {"type": "action", "path": f"action/{path.name}"},
                ]
                lines[kind].append(json.dumps({"id": path.stem, "split": split, "parts": parts}))
            progress.reach("clips", done)
    for kind, documents in lines.items():
        with atomic_path(out / f"{kind}.jsonl") as temporary:
            temporary.write_text("".join(f"{line}\n" for line in documents), encoding="utf-8")


def demonstration(pose: np.ndarray) -> np.ndarray:
    """Observation and action, float32 [time - 2, 186], of poses [time, 62]."""
    change = np.diff(pose, axis=0)
    return np.concatenate([pose[1:-1], change[:-1], change[1:]], axis=1)


def pieces(frames: np.ndarray, config: ActionsCorpus) -> Iterator[tuple[str, str, np.ndarray]]:
    """(kind, split, actions float32 [time, features]) of a clip's frames; the last share of it is held out."""
    if frames.shape[1] == mocap.FRAME:
        pose = mocap.features(mocap.resample(frames, config.fps))[:, :-1]  # no motor turns the heading
        kinds = {"joints": pose, "steps": demonstration(pose)}
    else:
        times = np.concatenate([[0.0], np.cumsum(frames[:-1, 0])])
        wanted = np.arange(0.0, times[-1] + 1e-9, 1 / config.fps)
        angles = [np.interp(wanted, times, column) for column in frames[:, 1 + ROOT :].T]
        kinds = {"dog": np.stack(angles, axis=1).astype(np.float32)}
    for kind, actions in kinds.items():
        kept = round(len(actions) * (1 - config.heldout))
        yield kind, "train", actions[:kept]
        yield kind, "heldout", actions[kept:]
