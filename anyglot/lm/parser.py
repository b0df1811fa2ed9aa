"""Reading ids as they come: the automaton's steps as typed events, for batches and for streaming alike."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from anyglot.errors import GrammarError
from anyglot.lm.automaton import BETWEEN, CODES, END, FIRST, HEADER, MARK, SPANS, Automaton, State
from anyglot.lm.spans import Span
from anyglot.lm.streams import unfactor, unflatten
from anyglot.lm.vocabulary import ROLES


@dataclass(frozen=True)
class TurnStart:
    """A chat turn begins."""

    position: int
    role: str


@dataclass(frozen=True)
class TurnEnd:
    """A chat turn ends."""

    position: int


@dataclass(frozen=True)
class TextDelta:
    """More text: ids of the text tokenizer."""

    position: int
    ids: tuple[int, ...]


@dataclass(frozen=True)
class SpanStart:
    """A media span's header has been read. grid: its axes' lengths, 0 for an open one."""

    position: int
    modality: str
    grid: tuple[int, ...]


@dataclass(frozen=True)
class CodeDelta:
    """More codes of the current span and the level of each as written (see `factor`), in the order of its stream."""

    position: int
    modality: str
    levels: tuple[int, ...]
    codes: tuple[int, ...]


@dataclass(frozen=True)
class SpanEnd:
    """A media span is complete: its codes int64 `[*grid, levels]`."""

    position: int
    span: Span


@dataclass(frozen=True)
class End:
    """The document is complete."""

    position: int


Event = TurnStart | TurnEnd | TextDelta | SpanStart | CodeDelta | SpanEnd | End


class Parser:
    """Turns ids into events, a few at a time; each event's position is that of its first id.

    state: the automaton's, which says what may come next. position: how many ids have been read.
    """

    def __init__(self, automaton: Automaton) -> None:
        self.automaton = automaton
        self.state: State = automaton.start()
        self.position = 0
        self._opened = 0  # position of the current span's opener
        self._marked = 0  # position where the current mark began, if it is a run of ids
        self._sizes: list[int] = []
        self._line: list[int] = []  # the current span's codes

    def feed(self, ids: Iterable[int]) -> list[Event]:
        """Read more ids.

        Text and codes that follow one another in one call come as one delta. Raises GrammarError naming the
        position and what was expected; the parser is of no use afterwards.
        """
        events: list[Event] = []
        pending: list[int] = []  # text ids or codes on their way into one delta
        advance = self.automaton.advance
        for token in map(int, ids):
            before = self.state
            try:
                after = self.state = advance(before, token)
            except GrammarError as error:
                raise GrammarError(f"position {self.position}: {error}{self._inside()}") from None
            text = after.place == SPANS and before.place in (SPANS, FIRST) and self.automaton.vocabulary.is_text(token)
            if text or before.place == CODES == after.place:
                pending.append(token)
            else:
                self._flush(before, pending, events)
                self._mark(before, after, token, events)
            self.position += 1
        self._flush(self.state, pending, events)
        return events

    def finish(self) -> None:
        """Raise GrammarError if the ids read so far are not a whole document."""
        if self.state.place != END:
            expected = self.automaton.expected(self.state)
            raise GrammarError(
                f"position {self.position}: ids end where the grammar expects {expected}{self._inside()}"
            )

    def _flush(self, state: State, pending: list[int], events: list[Event]) -> None:
        if not pending:
            return
        position = self.position - len(pending)
        if state.place == CODES:
            self._line += pending
            lookup = self.automaton.vocabulary.lookup
            levels, codes = lookup.level[pending].tolist(), lookup.code[pending].tolist()
            events.append(CodeDelta(position, self._modality(state), tuple(levels), tuple(codes)))
        else:
            events.append(TextDelta(position, tuple(pending)))
        pending.clear()

    def _mark(self, before: State, after: State, token: int, events: list[Event]) -> None:
        """The event of an id that is neither text nor a code, if it has one."""
        position = self._marked if before.place == MARK else self.position
        if before.place in (FIRST, SPANS) and after.place in (HEADER, CODES):
            self._opened, self._sizes, self._line = self.position, [], []
        if before.place == HEADER:
            self._sizes.append(int(self.automaton.vocabulary.lookup.code[token]))
        if after.place == CODES:
            rules = self.automaton.rules[after.modality - 1]
            events.append(SpanStart(self._opened, rules.name, tuple(rules.grid(self._sizes))))
        elif before.place == CODES:
            events.append(SpanEnd(self.position, self._span(before)))
        elif after.place == SPANS:
            events.append(TurnStart(position, ROLES[after.turn]))
        elif after.place == BETWEEN:
            events.append(TurnEnd(position))
        elif after.place == END:
            events.append(End(position))
        elif after.place == MARK:
            self._marked = position

    def _span(self, state: State) -> Span:
        rules = self.automaton.rules[state.modality - 1]
        line = self.automaton.vocabulary.lookup.code[self._line].astype(np.int64)
        digits = unflatten(rules.stream, line, rules.grid(self._sizes, len(line)), rules.levels)
        return Span(rules.name, unfactor(digits, rules.spec.levels, rules.factors))

    def _modality(self, state: State) -> str:
        return self.automaton.vocabulary.modality_names[state.modality]

    def _inside(self) -> str:
        return (
            f", in the {self._modality(self.state)} span that begins at {self._opened}" if self.state.modality else ""
        )
