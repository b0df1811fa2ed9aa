"""The streaming parser: the same events however the ids are cut, and the same document as the batch parser."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyglot.errors import GrammarError
from anyglot.lm.grammar import Grammar, Span, Turn
from anyglot.lm.parser import CodeDelta, End, Event, Parser, SpanEnd, SpanStart, TextDelta, TurnEnd, TurnStart
from anyglot.lm.streams import factor
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.spec import Axis, CodeSpec
from tests.lm.grammar_strategies import vocabularies_with_documents

IMAGE = CodeSpec("image", (16, 8), (Axis("height", "sized", 6), Axis("width", "sized", 6)))
SPEECH = CodeSpec("speech", (32, 32), (Axis("time", "open", 3),))
VOCABULARY = Vocabulary.build(10, "aa", [(IMAGE, "bb"), (SPEECH, "cc")], max_size=6)


def joined(events: list[Event]) -> list[Event]:
    """Deltas that follow one another made one."""
    merged: list[Event] = []
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            merged[-1] = TextDelta(last.position, last.ids + event.ids)
        elif isinstance(event, CodeDelta) and isinstance(last, CodeDelta):
            levels, codes = last.levels + event.levels, last.codes + event.codes
            merged[-1] = CodeDelta(last.position, last.modality, levels, codes)
        else:
            merged.append(event)
    return merged


def test_events_by_hand() -> None:
    grammar = Grammar(VOCABULARY)
    picture, sound = Span("image", np.array([[[3, 1], [0, 7]]])), Span("speech", np.array([[5, 6], [7, 8]]))
    turns = [Turn("user", [Span("text", np.array([4, 2])), picture]), Turn("assistant", [sound])]
    ids = grammar.serialise(turns).ids.tolist()
    parser = Parser(grammar)
    assert parser.feed(ids[:8]) == [
        TurnStart(1, "user"), TextDelta(2, (4, 2)), SpanStart(4, "image", (1, 2)), CodeDelta(7, "image", (0,), (3,)),
    ]  # fmt: skip
    assert parser.feed([]) == []
    assert parser.position == 8
    with pytest.raises(GrammarError, match="position 8: ids end where .* level 1, in the image span that begins at 4"):
        parser.finish()
    assert parser.feed(ids[8:]) == [
        CodeDelta(8, "image", (1, 0, 1), (1, 0, 7)), SpanEnd(11, picture), TurnEnd(12),
        TurnStart(13, "assistant"), SpanStart(14, "speech", (0,)), CodeDelta(15, "speech", (0, 1, 0, 1), (5, 6, 7, 8)),
        SpanEnd(19, sound), TurnEnd(20), End(21),
    ]  # fmt: skip
    parser.finish()


@given(vocabularies_with_documents(), st.data())
def test_events_do_not_depend_on_the_cuts(case: tuple[Vocabulary, list[Turn]], data: st.DataObject) -> None:
    vocabulary, turns = case
    grammar = Grammar(vocabulary)
    ids = grammar.serialise(turns).ids
    whole = Parser(grammar).feed(ids)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=5)))
    for pieces in (np.split(ids, cuts), [[token] for token in ids.tolist()]):
        parser = Parser(grammar)
        events = [event for piece in pieces for event in parser.feed(piece)]
        parser.finish()
        assert joined(events) == whole
    ends = [event.span for event in whole if isinstance(event, SpanEnd)]
    assert ends == [span for turn in grammar.parse(ids) for span in turn.spans if span.modality != "text"]
    assert isinstance(whole[-1], End)
    assert sum(isinstance(event, TurnStart) for event in whole) == sum(isinstance(event, TurnEnd) for event in whole)


@given(vocabularies_with_documents())
def test_code_deltas_carry_the_span(case: tuple[Vocabulary, list[Turn]]) -> None:
    """What a media decoder is fed while it streams is what the span turns out to hold."""
    vocabulary, turns = case
    grammar = Grammar(vocabulary)
    started: SpanStart | None = None
    received: list[tuple[int, int]] = []
    for event in Parser(grammar).feed(grammar.serialise(turns).ids):
        if isinstance(event, SpanStart):
            started, received = event, []
        elif isinstance(event, CodeDelta):
            received += zip(event.levels, event.codes, strict=True)
        elif isinstance(event, SpanEnd):
            assert started is not None
            modality = vocabulary.modality(event.span.modality)
            digits = factor(event.span.codes, modality.spec.levels, modality.factors)
            *grid, levels = digits.shape
            assert [known or length for known, length in zip(started.grid, grid, strict=True)] == grid
            flat = digits.reshape(-1, levels)
            for level in range(levels):
                assert [code for at, code in received if at == level] == flat[:, level].tolist()


def test_an_error_inside_a_span_says_which() -> None:
    parser = Parser(Grammar(VOCABULARY))
    parser.feed([11, 1, 23, 17])
    with pytest.raises(
        GrammarError, match="position 4: text 5, .* axis 'width', 1 to 6, in the image span that begins at 2"
    ):
        parser.feed([5])
