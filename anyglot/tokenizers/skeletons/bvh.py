"""BVH files: a skeleton, then for each frame the angles of its joints and the place of its root.

A joint's channels say in which order it is turned: "Zrotation Xrotation Yrotation" is Rz @ Rx @ Ry, in degrees. Ends of
limbs ("End Site") are joints that have no channels. The root's place is its position channels, its offset only where it
has none. Lengths are the file's: `unit` is how many metres one is.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anyglot.errors import MediaError
from anyglot.files import write_text
from anyglot.tokenizers.skeletons.skeleton import AXES, Animation, Skeleton, from_euler, to_euler

POSITIONS = tuple(f"{axis}position" for axis in AXES)
ROTATIONS = tuple(f"{axis}rotation" for axis in AXES)
DIGITS = 6  # after the point, in written files
SHORTEST = 1e-6  # seconds that a frame may take
MOST_JOINTS = 4096  # of a file, ends of limbs among them
MOST_POSES = 2**24  # joints x frames: 1.2 GB of rotations
LONGEST_NAME = 256  # characters of a joint's name, which its ends repeat


@dataclass
class Hierarchy:
    """skeleton: in the file's lengths. channels: of every joint, as in the file; [] for ends of limbs."""

    skeleton: Skeleton
    channels: list[list[str]]

    @property
    def turning(self) -> list[int]:
        """Joints that can turn."""
        return [joint for joint, channels in enumerate(self.channels) if any(name in ROTATIONS for name in channels)]

    def order(self, joint: int) -> str:
        """Axes of a joint's rotations, "ZXY"."""
        return "".join(name[0] for name in self.channels[joint] if name in ROTATIONS)


def read_bvh(source: str | Path | bytes, unit: float = 1.0) -> tuple[Animation, Hierarchy]:
    """The movement and the file's hierarchy. Raises MediaError naming the file and what is wrong in it."""
    name = f"{len(source)} bytes of BVH" if isinstance(source, bytes) else str(source)
    try:
        text = source.decode("utf-8") if isinstance(source, bytes) else Path(source).read_text(encoding="utf-8")
        parts = split_file(text)
        if len(parts) < 2:
            raise MediaError("no MOTION in it")
        hierarchy = parse_hierarchy(parts[0])
        return _animation(hierarchy, parts[1], unit), hierarchy
    except FileNotFoundError as error:
        raise MediaError(f"{name}: no such file; remove it from the list") from error
    except (MediaError, ValueError, IndexError, OSError) as error:
        raise MediaError(f"{name}: not a whole BVH file ({error}); export it again") from error


def measure_bvh(data: bytes) -> tuple[int, int]:
    """How many joints a file has, ends of limbs among them, and how many frames it claims; its numbers are not read.

    Raises MediaError.
    """
    try:
        hierarchy, *motion = split_file(data.decode("utf-8"))
        joints = len(parse_hierarchy(hierarchy).channels)
        return joints, _timing(_lines("".join(motion)))[0]
    except (ValueError, IndexError) as error:
        raise MediaError(f"not a whole BVH file ({error}); export it again") from error


def split_file(text: str) -> list[str]:
    """What stands before the line MOTION, and what after it, if there is one; joints may have it in their names."""
    return re.split(r"^[ \t]*MOTION\b", text, maxsplit=1, flags=re.MULTILINE)


def parse_hierarchy(text: str) -> Hierarchy:
    """The part of a file from HIERARCHY on. Raises MediaError."""
    words = (found[0] for found in re.finditer(r"\S+", text))
    names: list[str] = []
    parents: list[int] = []
    offsets: list[list[float]] = []
    channels: list[list[str]] = []
    open_joints: list[int] = []
    ends: set[int] = set()
    try:
        if next(words) != "HIERARCHY":
            raise MediaError("it does not begin with HIERARCHY")
        for word in words:
            if word in ("ROOT", "JOINT", "End"):
                if word == "ROOT" and names:
                    raise MediaError("two roots")
                if len(names) == MOST_JOINTS:
                    raise MediaError(f"more than {MOST_JOINTS} joints")
                name = next(words)  # "Site" where a limb ends
                if len(name) > LONGEST_NAME:
                    raise MediaError(f"a joint's name has {len(name)} characters, more than {LONGEST_NAME}")
                parents.append(open_joints[-1] if open_joints else -1)
                if parents[-1] in ends:
                    raise MediaError(f"something hangs on {names[parents[-1]]!r}, where a limb ends")
                if word == "End":
                    ends.add(len(names))
                names.append(f"{names[parents[-1]]} end" if word == "End" else name)
                offsets.append([0.0, 0.0, 0.0])
                channels.append([])
            elif word == "{":
                open_joints.append(len(names) - 1)
            elif word == "}":
                open_joints.pop()
            elif word == "OFFSET":
                offsets[-1] = [float(next(words)) for _ in range(3)]
            elif word == "CHANNELS":
                channels[-1] = [next(words) for _ in range(int(next(words)))]
            else:
                raise MediaError(f"unexpected {word!r} in its hierarchy")
    except (StopIteration, IndexError) as error:
        raise MediaError("its hierarchy breaks off") from error
    except ValueError as error:
        raise MediaError(f"no number in its hierarchy where one belongs: {error}") from error
    if open_joints or not names:
        raise MediaError("its hierarchy breaks off")
    for joint, offset, found in zip(names, offsets, channels, strict=True):
        if not np.isfinite(offset).all():
            raise MediaError(f"joint {joint} lies at NaN or infinity")
        if unknown := [name for name in found if name not in POSITIONS + ROTATIONS]:
            raise MediaError(f"joint {joint} has an unknown channel {unknown[0]!r}")
        if joint != names[0] and any(name in POSITIONS for name in found):
            raise MediaError(f"joint {joint} moves against its parent; only the root may")
        turns = [name for name in found if name in ROTATIONS]
        if len(turns) not in (0, 3) or len(set(turns)) != len(turns):
            raise MediaError(f"joint {joint} must turn about three axes or none")
    return Hierarchy(Skeleton(names, parents, np.array(offsets)), channels)


def write_bvh(animation: Animation, hierarchy: Hierarchy, path: str | Path, unit: float = 1.0) -> None:
    """Write a movement of the hierarchy's skeleton, atomically."""
    columns = []
    for joint in _depth_first(hierarchy.skeleton.parents):
        if channels := hierarchy.channels[joint]:
            order = hierarchy.order(joint)
            angles = to_euler(animation.rotations[:, joint], order) if order else np.zeros((len(animation.root), 0))
            found = {name: animation.root[:, AXES.index(name[0])] / unit for name in channels if name in POSITIONS}
            found |= {f"{axis}rotation": angles[:, place] for place, axis in enumerate(order)}
            columns += [found[name] for name in channels]
    rows = "\n".join(" ".join(f"{value:.{DIGITS}f}" for value in row) for row in np.stack(columns, axis=1))
    motion = f"MOTION\nFrames: {len(animation.root)}\nFrame Time: {1 / animation.fps:.8f}\n{rows}\n"
    write_text(path, format_hierarchy(hierarchy) + motion)


def format_hierarchy(hierarchy: Hierarchy) -> str:
    """The part of a file from HIERARCHY to before MOTION, inverse of `parse_hierarchy`."""
    skeleton = hierarchy.skeleton
    lines = ["HIERARCHY"]
    open_joints: list[int] = []
    for joint in _depth_first(skeleton.parents):
        parent = skeleton.parents[joint]
        while open_joints and open_joints[-1] != parent:
            open_joints.pop()
            lines.append("\t" * len(open_joints) + "}")
        outer, inner = "\t" * len(open_joints), "\t" * (len(open_joints) + 1)
        name, channels = skeleton.names[joint], hierarchy.channels[joint]
        ends = bool(joint) and not channels and name == f"{skeleton.names[parent]} end"
        head = "End Site" if ends else f"{'JOINT' if joint else 'ROOT'} {name}"
        offset = " ".join(f"{value:.{DIGITS}f}" for value in skeleton.offsets[joint])
        lines += [outer + head, outer + "{", f"{inner}OFFSET {offset}"]
        if not ends:
            lines.append(f"{inner}CHANNELS {' '.join([str(len(channels)), *channels])}")
        open_joints.append(joint)
    lines += ["\t" * depth + "}" for depth in reversed(range(len(open_joints)))]
    return "\n".join(lines) + "\n"


def _depth_first(parents: list[int]) -> list[int]:
    """Joints in the order of files: each with all that hangs on it before the next."""
    children: list[list[int]] = [[] for _ in parents]
    for joint, parent in enumerate(parents[1:], start=1):
        children[parent].append(joint)
    found, waiting = [], [0]
    while waiting:
        found.append(waiting.pop())
        waiting += children[found[-1]][::-1]
    return found


def _lines(body: str) -> Iterator[str]:
    return (line for line in io.StringIO(body, newline=None) if line.strip())


def _timing(lines: Iterator[str]) -> tuple[int, float]:
    """How many frames are promised, and how many seconds each takes: the first two lines after MOTION."""
    count, time = (next(lines, "").split(maxsplit=3) for _ in range(2))
    if count[:1] != ["Frames:"] or time[:2] != ["Frame", "Time:"]:
        raise MediaError("no 'Frames:' and 'Frame Time:' after MOTION")
    return int(count[1]), float(time[2])


def _animation(hierarchy: Hierarchy, body: str, unit: float) -> Animation:
    """What follows MOTION."""
    lines = _lines(body)
    frames, seconds = _timing(lines)
    if not SHORTEST <= seconds < np.inf:
        raise MediaError(f"a frame takes {seconds} seconds")
    if frames * len(hierarchy.channels) > MOST_POSES:
        raise MediaError(
            f"{frames} frames of {len(hierarchy.channels)} joints, together more than {MOST_POSES}; cut it"
        )
    width = sum(len(channels) for channels in hierarchy.channels)
    if not width:
        raise MediaError("no joint has channels")
    numbers = np.fromiter((float(word) for line in lines for word in line.split()), dtype=np.float64)
    if frames < 1 or len(numbers) < frames * width or len(numbers) % width:
        raise MediaError(f"{frames} frames of {width} numbers are promised, {len(numbers)} numbers are there")
    values = numbers.reshape(-1, width)[:frames]  # some exporters write one more
    if not np.isfinite(values).all():
        raise MediaError("NaN or infinity in its motion")
    skeleton = hierarchy.skeleton
    rotations = np.broadcast_to(np.eye(3), (frames, len(skeleton.names), 3, 3)).copy()
    root = np.broadcast_to(skeleton.offsets[0], (frames, 3)).copy()
    place = 0
    for joint, channels in enumerate(hierarchy.channels):
        block = dict(zip(channels, values[:, place : place + len(channels)].T, strict=True))
        place += len(channels)
        if order := hierarchy.order(joint):
            angles = np.stack([block[f"{axis}rotation"] for axis in order], axis=-1)
            rotations[:, joint] = from_euler(angles, order)
        for axis, name in enumerate(POSITIONS):
            if name in block:
                root[:, axis] = block[name]
    metres = Skeleton(skeleton.names, skeleton.parents, skeleton.offsets * unit)
    return Animation(metres, rotations, root * unit, 1 / seconds)
