"""A slow, obvious reader of the grammar, written from its description only: the automaton must agree with it.

Recursive descent over a list of ids. It lays the vocabulary out by itself and shares no code with anyglot.lm.
"""

from typing import Any

from anyglot.tokenizers.spec import CodeSpec


class Refused(Exception):
    """The id at `position` is not what the grammar allows there; or ids end there."""

    def __init__(self, position: int) -> None:
        super().__init__(f"position {position}")
        self.position = position


class Twin:
    """Reads whole documents as nested lists: [(role, [("text", [ids]) | (modality, nested codes)])]."""

    def __init__(
        self,
        text_size: int,
        max_size: int,
        modalities: list[tuple[CodeSpec, str, int]],
        marks: dict[str, Any] | None = None,
    ) -> None:
        special = ["pad", "bos", "eos", "system", "user", "assistant", "end_of_turn"]
        self.special = {name: text_size + i for i, name in enumerate(special)}
        after = text_size + len(special)
        own = {name: [token] for name, token in self.special.items()}
        self.marks = own | {"bos_in_chats": True, "reserved": []} | (marks or {})
        self.text = set(range(text_size)) - set(self.marks["reserved"])
        self.sizes = {after + i: i + 1 for i in range(max_size)}
        after += max_size
        self.modalities = []
        for spec, stream, factors in modalities:
            for axis in spec.axes:
                while axis.length == "sized" and axis.size > len(self.sizes):
                    self.sizes[after] = len(self.sizes) + 1
                    after += 1
            opener, closer = after, after + 1
            after += 2
            codes = []
            for size in spec.levels:
                base = next(number for number in range(2, size + 1) if number**factors == size)
                for _ in range(factors):
                    codes.append({after + code: code for code in range(base)})
                    after += base
            self.modalities.append((spec, stream, opener, closer, codes, factors))
        self.size = after

    def read(self, ids: list[int]) -> list[Any]:
        self.ids, self.at = ids, 0
        roles = ["system", "user", "assistant"]
        found = self.one_of(["bos"] if self.marks["bos_in_chats"] else ["bos", *roles])
        if found == "bos" and self.marks["bos_in_chats"] and self.peek() in {self.marks[role][0] for role in roles}:
            found = self.one_of(roles)
        turns: list[Any] = []
        if found == "bos":
            turns.append((None, self.spans()))
            self.one_of(["eos"])
        while found in roles:
            turns.append((found, self.spans()))
            self.one_of(["end_of_turn"])
            found = self.one_of([*roles, "eos"])
        if self.at < len(ids):
            raise Refused(self.at)
        return turns

    def one_of(self, names: list[str]) -> str:
        """Read the one of these marks that stands here, id by id."""
        read = 0
        while True:
            token = self.take({self.marks[name][read] for name in names})
            names = [name for name in names if self.marks[name][read] == token]
            read += 1
            for name in names:
                if len(self.marks[name]) == read:
                    return name

    def peek(self) -> int:
        return self.ids[self.at] if self.at < len(self.ids) else -1

    def take(self, legal: Any) -> int:
        token = self.peek()
        if token not in legal:
            raise Refused(self.at)
        self.at += 1
        return token

    def spans(self) -> list[Any]:
        found: list[Any] = []
        while True:
            if self.peek() in self.text:
                run = []
                while self.peek() in self.text:
                    run.append(self.take([self.peek()]))
                found.append(("text", run))
                continue
            for modality in self.modalities:
                if self.peek() == modality[2]:
                    found.append(self.span(*modality))
                    break
            else:
                return found

    def span(
        self, spec: CodeSpec, stream: str, opener: int, closer: int, codes: list[dict[int, int]], factors: int
    ) -> Any:
        self.take({opener})
        grid = []
        for axis in spec.axes:
            if axis.length == "sized":
                grid.append(self.sizes[self.take({i for i, number in self.sizes.items() if number <= axis.size})])
            else:
                grid.append(axis.size)
        is_open = bool(spec.axes) and spec.axes[0].length == "open"
        limit = grid[0] if spec.axes else 1
        row = 1
        for length in grid[1:]:
            row *= length
        levels = len(codes)
        cells: dict[tuple[int, int, int], int] = {}  # (frame, cell, level) -> code
        frames = 0
        if stream == "frame":
            while frames < limit and not (is_open and frames and self.peek() == closer):
                for cell in range(row):
                    for level in range(levels):
                        cells[frames, cell, level] = codes[level][self.take(codes[level])]
                frames += 1
        elif stream == "delay":
            group = 0
            while True:  # group by group: level l of frame group - l, as far as there are such frames
                if is_open and (frames == limit or (group and self.peek() in (codes[1] if levels > 1 else {closer}))):
                    is_open = False
                if not is_open and frames == 0:
                    frames = limit
                known = group + 1 if is_open else frames
                members = [(group - level, level) for level in range(levels) if 0 <= group - level < known]
                if not members:
                    break
                for cell in range(row):
                    for frame, level in members:
                        cells[frame, cell, level] = codes[level][self.take(codes[level])]
                frames = known
                group += 1
        else:
            ends_run = codes[1] if levels > 1 else {closer}
            while frames < limit and not (is_open and frames and self.peek() in ends_run):
                for cell in range(row):
                    cells[frames, cell, 0] = codes[0][self.take(codes[0])]
                frames += 1
            for level in range(1, levels):
                for frame in range(frames):
                    for cell in range(row):
                        cells[frame, cell, level] = codes[level][self.take(codes[level])]
        self.take({closer})
        flat = []
        for f in range(frames):
            for c in range(row):
                joined = []
                for first in range(0, levels, factors):  # of sub-codes of one code, the first counts most
                    number = 0
                    for level in range(first, first + factors):
                        number = number * len(codes[level]) + cells[f, c, level]
                    joined.append(number)
                flat.append(joined)
        return (spec.modality, ([frames, *grid[1:]] if spec.axes else []), flat)
