"""Pictures of the pybullet humanoid in given poses: its CPU renderer, run in worker processes, resumable file by file.

pybullet is one compiled module. It is taken out of the wheel (`assets.extract`) and loaded by its path, in the workers
only; nothing is installed.
"""

import importlib.util
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from anyglot import assets
from anyglot.data.corpora.mocap import JOINTS
from anyglot.errors import AssetError
from anyglot.tokenizers.clips import write_clip

SCALE = 0.25  # of the figure in humanoid.urdf: to metres
# The figure's links in the order of `mocap.JOINTS` after the root, and both wrists, which do not bend.
LINKS = (1, 2, 9, 10, 11, 3, 4, 12, 13, 14, 6, 7)
RIGHT, LEFT, HEAD = (3, 4, 5, 9, 10, 11), (6, 7, 8, 12, 13, 14), 2
SKIN, DARK = (0.95, 0.78, 0.65), (0.22, 0.22, 0.28)
FLOOR = (0.75, 0.8, 0.75)
FINER = 2  # times as many pixels a side are rendered, and averaged: the renderer does not smooth edges
FIELD_OF_VIEW = 30.0  # degrees: a narrow one, which bends little
ABOVE = 0.12  # height of the camera over what it looks at, per metre of distance
MIDDLE = 0.85  # height that it looks at, metres
HALF_HEIGHT, HALF_WIDTH = 1.0, 0.85  # what it must see around the root's path, metres

_engine: Any = None  # pybullet, one per worker process
_figure = 0


@dataclass(frozen=True)
class Shot:
    """A clip to render. poses: `[frames, 43]`, see `mocap.resample`. angle: degrees that the camera stands to the
    figure's left of where it faces at first: 0 sees its face, 90 its left. colour: of trunk and right limbs, RGB in
    [0, 1]; left limbs are dark, so that left and right, front and back can be told."""

    path: Path
    poses: np.ndarray
    angle: float
    colour: tuple[float, float, float]


def render_all(shots: Sequence[Shot], side: int, fps: float, workers: int) -> Iterator[int]:
    """Write every shot that has no file yet as `side` x `side` pixels at `fps`; yields how many are there.

    Raises AssetError if the wheel cannot be had, or was built for another Python or system.
    """
    missing = [shot for shot in shots if not shot.path.exists()]
    done = len(shots) - len(missing)
    yield done
    if not missing:
        return
    module, figure = _unpacked()
    with ProcessPoolExecutor(workers, get_context("spawn"), _start, (str(module), str(figure))) as pool:
        futures = [pool.submit(_film, shot, side, fps) for shot in missing]
        try:
            for future in as_completed(futures):
                future.result()
                done += 1
                yield done
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def heading(pose: np.ndarray) -> float:
    """Angle about y of where a figure faces, from its root's z axis, which points to its right, also when it lies."""
    w, x, y, z = pose[3:7]
    return float(np.arctan2(2 * (x * z + w * y), 1 - 2 * (x * x + y * y)))


def _unpacked() -> tuple[Path, Path]:
    """The compiled module and the figure's description, out of the wheel."""
    needed = f"cp{sys.version_info.major}{sys.version_info.minor}"
    wheel = assets.find("pybullet").wheel
    if f"-{needed}-" not in wheel or sys.platform != "linux" or platform.machine() != "x86_64":
        raise AssetError(
            f"the renderer in {wheel} runs on that Python and system only, this is {needed} on {sys.platform} "
            f"{platform.machine()}; build the corpus there and copy its folder"
        )
    (module,) = assets.extract("pybullet", "pybullet.").glob("*.so")
    return module, assets.extract("pybullet", "pybullet_data/humanoid/") / "humanoid.urdf"


def _start(module: str, figure: str) -> None:
    with _silence():
        _load(module, figure)


def _load(module: str, figure: str) -> None:
    global _engine, _figure
    spec = importlib.util.spec_from_file_location("pybullet", module)
    assert spec is not None
    assert spec.loader is not None
    _engine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(_engine)
    _engine.connect(_engine.DIRECT)
    _figure = _engine.loadURDF(figure, globalScaling=SCALE, useFixedBase=True)
    floor = _engine.createVisualShape(_engine.GEOM_BOX, halfExtents=(50, 0.01, 50), rgbaColor=(*FLOOR, 1))
    _engine.createMultiBody(baseVisualShapeIndex=floor, basePosition=(0, -0.01, 0))


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing is printed: the engine greets, and warns of joints without an axis, which need none."""
    kept = [os.dup(1), os.dup(2)]
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in (1, 2):
            os.dup2(nothing, stream)
        yield
    finally:
        for stream, descriptor in zip((1, 2), kept, strict=True):
            os.dup2(descriptor, stream)
        for descriptor in (nothing, *kept):
            os.close(descriptor)


def _film(shot: Shot, side: int, fps: float) -> None:
    """Render one shot from a camera that stands still, as far away as the figure's path needs."""
    for link in range(-1, _engine.getNumJoints(_figure)):
        colour = SKIN if link == HEAD else DARK if link in LEFT else shot.colour
        _engine.changeVisualShape(_figure, link, rgbaColor=(*colour, 1))
    angle = heading(shot.poses[0]) + np.radians(shot.angle)  # about y; the figure faces along x at 0
    forth = np.array([np.cos(angle), 0, -np.sin(angle)])  # from the figure to the camera
    places = shot.poses[:, :3] * (1, 0, 1)
    target = (places.min(0) + places.max(0)) / 2
    depth = (places - target) @ forth
    across = np.linalg.norm(places - target - depth[:, None] * forth, axis=1)
    needed = max(HALF_HEIGHT, across.max() + HALF_WIDTH) / np.tan(np.radians(FIELD_OF_VIEW / 2))
    target[1] = MIDDLE
    eye = target + (needed + depth.max()) * (forth + np.array([0, ABOVE, 0]))
    view = _engine.computeViewMatrix(eye, target, (0, 1, 0))
    projection = _engine.computeProjectionMatrixFOV(FIELD_OF_VIEW, 1.0, 0.1, 100.0)
    frames, fine = [], side * FINER
    for pose in shot.poses:
        _pose(pose)
        picture = _engine.getCameraImage(
            fine, fine, view, projection, lightDirection=(0.4, 1, 0.6), shadow=0, renderer=_engine.ER_TINY_RENDERER
        )[2]
        blocks = np.asarray(picture, dtype=np.uint8).reshape(side, FINER, side, FINER, 4)[..., :3]
        frames.append(blocks.mean((1, 3)).round().astype(np.uint8))
    write_clip(np.stack(frames), fps, shot.path)


def _pose(pose: np.ndarray) -> None:
    """Put the figure into a pose `[43]`. Quaternions there have the real part first, the engine's have it last."""
    _engine.resetBasePositionAndOrientation(_figure, pose[:3], (*pose[4:7], pose[3]))
    place = 7
    for link, numbers in zip(LINKS, JOINTS[1:], strict=True):
        value = pose[place : place + numbers]
        turned = value if numbers == 1 else (*value[1:], value[0])
        _engine.resetJointStateMultiDof(_figure, link, turned)
        place += numbers
