"""What a tokenizer emits: the shape and meaning of its codes. Knows no framework, so that everybody can import it."""

from dataclasses import asdict, dataclass
from math import log2, prod
from typing import Any, Literal

from anyglot.errors import AnyglotError


@dataclass(frozen=True)
class Axis:
    """One grid axis of a code array.

    length: how a reader of the token stream learns it.
        "fixed": always `size` codes. "sized": written in a header before the codes, 1..`size`.
        "open": goes on until a closing token, 1..`size` codes.
    units: input units (samples, pixels, frames) that one code covers along this axis.
    """

    name: str
    length: Literal["fixed", "sized", "open"]
    size: int
    units: int = 1


@dataclass(frozen=True)
class CodeSpec:
    """The codes of one modality: an int64 array `[*grid, levels]`, levels last.

    modality: its name, e.g. "image". levels: codebook size of each level. axes: the grid, slowest first;
    at most the first may be "open". rate: codes (grid cells) per second along the first axis, 0 where
    time means nothing.
    """

    modality: str
    levels: tuple[int, ...]
    axes: tuple[Axis, ...]
    rate: float = 0.0

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 2:
            raise AnyglotError(f"{self.modality}: every level needs a codebook of at least 2 codes, got {self.levels}")
        if any(axis.length == "open" for axis in self.axes[1:]):
            raise AnyglotError(f"{self.modality}: only the first axis may be open")

    @property
    def bits(self) -> float:
        """Bits that one grid cell carries at most."""
        return sum(log2(size) for size in self.levels)

    @property
    def bits_per_second(self) -> float:
        """Bitrate, for modalities with a `rate`."""
        other_axes = prod(axis.size for axis in self.axes[1:])
        return self.rate * self.bits * other_axes

    def to_json(self) -> dict[str, Any]:
        """Plain values, inverse of `from_json`."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> "CodeSpec":
        """Rebuild from `to_json`'s output."""
        axes = tuple(Axis(**axis) for axis in value["axes"])
        return CodeSpec(value["modality"], tuple(value["levels"]), axes, value["rate"])
