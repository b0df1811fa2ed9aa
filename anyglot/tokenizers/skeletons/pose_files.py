"""Read `.pose` files of landmarks (the pose-format project's version 0.2), nothing but the bytes and `struct`.

Little-endian. Header: float32 version, three uint16 for width, height and depth, then the components, a uint16 count of
them before: name, format ("XYZC": coordinates, then confidence), how many points, limbs and colours (uint16 each), the
points' names, two uint16 a limb, three a colour. A string is a uint16 length and UTF-8. Body: float32 frames a second,
uint32 frames, uint16 people, then float32 positions `[frames, people, points, coordinates]` and confidence
`[frames, people, points]`.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anyglot.errors import MediaError


@dataclass
class PoseClip:
    """size: width, height and depth that positions are measured by; where depth is 0, z is a share of the width.
    points: component -> its landmarks' names. positions: float32 `[frames, points, coordinates]` of one person, all
    components one after the other. confidence: `[frames, points]`, 0 where a landmark was not seen."""

    fps: float
    size: tuple[float, ...]
    points: dict[str, list[str]]
    positions: np.ndarray
    confidence: np.ndarray

    def component(self, name: str, landmarks: tuple[str, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
        """Positions and confidence of a component's landmarks (default: all). Raises MediaError for unknown ones."""
        start = 0
        for component, known in self.points.items():
            if component == name:
                missing = [landmark for landmark in landmarks if landmark not in known]
                if missing:
                    raise MediaError(f"{name} has no landmark {missing[0]!r}; it has {', '.join(known)}")
                chosen = [start + known.index(landmark) for landmark in landmarks or known]
                return self.positions[:, chosen], self.confidence[:, chosen]
            start += len(known)
        raise MediaError(f"no component {name!r}, only {', '.join(self.points)}: estimated by another model")


def read_pose(source: str | Path | bytes) -> PoseClip:
    """Parse a file or its bytes; the first person of each frame. Raises MediaError naming the file."""
    name = f"{len(source)} bytes of .pose" if isinstance(source, bytes) else str(source)
    try:
        return _Reader(source if isinstance(source, bytes) else Path(source).read_bytes()).clip()
    except FileNotFoundError as error:
        raise MediaError(f"{name}: no such file; remove it from the list") from error
    except (struct.error, UnicodeDecodeError, ValueError, OSError) as error:
        raise MediaError(f"{name}: not a whole .pose file ({error}); export it again") from error


class _Reader:
    """A place in the bytes, moved on by each read."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.place = 0

    def numbers(self, layout: str) -> tuple[float, ...]:
        found = struct.unpack_from(f"<{layout}", self.content, self.place)
        self.place += struct.calcsize(f"<{layout}")
        return found

    def count(self) -> int:
        return int(self.numbers("H")[0])

    def text(self) -> str:
        size = self.count()
        found = self.content[self.place : self.place + size]
        if len(found) < size:
            raise ValueError("it ends within its header")
        self.place += size
        return found.decode("utf-8")

    def array(self, *shape: int) -> np.ndarray:
        size = math.prod(shape)
        if self.place + 4 * size > len(self.content):
            raise ValueError(f"{len(self.content)} bytes, its header promises {self.place + 4 * size} or more")
        found = np.frombuffer(self.content, "<f4", size, self.place).reshape(shape)
        self.place += 4 * size
        return found

    def clip(self) -> PoseClip:
        version = self.numbers("f")[0]
        if round(version, 3) != 0.2:
            raise ValueError(f"version {version:.3g}, only 0.2 can be read")
        size = self.numbers("HHH")
        points: dict[str, list[str]] = {}
        coordinates = set()
        for _ in range(self.count()):
            name, layout = self.text(), self.text()
            landmarks, limbs, colours = (self.count() for _ in range(3))
            if name in points:
                raise ValueError(f"two components {name!r}")
            points[name] = [self.text() for _ in range(landmarks)]
            self.place += 4 * limbs + 6 * colours
            coordinates.add(len(layout) - 1)
        fps, frames, people = self.numbers("fIH")
        if len(coordinates) != 1 or not (0 < fps < math.inf and frames and people):
            raise ValueError(f"{int(frames)} frames of {int(people)} people at {fps:g} a second")
        total = sum(len(landmarks) for landmarks in points.values())
        positions = self.array(int(frames), int(people), total, coordinates.pop())
        confidence = self.array(int(frames), int(people), total)
        return PoseClip(fps, size, points, positions[:, 0].copy(), confidence[:, 0].copy())
