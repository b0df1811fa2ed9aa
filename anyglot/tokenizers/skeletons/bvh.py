"""BVH files: a skeleton, then for each frame the angles of its joints and the place of its root.

A joint's channels say in which order it is turned: "Zrotation Xrotation Yrotation" is Rz @ Rx @ Ry, in degrees. Ends of
limbs ("End Site") are joints that have no channels. The root's place is its position channels, its offset only where it
has none. Lengths are the file's: `unit` is how many metres one is.
"""

import re
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


def split_file(text: str) -> list[str]:
    """What stands before the line MOTION, and what after it, if there is one; joints may have it in their names."""
    return re.split(r"^[ \t]*MOTION\b", text, maxsplit=1, flags=re.MULTILINE)


def parse_hierarchy(text: str) -> Hierarchy:
    """The part of a file from HIERARCHY on. Raises MediaError."""
    words = iter(text.split())
    names: list[str] = []
    parents: list[int] = []
    offsets: list[list[float]] = []
    channels: list[list[str]] = []
    open_joints: list[int] = []
    try:
        if next(words) != "HIERARCHY":
            raise MediaError("it does not begin with HIERARCHY")
        for word in words:
            if word in ("ROOT", "JOINT", "End"):
                if word == "ROOT" and names:
                    raise MediaError("two roots")
                end = next(words)  # "Site" where a limb ends
                parents.append(open_joints[-1] if open_joints else -1)
                names.append(f"{names[parents[-1]]} end" if word == "End" else end)
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


def _animation(hierarchy: Hierarchy, body: str, unit: float) -> Animation:
    """What follows MOTION."""
    lines = [line.split() for line in body.splitlines() if line.strip()]
    if len(lines) < 2 or lines[0][0] != "Frames:" or lines[1][:2] != ["Frame", "Time:"]:
        raise MediaError("no 'Frames:' and 'Frame Time:' after MOTION")
    frames, seconds = int(lines[0][1]), float(lines[1][2])
    if not SHORTEST <= seconds < np.inf:
        raise MediaError(f"a frame takes {seconds} seconds")
    width = sum(len(channels) for channels in hierarchy.channels)
    numbers = [word for line in lines[2:] for word in line]
    if not width:
        raise MediaError("no joint has channels")
    if frames < 1 or len(numbers) < frames * width or len(numbers) % width:
        raise MediaError(f"{frames} frames of {width} numbers are promised, {len(numbers)} numbers are there")
    values = np.array(numbers, dtype=np.float64).reshape(-1, width)[:frames]  # some exporters write one more
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
