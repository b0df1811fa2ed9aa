"""Files of motion: features as .npy, and what is turned into features: .bvh, .amc, .pose."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anyglot.errors import ConfigError, MediaError
from anyglot.tokenizers.skeletons import humanml3d, rotating, signs
from anyglot.tokenizers.skeletons.amc import Asf, parse_asf, read_amc, write_amc
from anyglot.tokenizers.skeletons.bvh import Hierarchy, parse_hierarchy, read_bvh, split_file, write_bvh
from anyglot.tokenizers.skeletons.pose_files import read_pose
from anyglot.tokenizers.skeletons.skeleton import Animation, Skeleton
from anyglot.tokenizers.steps import read_steps, write_steps


@dataclass
class Rig:
    """A skeleton that files can have. source: as they describe it. skeleton: in metres. turning: joints that turn."""

    source: Hierarchy | Asf
    skeleton: Skeleton
    turning: list[int]

    @property
    def suffix(self) -> str:
        """Of files that have this skeleton."""
        return ".amc" if isinstance(self.source, Asf) else ".bvh"

    @property
    def text(self) -> str:
        """What names its joints, for messages."""
        return f"{len(self.skeleton.names)} joints from {self.skeleton.names[0]}"


def rig_of(text: str, unit: float) -> Rig:
    """The skeleton that the HIERARCHY of a BVH file, or an ASF file, describes. Raises ConfigError."""
    try:
        source = parse_hierarchy(text) if text.lstrip().startswith("HIERARCHY") else parse_asf(text)
    except MediaError as error:
        raise ConfigError(f"hierarchy: {error}") from error
    plain = source.skeleton
    if source.turning[:1] != [0]:
        raise ConfigError("hierarchy: the root does not turn; only skeletons whose root turns can be coded")
    return Rig(source, Skeleton(plain.names, plain.parents, plain.offsets * unit), source.turning)


def hierarchy_text(given: str) -> str:
    """A skeleton's description as it is given, or out of the .bvh or .asf file that is named. Raises ConfigError."""
    if not given or "\n" in given.strip():
        return given
    try:
        text = Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"hierarchy: {given}: cannot be read; name a .bvh or .asf file") from error
    return split_file(text)[0] if text.lstrip().startswith("HIERARCHY") else text


def read_motion(
    source: str | Path | bytes,
    skeleton: str,
    rig: Rig | None,
    fps: float,
    unit: float,
    amc_fps: float,
    max_frames: int,
) -> np.ndarray:
    """A file of motion, or its bytes, as features float32 `[frames, features]`; those of .npy files as they are.

    Args:
        skeleton, rig: whose features. fps: of the result. unit: metres per unit of length of .bvh and .amc files.
        amc_fps: frames a second of .amc files. max_frames: files that are to become more are refused beforehand.
    Raises:
        MediaError: naming the file: unreadable, or of another skeleton.
    """
    name = f"{len(source)} bytes of motion" if isinstance(source, bytes) else str(source)
    if isinstance(source, bytes):
        ending = ".bvh" if source.lstrip().startswith(b"HIERARCHY") else ".npy"
    else:
        ending = Path(source).suffix.lower()
    if ending == ".pose":
        if skeleton != "signs":
            raise MediaError(f"{name}: landmarks of signing; a tokenizer for them has skeleton: signs")
        try:
            clip = read_pose(source)
            _check_length(len(clip.positions), clip.fps, fps, max_frames)
            return signs.to_features(clip, fps, mirror=True)
        except MediaError as error:
            raise MediaError(f"{name}: {str(error).removeprefix(f'{name}: ')}") from error
    if ending in (".bvh", ".amc"):
        return _moving(source, name, ending, skeleton, rig, fps, unit, amc_fps, max_frames)
    return read_steps(source, "motion")


def write_motion(media: np.ndarray, path: str | Path, rig: Rig | None, fps: float, unit: float, amc_fps: float) -> None:
    """Write features of `fps` as .npy, or as a movement of `rig` by the path's ending, atomically; an .amc file, which
    cannot say its rate, at `amc_fps`."""
    ending = Path(path).suffix.lower()
    if ending not in (".bvh", ".amc"):
        write_steps(media, path)
        return
    if rig is None or rig.suffix != ending:
        raise MediaError(
            f"{path}: this tokenizer knows no skeleton of {ending} files; set model.hierarchy to train one"
        )
    animation = rotating.to_animation(media, rig.skeleton, rig.turning, fps)
    if isinstance(rig.source, Asf):
        write_amc(animation.at(amc_fps), rig.source, path, unit)
    else:
        write_bvh(animation, rig.source, path, unit)


def _moving(
    source: str | Path | bytes,
    name: str,
    ending: str,
    skeleton: str,
    rig: Rig | None,
    fps: float,
    unit: float,
    amc_fps: float,
    max_frames: int,
) -> np.ndarray:
    """Features of a .bvh or .amc file."""
    if rig is None and skeleton != "humanml3d":
        raise MediaError(
            f"{name}: this tokenizer does not know the skeleton of {ending} files; set model.hierarchy to train one"
        )
    if ending == ".bvh":
        animation, found = read_bvh(source, unit)
        same = rig is not None and isinstance(rig.source, Hierarchy) and found.turning == rig.turning
    else:
        assert not isinstance(source, bytes)
        asf = rig.source if rig is not None and isinstance(rig.source, Asf) else _beside(Path(source))
        animation = read_amc(source, asf, amc_fps, unit)
        same = rig is not None and isinstance(rig.source, Asf)
    try:
        _check_length(len(animation.root), animation.fps, humanml3d.FPS if rig is None else fps, max_frames)
        if rig is None:
            return humanml3d.to_features(humanml3d.standing(_smpl(animation.at(humanml3d.FPS))))
    except MediaError as error:
        raise MediaError(f"{name}: {error}") from error
    known, given = rig.skeleton, animation.skeleton
    if not same or known.names != given.names or known.parents != given.parents:
        odd = next((joint for joint in given.names if joint not in known.names), f"{len(given.names)} joints")
        raise MediaError(f"{name}: another skeleton ({odd}) than the tokenizer's {rig.text}; retarget the motion")
    return rotating.to_features(animation.at(fps), rig.turning)


def _check_length(frames: int, rate: float, fps: float, max_frames: int) -> None:
    """Raise MediaError if so many frames at `rate` are far more than max_frames at `fps`: a file of a few bytes may say
    that each of its frames takes a year."""
    found = (frames - 1) * fps / rate
    if found > max_frames:
        raise MediaError(
            f"{found:.0f} frames at {fps:g} a second, more than max_frames={max_frames}; cut it or raise it"
        )


def _beside(path: Path) -> Asf:
    """The skeleton of an .amc file: the .asf file of its name, or of what its name begins with, as 01 for 01_01."""
    for candidate in (path.with_suffix(".asf"), path.with_name(f"{path.stem.split('_')[0]}.asf")):
        if candidate.is_file():
            try:
                return parse_asf(candidate.read_text(encoding="utf-8"))
            except (MediaError, OSError, UnicodeDecodeError) as error:
                raise MediaError(f"{candidate}: {error}") from error
    raise MediaError(f"{path}: its skeleton is missing; put {path.stem}.asf beside it")


def _smpl(animation: Animation) -> np.ndarray:
    """Positions `[frames, 22, 3]` of HumanML3D's joints, by their names."""
    plain = {_plain(joint): index for index, joint in enumerate(animation.skeleton.names)}
    missing = [joint for joint in humanml3d.NAMES if _plain(joint) not in plain]
    if missing:
        raise MediaError(
            f"another skeleton: joint {missing[0]} of HumanML3D's 22 is missing; retarget the motion to SMPL's"
        )
    return animation.positions()[:, [plain[_plain(joint)] for joint in humanml3d.NAMES]]


def _plain(name: str) -> str:
    """ "L_Hip", "left_hip" and "LeftHip" are one joint."""
    for short, side in (("l_", "left"), ("r_", "right")):
        if name.lower().startswith(short):
            name = side + name[2:]
    return "".join(letter for letter in name.lower() if letter.isalnum())
