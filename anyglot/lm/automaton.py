"""The grammar as one integer automaton: which ids may come next, and where each of them leads.

A state is a tuple of small integers, so that batch generation can hold one per row and step it in about a
microsecond; nothing in a step touches an array. What may come next is always a few half-open id ranges, all
built once.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

from anyglot.errors import GrammarError
from anyglot.lm.streams import CLOSE, Choices, Stream, stream_named
from anyglot.lm.vocabulary import ROLES, TEXT, Modality, Vocabulary
from anyglot.tokenizers.spec import Axis, CodeSpec

Ranges = tuple[tuple[int, int], ...]  # half-open, rising, never touching

START, FIRST, BETWEEN, SPANS, HEADER, CODES, END, MARK = range(8)
PLAIN = -1  # the `turn` of a document without turns


class State(NamedTuple):
    """What the next id will be read as.

    place: START (before bos), FIRST (after it: a plain document or a chat), BETWEEN (turns), SPANS (outside
        media in a turn or plain document), HEADER or CODES (inside a media span), END, MARK (inside a run of ids that
        begins or ends a turn or document).
    turn: index into `ROLES`, or PLAIN.
    modality: index into `Vocabulary.modality_names` inside a media span, else 0.
    done: sizes read in the header, or codes read; in a mark, which and how far.
    row: cells in one step of the first axis. frames: steps of the first axis, 0 while not known.
    """

    place: int
    turn: int = PLAIN
    modality: int = 0
    done: int = 0
    row: int = 1
    frames: int = 0


@dataclass(frozen=True)
class Rules:
    """What the automaton knows of one modality, compiled from its spec.

    factors, levels: sub-codes that a code is written as, and levels as written.

    symbols: id range of a code by level; of the closer at [CLOSE]. choices: id ranges of every set of choices
    a stream can give. sized: the axes whose sizes the header writes, sizes: the id ranges of each.
    limit: most steps of the first axis. row, frames: as in `State`, before the header is read.
    """

    spec: CodeSpec
    stream: type[Stream]
    factors: int
    levels: int
    opener: int
    symbols: Ranges
    choices: dict[Choices, Ranges]
    sized: tuple[Axis, ...]
    sizes: tuple[Ranges, ...]
    first_sized: bool
    limit: int
    row: int
    frames: int

    @property
    def name(self) -> str:
        """The modality."""
        return self.spec.modality

    @property
    def closer(self) -> int:
        """The id that ends a span."""
        return self.symbols[CLOSE][0]

    def grid(self, sizes: Iterable[int], codes: int = 0) -> list[int]:
        """The axes' lengths, given the header's sizes and how many codes there are (0: an open axis is 0 long)."""
        numbers = iter(sizes)
        grid = [next(numbers) if axis.length == "sized" else axis.size for axis in self.spec.axes]
        if grid and self.spec.axes[0].length == "open":
            grid[0] = codes // (prod(grid[1:]) * self.levels)
        return grid


class Automaton:
    """The grammar of one vocabulary, step by step.

    document = bos (span* | turn+) eos, turn = role span* end_of_turn, span = text id | open size* code+ close:
    one size per sized axis, then the codes in the order of the modality's stream. An open axis may end after any
    whole step, and must at its limit. bos, eos, roles and end_of_turn are one id each, or a pretrained model's runs;
    whose chats may begin without bos.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.rules = [_compile(vocabulary, modality) for modality in vocabulary.modalities]  # of modality index - 1
        self._opened = {rules.opener: index for index, rules in enumerate(self.rules, start=1)}
        self._number = {start + k: first + k for first, start, count in vocabulary.size_ranges for k in range(count)}
        self._spans = [State(SPANS, turn) for turn in range(len(ROLES))] + [State(SPANS, PLAIN)]  # by turn
        self._marked = _marked(vocabulary, self._spans)
        self._outside = lru_cache(maxsize=1024)(self._ranges_outside)

    def __reduce__(self) -> tuple[Any, ...]:  # for worker processes: compiled anew from the vocabulary
        return type(self), (self.vocabulary,)

    def start(self) -> State:
        """The state of a document that is about to begin."""
        return State(START)

    def advance(self, state: State, token: int) -> State:
        """The state after one more id. Raises GrammarError naming the id and what was expected."""
        place, turn, modality, done, row, frames = state
        if place == CODES:
            rules = self.rules[modality - 1]
            stream = rules.stream
            for choice in stream.choices(done, row, frames, rules.limit, rules.levels):
                low, high = rules.symbols[choice]
                if low <= token < high:
                    if choice == CLOSE:
                        return self._spans[turn]
                    frames = stream.settle(done, row, frames, choice, rules.levels)
                    return State(CODES, turn, modality, done + 1, row, frames)
        elif place in (SPANS, FIRST):
            if self.vocabulary.is_text(token):
                return self._spans[turn]
            if token in self._opened:
                return self._entered(turn, self._opened[token])
            if token in self._marked[state]:
                return self._marked[state][token]
        elif place == HEADER:
            rules = self.rules[modality - 1]
            number = self._number.get(token, 0)
            if 1 <= number <= rules.sized[done].size:
                if done == 0 and rules.first_sized:
                    frames = number
                else:
                    row *= number
                done += 1
                if done == len(rules.sized):
                    return State(CODES, turn, modality, 0, row, frames)
                return State(HEADER, turn, modality, done, row, frames)
        elif place != END and token in self._marked[state]:
            return self._marked[state][token]
        raise GrammarError(f"{self.vocabulary.name(token)}, where the grammar expects {self.expected(state)}")

    def advance_all(self, ids: Iterable[int], state: State | None = None) -> State:
        """The state after many ids, from `state` or the start. A GrammarError also names the position."""
        state = self.start() if state is None else state
        for position, token in enumerate(ids):
            try:
                state = self.advance(state, int(token))
            except GrammarError as error:
                raise GrammarError(f"position {position}: {error}") from None
        return state

    def allowed(self, state: State, modalities: Collection[str] | None = None) -> Ranges:
        """Which ids may come next, as half-open ranges, rising and not touching; none after the end.

        modalities: outside a media span, allow only text ids (for "text") and openers of these; None allows all.
            What ends a turn or a document stays allowed, and so does whatever a begun span still needs.
        """
        place, _, modality, done, row, frames = state
        if place == CODES:
            rules = self.rules[modality - 1]
            return rules.choices[rules.stream.choices(done, row, frames, rules.limit, rules.levels)]
        if place == HEADER:
            return self.rules[modality - 1].sizes[done]
        return self._outside(state, None if modalities is None else frozenset(modalities))

    def forced(self, state: State) -> int | None:
        """The id that comes next if there is only one such id, else None."""
        ranges = self.allowed(state)
        if len(ranges) == 1 and ranges[0][1] - ranges[0][0] == 1:
            return ranges[0][0]
        return None

    def may_open(self, state: State) -> bool:
        """Whether a media span may begin here."""
        return state.place in (SPANS, FIRST)

    def open(self, state: State, modality: str) -> int:
        """The id that begins a span of a modality here. Raises GrammarError if none may begin here."""
        opener = self.vocabulary.opener(modality)
        if not self.may_open(state):
            raise GrammarError(f"no {modality} may begin where the grammar expects {self.expected(state)}")
        return opener

    def longest(self, modality: str) -> int:
        """The most ids that a span of a modality can take, opener and closer included."""
        rules = self.rules_of(modality)
        return 2 + len(rules.sized) + rules.levels * prod(axis.size for axis in rules.spec.axes)

    def rules_of(self, modality: str) -> Rules:
        """The rules of a modality. Raises MismatchError that lists those there are."""
        return self.rules[self.vocabulary.modalities.index(self.vocabulary.modality(modality))]

    def expected(self, state: State) -> str:
        """What may come next, in words."""
        place, _, modality, done, row, frames = state
        if place == CODES:
            rules = self.rules[modality - 1]
            choices = rules.stream.choices(done, row, frames, rules.limit, rules.levels)
            words = [f"{rules.name} close" if c == CLOSE else f"{rules.name} code of level {c}" for c in choices]
            longer = rules.stream.choices(done, row, frames, rules.limit + 1, rules.levels)
            limit = (
                f", since {rules.spec.axes[0].name!r} may be at most {rules.limit} long" if longer != choices else ""
            )
            return " or ".join(words) + limit
        if place == HEADER:
            rules = self.rules[modality - 1]
            axis = rules.sized[done]
            return f"the size of {rules.name} axis {axis.name!r}, 1 to {axis.size}"
        openers = "".join(f", {rules.name} open" for rules in self.rules)
        if place == MARK:
            return " or ".join(self.vocabulary.name(token) for token in self._marked[state])
        in_chats = self.vocabulary.bos_in_chats
        return {
            START: "bos" if in_chats else "bos or a role",
            FIRST: f"a text id{openers}, a role or eos" if in_chats else f"a text id{openers} or eos",
            BETWEEN: "a role or eos",
            SPANS: f"a text id{openers} or {'eos' if state.turn == PLAIN else 'end_of_turn'}",
            END: "nothing after eos",
        }[place]

    def _entered(self, turn: int, modality: int) -> State:
        rules = self.rules[modality - 1]
        return State(HEADER if rules.sized else CODES, turn, modality, 0, rules.row, rules.frames)

    def _ranges_outside(self, state: State, modalities: frozenset[str] | None) -> Ranges:
        vocabulary = self.vocabulary
        ids = list(self._marked.get(state, ()))
        ranges: list[tuple[int, int]] = []
        for name in sorted(modalities or ()):
            if name != TEXT:
                vocabulary.modality(name)  # a name that is not there is a mistake, not an empty choice
        if state.place in (FIRST, SPANS):
            ids += [rules.opener for rules in self.rules if modalities is None or rules.name in modalities]
            if modalities is None or TEXT in modalities:
                ranges = list(vocabulary.text_ranges)
        return joined(ranges + [(token, token + 1) for token in ids])


def _marked(vocabulary: Vocabulary, spans: Sequence[State]) -> dict[State, dict[int, State]]:
    """Where the ids of marks lead from every state that one may stand at, or be read in.

    spans: the states outside media, by turn.
    """
    table: dict[State, dict[int, State]] = {}
    runs = 0

    def add(before: State, mark: Sequence[int], after: State) -> None:
        nonlocal runs
        for token in mark[:-1]:
            step = table.setdefault(before, {})
            if token not in step:
                runs += 1
                step[token] = State(MARK, done=runs)
            before = step[token]
        table.setdefault(before, {})[mark[-1]] = after

    roles = [(vocabulary.mark(role), spans[turn]) for turn, role in enumerate(ROLES)]
    add(State(START), vocabulary.mark("bos"), State(FIRST))
    beginnings = [State(FIRST)] if vocabulary.bos_in_chats else [State(START)]
    for place in [*beginnings, *(State(BETWEEN, turn) for turn in range(len(ROLES)))]:
        for mark, after in roles:
            add(place, mark, after)
    for place in [State(FIRST), spans[PLAIN], *(State(BETWEEN, turn) for turn in range(len(ROLES)))]:
        add(place, vocabulary.mark("eos"), State(END))
    for turn in range(len(ROLES)):
        add(spans[turn], vocabulary.mark("end_of_turn"), State(BETWEEN, turn))
    return table


def _compile(vocabulary: Vocabulary, modality: Modality) -> Rules:
    spec = modality.spec
    name, axes = spec.modality, spec.axes
    control = vocabulary.named_blocks[f"{name}.control"]
    codes = [vocabulary.named_blocks[f"{name}.{level}"] for level in range(len(modality.levels))]
    symbols = (*((block.start, block.end) for block in codes), (control.start + 1, control.end))
    singles: list[Choices] = [(choice,) for choice in (*range(len(codes)), CLOSE)]
    pairs: list[Choices] = [(0, 1), (0, CLOSE)] if len(codes) > 1 else [(0, CLOSE)]
    sized = tuple(axis for axis in axes if axis.length == "sized")
    return Rules(
        spec=spec,
        stream=stream_named(modality.stream),
        factors=modality.factors,
        levels=len(codes),
        opener=control.start,
        symbols=symbols,
        choices={c: joined([symbols[choice] for choice in c]) for c in singles + pairs},
        sized=sized,
        sizes=tuple(
            joined(
                (start, start + min(count, axis.size - first + 1))
                for first, start, count in vocabulary.size_ranges
                if first <= axis.size
            )
            for axis in sized
        ),
        first_sized=bool(axes) and axes[0].length == "sized",
        limit=axes[0].size if axes else 1,
        row=prod(axis.size for axis in axes[1:] if axis.length == "fixed"),
        frames=1 if not axes else axes[0].size if axes[0].length == "fixed" else 0,
    )


def joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Ranges in rising order, those that touch made one."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if found and found[-1][1] == low:
            found[-1] = (found[-1][0], high)
        else:
            found.append((low, high))
    return tuple(found)
