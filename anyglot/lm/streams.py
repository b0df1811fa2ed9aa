"""How a stack of code levels becomes a line of positions, and back.

A span's codes `[*grid, levels]` are seen as `frames` steps of the first axis, `row` cells in each step (the
product of the other axes) and `levels` codes in each cell. A stream is two things that must agree:

- `order`: the permutation of the flat, frame-major codes in which they are written. Flattening, its exact
  inverse and each position's level and cell all follow from it.
- `choices`: the same order said one step at a time while the number of frames may still be unknown, which is
  what the automaton asks: which levels may the next code have, and may the span close?

Before the order comes the factoring: a level of `size` codes may be written as several levels of fewer codes, the
digits of its code (`factor`, `unfactor`). MAGVIT-v2 (arXiv:2310.05737) writes one of 2^18 codes as two of 512.

`depth` has the order of `frame`, but its later levels take no positions of the language model: see `anyglot.lm.depth`.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import ClassVar, Protocol

import numpy as np

from anyglot.errors import ConfigError, GrammarError

CLOSE = -1  # the choice that ends a span
Choices = tuple[int, ...]  # level numbers, or CLOSE; never more than two


class Stream(Protocol):
    """One way to put codes in line. Stateless: all its methods are functions of the counts they are given."""

    name: ClassVar[str]

    @staticmethod
    def order(frames: int, row: int, levels: int) -> np.ndarray:
        """int64 `[frames * row * levels]`: which flat frame-major code stands at each position.

        The codes of one level stand in the order of their cells: `Frames` relies on it.
        """
        ...

    @staticmethod
    def choices(count: int, row: int, frames: int, limit: int, levels: int) -> Choices:
        """What may follow `count` codes of a span.

        frames: the number of frames, or 0 while it is open; then it is at most `limit`.
        """
        ...

    @staticmethod
    def settle(count: int, row: int, frames: int, level: int, levels: int) -> int:
        """The number of frames known (0: still open) once a code of `level` follows `count` codes."""
        ...


class Frame:
    """Frame by frame, cell by cell, all levels of a cell together."""

    name: ClassVar[str] = "frame"

    @staticmethod
    def order(frames: int, row: int, levels: int) -> np.ndarray:
        return np.arange(frames * row * levels)

    @staticmethod
    def choices(count: int, row: int, frames: int, limit: int, levels: int) -> Choices:
        if frames:
            return (CLOSE,) if count == frames * row * levels else (count % levels,)
        if count == 0 or count % (row * levels):
            return (count % levels,)
        return (CLOSE,) if count == limit * row * levels else (0, CLOSE)

    @staticmethod
    def settle(count: int, row: int, frames: int, level: int, levels: int) -> int:
        return frames


class Level:
    """Coarse first: the whole grid at level 0, then at level 1, and so on.

    Of an open axis, only the first level's run is open: the first code of the second level ends it.
    """

    name: ClassVar[str] = "level"

    @staticmethod
    def order(frames: int, row: int, levels: int) -> np.ndarray:
        return np.arange(frames * row * levels).reshape(-1, levels).T.reshape(-1)

    @staticmethod
    def choices(count: int, row: int, frames: int, limit: int, levels: int) -> Choices:
        if frames:
            return (CLOSE,) if count == frames * row * levels else (count // (frames * row),)
        if count == 0 or count % row:
            return (0,)
        after = 1 if levels > 1 else CLOSE
        return (after,) if count == limit * row else (0, after)

    @staticmethod
    def settle(count: int, row: int, frames: int, level: int, levels: int) -> int:
        return frames or (count // row if level else 0)


class Delay:
    """Level l of a frame comes l frames after its level 0 (Copet et al., MusicGen, arXiv:2306.05284).

    Group g holds level 0 of frame g, level 1 of frame g - 1, and so on, cell by cell, as far as there are such frames.
    Of an open axis, a group that begins with level 1 says that the group before held the last frame's level 0.
    """

    name: ClassVar[str] = "delay"

    @staticmethod
    def order(frames: int, row: int, levels: int) -> np.ndarray:
        frame, cell, level = np.unravel_index(np.arange(frames * row * levels), (frames, row, levels))
        return np.lexsort((level, cell, frame + level))

    @staticmethod
    def choices(count: int, row: int, frames: int, limit: int, levels: int) -> Choices:
        if frames:
            return (CLOSE,) if count == frames * row * levels else (_delayed(frames, row, levels)[count],)
        group, inside = _group(count, row, levels)
        if inside or group == 0:
            return (inside % min(group + 1, levels),)
        after = 1 if levels > 1 else CLOSE
        return (after,) if group == limit else (0, after)

    @staticmethod
    def settle(count: int, row: int, frames: int, level: int, levels: int) -> int:
        if frames:
            return frames
        group, inside = _group(count, row, levels)
        return group if level and not inside else 0


class Depth(Frame):
    """As `Frame`; the codes of a cell share one position of the language model."""

    name: ClassVar[str] = "depth"


STREAMS: dict[str, type[Stream]] = {stream.name: stream for stream in (Frame, Level, Delay, Depth)}


def _group(count: int, row: int, levels: int) -> tuple[int, int]:
    """Which group of an open delayed span comes after `count` codes, and how many of its codes they hold already."""
    growing = [row * (group + 1) for group in range(levels - 1)]  # sizes of the groups that lack later levels
    for group, size in enumerate(growing):
        if count < size:
            return group, count
        count -= size
    return len(growing) + count // (row * levels), count % (row * levels)


@lru_cache(maxsize=256)
def _delayed(frames: int, row: int, levels: int) -> tuple[int, ...]:
    """The level at each position of a delayed span."""
    return tuple((Delay.order(frames, row, levels) % levels).tolist())


def stream_named(name: str) -> type[Stream]:
    """The stream of that name. Raises ConfigError that lists the streams there are."""
    if name not in STREAMS:
        raise ConfigError(f"no stream {name!r}; there are: {', '.join(STREAMS)}")
    return STREAMS[name]


def digit_sizes(size: int, factors: int) -> tuple[int, ...]:
    """The sizes of the sub-codes that a code of `size` is written as: all alike, their product is `size`.

    Raises ConfigError if there are none such.
    """
    base = round(size ** (1 / factors)) if factors >= 1 else 0
    if base < 2 or base**factors != size:
        raise ConfigError(f"codes of {size} are not {factors} sub-codes of one size; choose factors whose power it is")
    return (base,) * factors


def factor(codes: np.ndarray, levels: Sequence[int], factors: int) -> np.ndarray:
    """Codes `[*grid, levels]` as sub-codes `[*grid, levels * factors]`, of each level the most significant first."""
    digits = []
    for level, size in enumerate(levels):
        base = digit_sizes(size, factors)[0]
        digits += [codes[..., level] // base**place % base for place in reversed(range(factors))]
    return np.stack(digits, axis=-1)


def unfactor(digits: np.ndarray, levels: Sequence[int], factors: int) -> np.ndarray:
    """The exact inverse of `factor`: codes `[*grid, levels]` of sub-codes `[*grid, levels * factors]`."""
    bases = np.array([digit_sizes(size, factors)[0] for size in levels])
    codes = np.zeros((*digits.shape[:-1], len(levels)), dtype=digits.dtype)
    for place in range(factors):
        codes = codes * bases + digits[..., place::factors]
    return codes


def flatten(stream: type[Stream], codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put codes in line.

    Args:
        codes: int `[*grid, levels]`.
    Returns:
        levels `[n]` and codes `[n]`, n = codes.size.
    """
    frames, row, levels = _measure(codes.shape)
    order = stream.order(frames, row, levels)
    return order % levels, codes.reshape(-1)[order]


def unflatten(stream: type[Stream], line: np.ndarray, grid: Sequence[int], levels: int) -> np.ndarray:
    """The exact inverse of `flatten`: codes `[*grid, levels]` of a line `[n]`.

    Raises GrammarError if the line is not as long as the grid has codes.
    """
    shape = (*grid, levels)
    if line.size != prod(shape):
        raise GrammarError(f"{line.size} codes do not fill a grid of {list(grid)} with {levels} levels")
    codes = np.empty(line.size, dtype=line.dtype)
    codes[stream.order(*_measure(shape))] = line
    return codes.reshape(shape)


def cells(stream: type[Stream], grid: Sequence[int], levels: int) -> np.ndarray:
    """int64 `[n]`: the row-major number of the grid cell that each position belongs to."""
    return stream.order(*_measure((*grid, levels))) // levels


class Frames:
    """The codes of a span while they are written, given out by whole frames: steps of the first axis that lack none.

    Whatever the stream, the codes of one level come in the order of the grid's cells. So a frame is whole as soon as
    each level has filled its cells of it.

    Args:
        cells: lengths of the axes behind the first. levels: as written, see `factor`.
    """

    def __init__(self, cells: Sequence[int], levels: int) -> None:
        self.cells = tuple(cells)
        self.row = prod(cells)
        self.waiting: list[list[int]] = [[] for _ in range(levels)]  # codes of frames that are not whole, by level

    def feed(self, levels: Sequence[int], codes: Sequence[int]) -> np.ndarray:
        """Take more codes, in the stream's order; return those of the frames that they make whole.

        Returns:
            int64 `[frames, *cells, levels]`, frames >= 0.
        """
        for level, code in zip(levels, codes, strict=True):
            self.waiting[level].append(code)
        whole = min(map(len, self.waiting)) // self.row
        ready = np.array([held[: whole * self.row] for held in self.waiting], dtype=np.int64)
        for held in self.waiting:
            del held[: whole * self.row]
        return np.moveaxis(ready.reshape(len(self.waiting), whole, *self.cells), 0, -1)


def _measure(shape: Sequence[int]) -> tuple[int, int, int]:
    """(frames, row, levels) of a code array's shape; an array without axes is one frame of one cell."""
    *grid, levels = shape
    return (grid[0] if grid else 1), prod(grid[1:]), levels
