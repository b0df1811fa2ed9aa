"""Documents to ids and back, under one grammar. The automaton underneath also guides generation."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from anyglot.errors import GrammarError
from anyglot.lm.automaton import Automaton, State
from anyglot.lm.parser import Event, Parser, SpanEnd, TextDelta, TurnStart
from anyglot.lm.spans import Serialised, Span, SpanRange, Turn, normalise
from anyglot.lm.streams import cells, factor, flatten
from anyglot.lm.vocabulary import ROLES, TEXT, Vocabulary
from anyglot.tokenizers.spec import CodeSpec

__all__ = ["Annotations", "Event", "Grammar", "Parser", "Serialised", "Span", "SpanRange", "State", "Turn", "normalise"]


class Annotations(NamedTuple):
    """What each id of a document is, arrays `[n]`.

    modality: index into `Vocabulary.modality_names`, openers, headers and closers included; -1 outside spans.
    level: of a code, else -1. position: of a code the row-major number of its grid cell, of a text id its place
    in the span, else -1.
    """

    modality: np.ndarray
    level: np.ndarray
    position: np.ndarray


class Grammar(Automaton):
    """The grammar of a vocabulary: `serialise` and `parse` documents, and the automaton's `advance` and `allowed`."""

    def serialise(self, turns: Sequence[Turn]) -> Serialised:
        """A document as ids, from bos to eos.

        Loss lies on every id of a span that has it, on the end_of_turn and the plain document's eos if the last
        span before has it (with no span: if the turn is the assistant's, or plain), never on bos, roles or the
        eos of a chat. Where a mark is a run of ids, only its first can have loss: the others follow from it.
        Raises GrammarError: roles mixed with plain, an unknown role or modality, codes out of their codebook, or
        a shape that the spec does not allow.
        """
        vocabulary = self.vocabulary
        turns = turns or [Turn(None)]
        plain = turns[0].role is None
        if plain and len(turns) > 1:
            raise GrammarError("a document without roles is one turn; give every turn a role, or join them")
        ids: list[np.ndarray] = []
        loss: list[bool] = []
        spans: list[SpanRange] = []

        def add(mark: str, learned: bool = False) -> None:
            run = vocabulary.mark(mark)
            ids.append(np.array(run))
            loss.extend([learned] + [False] * (len(run) - 1))

        if plain or vocabulary.bos_in_chats:
            add("bos")
        for turn in turns:
            learned = plain or turn.role == "assistant"
            if not plain:
                if turn.role not in ROLES:
                    raise GrammarError(f"no role {turn.role!r} in a chat; the roles are: {', '.join(ROLES)}")
                add(str(turn.role))
            for span in turn.spans:
                piece = self.serialise_span(span)
                if len(piece):
                    spans.append(SpanRange(span.modality, len(loss), len(piece)))
                    ids.append(piece)
                    loss += [span.loss] * len(piece)
                    learned = span.loss
            add("eos" if plain else "end_of_turn", learned)
        if not plain:
            add("eos")
        return Serialised(np.concatenate(ids).astype(np.int32), np.array(loss), spans)

    def serialise_span(self, span: Span) -> np.ndarray:
        """The ids of one span, int `[n]`: text ids as they are, else opener, header, codes and closer."""
        if span.modality == TEXT:
            return _checked_text(np.asarray(span.codes), self.vocabulary)
        if span.modality not in self.vocabulary.modality_names:
            raise GrammarError(
                f"no modality {span.modality!r} in this vocabulary; it has: {', '.join(self.vocabulary.modality_names)}"
            )
        codes = np.asarray(span.codes)
        rules = self.rules_of(span.modality)
        _check(rules.spec, codes)
        lengths = zip(rules.spec.axes, codes.shape, strict=False)
        header = [self.vocabulary.size_id(length) for axis, length in lengths if axis.length == "sized"]
        levels, line = flatten(rules.stream, factor(codes, rules.spec.levels, rules.factors))
        starts = np.array([low for low, _ in rules.symbols])
        return np.concatenate([[rules.opener, *header], starts[levels] + line, [rules.closer]])

    def parse(self, ids: Iterable[int]) -> list[Turn]:
        """The document that ids are, in normal form: `parse(serialise(turns).ids) == normalise(turns)`.

        Raises GrammarError naming the position and what was expected there.
        """
        parser = Parser(self)
        turns: list[Turn] = []
        events = parser.feed(ids)
        parser.finish()
        for event in events:
            if isinstance(event, TurnStart):
                turns.append(Turn(event.role))
            elif isinstance(event, TextDelta | SpanEnd):
                if not turns:
                    turns.append(Turn(None))
                span = event.span if isinstance(event, SpanEnd) else Span(TEXT, np.array(event.ids, np.int64))
                turns[-1].spans.append(span)
        return turns or [Turn(None)]

    def annotate(self, document: Serialised) -> Annotations:
        """Modality, level and position of every id of a serialised document."""
        n = len(document.ids)
        annotations = Annotations(np.full(n, -1, np.int32), np.full(n, -1, np.int32), np.full(n, -1, np.int32))
        lookup = self.vocabulary.describe(document.ids)
        annotations.level[:] = lookup.level
        for name, start, length in document.spans:
            end = start + length
            index = self.vocabulary.modality_names.index(name)
            annotations.modality[start:end] = index
            if name == TEXT:
                annotations.position[start:end] = np.arange(length)
                continue
            rules = self.rules_of(name)
            codes = start + 1 + len(rules.sized)
            grid = rules.grid(lookup.code[start + 1 : codes].tolist(), end - 1 - codes)
            annotations.position[codes : end - 1] = cells(rules.stream, grid, rules.levels)
        return annotations


def _checked_text(ids: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    text_size = vocabulary.text_size
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise GrammarError(f"text must be integer ids [n], got {ids.dtype} of shape {list(ids.shape)}")
    if ids.size and (ids.min() < 0 or ids.max() >= text_size):
        raise GrammarError(f"text ids are 0 to {text_size - 1}, got {ids.min() if ids.min() < 0 else ids.max()}")
    if vocabulary.reserved and not vocabulary.reserved.isdisjoint(ids.tolist()):
        wrong = min(vocabulary.reserved.intersection(ids.tolist()))
        raise GrammarError(f"text holds id {wrong}, a control id, which only the grammar writes")
    return ids


def _check(spec: CodeSpec, codes: np.ndarray) -> None:
    """Raise GrammarError if codes do not have the shape and the values that the spec allows."""
    name = spec.modality
    if not np.issubdtype(codes.dtype, np.integer):
        raise GrammarError(f"{name}: codes must be integers, got {codes.dtype}")
    if codes.ndim != len(spec.axes) + 1 or codes.shape[-1] != len(spec.levels):
        grid = ", ".join([*(axis.name for axis in spec.axes), f"{len(spec.levels)} levels"])
        raise GrammarError(f"{name}: codes must be [{grid}], got shape {list(codes.shape)}")
    for axis, length in zip(spec.axes, codes.shape, strict=False):
        if axis.length == "fixed" and length != axis.size:
            raise GrammarError(f"{name}: axis {axis.name!r} is always {axis.size} long, got {length}")
        if not 1 <= length <= axis.size:
            raise GrammarError(f"{name}: axis {axis.name!r} may be 1 to {axis.size} long, got {length}")
    for level, size in enumerate(spec.levels):
        low, high = int(codes[..., level].min()), int(codes[..., level].max())
        if low < 0 or high >= size:
            wrong = low if low < 0 else high
            raise GrammarError(f"{name}: level {level} has codes 0 to {size - 1}, got {wrong}")
