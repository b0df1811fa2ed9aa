"""ASF and AMC files (Acclaim): a skeleton in one, and in the other each frame's place of the root and angles of bones.

A bone turns about axes of its own, which the skeleton states in `axis`, about those that its `dof` lists, the first
one innermost: "rx ry rz" is Rz @ Ry @ Rx. It lies along `direction`, `length` long, from where its parent ends. Here a
joint stands where its bone begins; where a limb ends is a joint that does not turn. Lengths in files are multiples of
the skeleton's `length` unit; `unit` is how many metres one is after division by it: 0.0254 for the Carnegie Mellon
database, whose unit is 0.45 and then in inches.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anyglot.errors import MediaError
from anyglot.files import write_text
from anyglot.tokenizers.skeletons.skeleton import AXES, Animation, Skeleton, about, from_euler, to_euler

DIGITS = 6  # after the point, in written files
ROOT_CHANNELS = ("TX", "TY", "TZ", "RX", "RY", "RZ")


@dataclass
class Asf:
    """skeleton: in the file's lengths over its unit. freedom: axes of every joint, "XYZ", the first one innermost; ""
    for ends of limbs. frames: the axes' own rotations `[joints, 3, 3]`. order: the root's channels. length: the file's
    unit of length. degrees: whether angles are."""

    skeleton: Skeleton
    freedom: list[str]
    frames: np.ndarray
    order: list[str]
    length: float
    degrees: bool

    @property
    def turning(self) -> list[int]:
        """Joints that can turn."""
        return [joint for joint, axes in enumerate(self.freedom) if axes]


def read_amc(source: str | Path, asf: Asf, fps: float, unit: float = 1.0) -> Animation:
    """The movement in an AMC file, which does not say its rate: `fps`. Raises MediaError naming the file."""
    try:
        return _animation(asf, Path(source).read_text(encoding="utf-8"), fps, unit)
    except FileNotFoundError as error:
        raise MediaError(f"{source}: no such file; remove it from the list") from error
    except (MediaError, ValueError, OSError) as error:
        raise MediaError(f"{source}: not a whole AMC file of this skeleton ({error}); export it again") from error


def parse_asf(text: str) -> Asf:
    """An ASF file. Raises MediaError."""
    sections: dict[str, list[list[str]]] = {}
    current: list[list[str]] = []
    for line in text.replace("(", " ").replace(")", " ").replace(",", " ").splitlines():
        words = line.partition("#")[0].split()
        if words and words[0].startswith(":"):
            current = sections.setdefault(words[0][1:].lower(), [])
            words = words[1:]
        if words:
            current.append(words)
    missing = [name for name in ("root", "bonedata", "hierarchy") if name not in sections]
    if missing:
        raise MediaError(f"not an ASF file: it has no :{missing[0]}")
    try:
        return _skeleton(sections)
    except (ValueError, KeyError, IndexError) as error:
        raise MediaError(f"not a whole ASF file ({error})") from error


def write_amc(animation: Animation, asf: Asf, path: str | Path, unit: float = 1.0) -> None:
    """Write a movement of the skeleton, atomically. Turns about axes that a bone does not have are left out."""
    angles = np.zeros((len(animation.root), len(asf.freedom), 3))
    for joint in asf.turning:
        axes = asf.freedom[joint]
        own = asf.frames[joint]
        turns = own.T @ animation.rotations[:, joint] @ own
        missing = "".join(axis for axis in AXES if axis not in axes)
        angles[:, joint] = to_euler(turns, (axes + missing)[::-1])[:, ::-1]
    angles = angles if asf.degrees else np.radians(angles)
    place = animation.root / unit * asf.length
    lines = [":FULLY-SPECIFIED", ":DEGREES" if asf.degrees else ":RADIANS"]
    for frame in range(len(place)):
        values = dict(zip("XYZ", place[frame], strict=True))
        turned = dict(zip(asf.freedom[0], angles[frame, 0], strict=True))
        root = [values[name[1]] if name[0] == "T" else turned[name[1]] for name in asf.order]
        lines += [str(frame + 1), _line("root", root)]
        lines += [
            _line(asf.skeleton.names[joint], angles[frame, joint, : len(asf.freedom[joint])])
            for joint in asf.turning[1:]
        ]
    write_text(path, "\n".join(lines) + "\n")


def _line(name: str, values: "list[float] | np.ndarray") -> str:
    return f"{name} {' '.join(f'{value:.{DIGITS}f}' for value in values)}"


def _skeleton(sections: dict[str, list[list[str]]]) -> Asf:
    units = {words[0].lower(): words[1] for words in sections.get("units", [])}
    length = float(units.get("length", 1.0))
    if not 0 < length < np.inf:
        raise MediaError(f"its unit of length is {length}")
    degrees = units.get("angle", "deg").lower().startswith("deg")
    root = {words[0].lower(): words[1:] for words in sections["root"]}
    if any(float(value) for key in ("position", "orientation") for value in root.get(key, [])):
        raise MediaError("its root has a position or orientation of its own, which is not supported")
    order = [name.upper() for name in root["order"]]
    if sorted(order) != sorted(ROOT_CHANNELS):
        raise MediaError(f"its root has channels {' '.join(order)}, expected all of {' '.join(ROOT_CHANNELS)}")
    names, parents, offsets = ["root"], [-1], [np.zeros(3)]
    freedom, frames = ["".join(name[1] for name in order if name[0] == "R")], [np.eye(3)]
    bones = {bone["name"][0]: bone for bone in _bones(sections["bonedata"])}
    ends = {"root": (0, np.zeros(3))}  # bone -> its joint, and where it ends, seen from there
    for parent, *children in sections["hierarchy"]:
        if parent.lower() in ("begin", "end"):
            continue
        for child in children:
            bone = bones[child]
            joint, end = ends[parent]
            ends[child] = len(names), np.array(bone["direction"][:3], float) * float(bone["length"][0]) / length
            names.append(child)
            parents.append(joint)
            offsets.append(end)
            axes = "".join(axis[1:].upper() for axis in bone.get("dof", []) if axis.lower().startswith("r"))
            if len(set(axes)) < len(axes) or not set(axes) <= set(AXES):
                raise MediaError(f"bone {child} turns about {' '.join(bone['dof'])}")
            freedom.append(axes)
            about_axes = np.array(bone["axis"][:3], float)
            own = (bone["axis"][3] if len(bone["axis"]) > 3 else "XYZ").upper()
            frames.append(from_euler((about_axes if degrees else np.degrees(about_axes))[::-1], own[::-1]))
    for name, (joint, end) in list(ends.items()):
        if joint and joint not in parents:
            names.append(f"{name} end")
            parents.append(joint)
            offsets.append(end)
            freedom.append("")
            frames.append(np.eye(3))
    if not (np.isfinite(offsets).all() and np.isfinite(frames).all()):
        raise MediaError("NaN or infinity in it")
    return Asf(Skeleton(names, parents, np.array(offsets)), freedom, np.stack(frames), order, length, degrees)


def _bones(lines: list[list[str]]) -> list[dict[str, list[str]]]:
    """What stands between each begin and end, by its first word."""
    found: list[dict[str, list[str]]] = []
    for words in lines:
        if words[0].lower() == "begin":
            found.append({})
        elif words[0].lower() != "end":
            found[-1][words[0].lower()] = words[1:]
    return found


def _animation(asf: Asf, text: str, fps: float, unit: float) -> Animation:
    """The frames of an AMC file: a number alone begins one, then a line a bone."""
    frames: list[dict[str, list[float]]] = []
    degrees = asf.degrees  # unless the file says otherwise
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words or words[0].startswith(":"):
            degrees = {":DEGREES": True, ":RADIANS": False}.get("".join(words[:1]).upper(), degrees)
        elif len(words) == 1 and words[0].isdigit():
            frames.append({})
        elif not frames:
            raise MediaError(f"{line.strip()!r} before the first frame")
        else:
            frames[-1][words[0]] = [float(word) for word in words[1:]]
    if not frames:
        raise MediaError("no frames in it")
    skeleton = asf.skeleton
    wanted = {skeleton.names[joint]: len(asf.freedom[joint]) for joint in asf.turning} | {"root": len(ROOT_CHANNELS)}
    for number, frame in enumerate(frames, start=1):
        if {name: len(values) for name, values in frame.items()} != wanted:
            odd = sorted(set(frame) ^ set(wanted)) or [name for name in wanted if len(frame[name]) != wanted[name]]
            raise MediaError(f"frame {number}: bone {odd[0]} is missing, unknown, or has another number of angles")
    rotations = np.broadcast_to(np.eye(3), (len(frames), len(skeleton.names), 3, 3)).copy()
    places = {name: np.array([frame["root"][asf.order.index(name)] for frame in frames]) for name in ROOT_CHANNELS}
    for joint in asf.turning:
        axes = asf.freedom[joint]
        if joint:
            values = np.array([frame[skeleton.names[joint]] for frame in frames])
        else:
            values = np.stack([places[f"R{axis}"] for axis in axes], axis=1)
        values = np.radians(values) if degrees else values
        turns = np.broadcast_to(np.eye(3), (len(frames), 3, 3))
        for place, axis in enumerate(axes):
            turns = about(AXES.index(axis), values[:, place]) @ turns
        own = asf.frames[joint]
        rotations[:, joint] = own @ turns @ own.T
    root = np.stack([places["TX"], places["TY"], places["TZ"]], axis=1) / asf.length * unit
    if not (np.isfinite(rotations).all() and np.isfinite(root).all()):
        raise MediaError("NaN or infinity in it")
    return Animation(Skeleton(skeleton.names, skeleton.parents, skeleton.offsets * unit), rotations, root, fps)
