"""Motion capture out of the pybullet package: 15 clips of one person (from the CMU and SFU databases, by DeepMimic).

Written below the output folder: motion/NAME-SPLIT.npy and motion.jsonl, a document per piece: its name and the motion.
A frame is 63 numbers: see `anyglot.tokenizers.skeletons.humanoid`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyglot import assets
from anyglot.config import typed
from anyglot.data.progress import JobProgress
from anyglot.errors import ConfigError
from anyglot.files import atomic_path
from anyglot.tokenizers.skeletons import humanoid
from anyglot.tokenizers.skeletons.skeleton import about, to_six

FOLDER = "pybullet_data/data/motions/"
PREFIX = "humanoid3d_"
JOINTS, WIDTH = humanoid.JOINTS, humanoid.FEATURES
FRAME = 1 + 3 + sum(JOINTS)  # numbers of a frame in the files: how long it lasts, where the root is, the joints


@dataclass
class MocapCorpus:
    """Fields of configs/corpora/mocap.yaml; see there."""

    fps: float = 30.0
    heldout: float = 0.2

    def __post_init__(self) -> None:
        if self.fps <= 0 or not 0 < self.heldout < 1:
            raise ConfigError("fps must be above 0, heldout a share between 0 and 1")


def run(mapping: dict[str, Any], out: Path, where: str) -> None:
    """Build the corpus in `out`. Raises AssetError if the package cannot be had."""
    config = typed(MocapCorpus, mapping, where)
    members = [name for name in assets.members("pybullet") if Path(name).stem.startswith(PREFIX)]
    lines = []
    (out / "motion").mkdir(parents=True, exist_ok=True)
    with JobProgress(out, {"clips": len(members)}) as progress:
        for done, member in enumerate(members, start=1):
            frames = np.array(json.loads(assets.open_member("pybullet", member))["Frames"], dtype=np.float64)
            motion = features(resample(frames, config.fps))
            kept = round(len(motion) * (1 - config.heldout))
            name = Path(member).stem.removeprefix(PREFIX)
            for split, part in (("train", motion[:kept]), ("heldout", motion[kept:])):
                path = out / "motion" / f"{name}-{split}.npy"
                with atomic_path(path) as temporary, open(temporary, "wb") as file:
                    np.save(file, part)
                parts = [
                    {"type": "text", "text": name.replace("_", " ")},
                    {"type": "motion", "path": f"motion/{path.name}"},
                ]
                lines.append(json.dumps({"id": path.stem, "split": split, "parts": parts}))
            progress.reach("clips", done)
    with atomic_path(out / "motion.jsonl") as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def resample(frames: np.ndarray, fps: float) -> np.ndarray:
    """Frames `[n, 44]`, each with its seconds in front, to `[m, 43]` at `fps`, linearly; rotations the shorter way."""
    frames = frames.copy()
    place = 4
    for numbers in JOINTS:
        if numbers == 4:
            flips = np.cumprod(
                np.where((frames[1:, place : place + 4] * frames[:-1, place : place + 4]).sum(1) < 0, -1, 1)
            )
            frames[1:, place : place + 4] *= flips[:, None]
        place += numbers
    times = np.concatenate([[0.0], np.cumsum(frames[:-1, 0])])
    wanted = np.arange(0.0, times[-1] + 1e-9, 1 / fps)
    return np.stack([np.interp(wanted, times, column) for column in frames[:, 1:].T], axis=1)


def features(frames: np.ndarray) -> np.ndarray:
    """Frames `[n, 43]` (root position, then joints as `JOINTS`) as float32 `[n, 63]`; see `humanoid`."""
    position, place, parts = frames[:, :3], 3, []
    root = _matrices(frames[:, 3:7])
    heading = np.arctan2(root[:, 0, 2], root[:, 2, 2])  # of the root's z axis, about y
    turns = np.angle(np.exp(1j * np.diff(heading, prepend=heading[0])))  # by the shorter way
    back = about(1, -heading)
    way = np.einsum("nij,nj->ni", back, np.diff(position, axis=0, prepend=position[:1]))
    for numbers in JOINTS:
        block = frames[:, place : place + numbers]
        if numbers == 1:
            parts.append(block)
        else:
            matrices = back @ root if place == 3 else _matrices(block)
            parts.append(to_six(matrices))
        place += numbers
    return np.concatenate([position[:, 1:2], way, *parts, turns[:, None]], axis=1).astype(np.float32)


def _matrices(quaternions: np.ndarray) -> np.ndarray:
    """Rotation matrices `[n, 3, 3]` of quaternions `[n, 4]`, real part first."""
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
