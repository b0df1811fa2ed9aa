"""The automaton: what it allows is what it takes, and every walk under it is a document of valid media."""

import pickle
import random
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyglot.errors import GrammarError, MismatchError
from anyglot.lm.automaton import END, FIRST, SPANS, Automaton, Ranges
from anyglot.lm.grammar import Grammar, Span, Turn
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.spec import Axis, CodeSpec
from tests.lm.grammar_strategies import vocabularies, vocabularies_with_documents

IMAGE = CodeSpec("image", (16, 8), (Axis("height", "sized", 6), Axis("width", "sized", 6)))
SPEECH = CodeSpec("speech", (32, 32), (Axis("time", "open", 3),))
ICON = CodeSpec("icon", (4,), (Axis("height", "fixed", 2), Axis("width", "fixed", 2)))


@pytest.fixture
def grammar() -> Grammar:
    """Ids: text 0-9, special 10-16 (bos 11, eos 12, roles 13-15, end of turn 16), sizes 17-22, image control 23-24,
    levels 25-40 and 41-48, speech control 49-50, levels 51-82 and 83-114, icon control 115-116, level 117-120."""
    return Grammar(Vocabulary.build(10, "aa", [(IMAGE, "bb"), (SPEECH, "cc"), (ICON, "dd")], max_size=6))


def inside(ranges: Ranges) -> set[int]:
    return {token for low, high in ranges for token in range(low, high)}


def walk(automaton: Automaton, seed: int, steps: int = 60) -> list[int]:
    """Ids drawn uniformly from what is allowed, forced ones as such; after `steps` the end is sought."""
    generator = random.Random(seed)
    state, ids = automaton.start(), []
    ends = (automaton.vocabulary.end_of_turn, automaton.vocabulary.eos)
    while state.place != END:
        allowed = automaton.allowed(state)
        token = automaton.forced(state)
        if token is None:
            token = generator.choice(sorted(inside(allowed)))
            if len(ids) >= steps:
                token = next((end for end in ends if end in inside(allowed)), token)
        state = automaton.advance(state, token)
        ids.append(token)
    return ids


@given(vocabularies(), st.integers(0, 2**32))
@settings(max_examples=300)
def test_every_walk_is_a_document_of_valid_media(vocabulary: Vocabulary, seed: int) -> None:
    grammar = Grammar(vocabulary)
    ids = walk(grammar, seed)
    turns = grammar.parse(ids)
    for span in (span for turn in turns for span in turn.spans):
        if span.modality == "text":
            assert all(map(vocabulary.is_text, span.codes.tolist()))
            continue
        spec = vocabulary.modality(span.modality).spec
        *grid, levels = span.codes.shape
        assert levels == len(spec.levels)
        for axis, length in zip(spec.axes, grid, strict=True):
            assert length == axis.size if axis.length == "fixed" else 1 <= length <= axis.size
        assert (span.codes >= 0).all()
        assert (span.codes < np.array(spec.levels)).all()
    assert grammar.serialise(turns).ids.tolist() == ids, "each document has exactly one spelling"


@given(vocabularies_with_documents())
def test_what_is_allowed_is_what_advances(case: tuple[Vocabulary, list[Turn]]) -> None:
    """At every state on the way through a document, for every id of the vocabulary and beyond."""
    vocabulary, turns = case
    grammar = Grammar(vocabulary)
    state = grammar.start()
    for token in [*grammar.serialise(turns).ids.tolist(), None]:
        ranges = grammar.allowed(state)
        assert all(low < high for low, high in ranges)
        assert all(before[1] < after[0] for before, after in pairwise(ranges))
        assert ranges is grammar.allowed(state), "ranges are made once, not at every step"
        allowed = inside(ranges)
        assert grammar.forced(state) == (next(iter(allowed)) if len(allowed) == 1 else None)
        assert vocabulary.pad not in allowed
        for other in range(-2, vocabulary.size + 2):
            if other in allowed:
                grammar.advance(state, other)
            else:
                with pytest.raises(GrammarError, match="where the grammar expects"):
                    grammar.advance(state, other)
        if token is not None:
            state = grammar.advance(state, token)
    assert state.place == END
    assert grammar.allowed(state) == ()
    assert grammar.forced(state) is None


@given(vocabularies_with_documents(), st.sets(st.sampled_from(["text", "image", "speech", "graph"])))
def test_restricting_modalities(case: tuple[Vocabulary, list[Turn]], wanted: set[str]) -> None:
    vocabulary, turns = case
    wanted &= set(vocabulary.modality_names)
    grammar = Grammar(vocabulary)
    state = grammar.start()
    unwanted = {vocabulary.opener(name) for name in vocabulary.modality_names[1:] if name not in wanted}
    unwanted |= set() if "text" in wanted else {*filter(vocabulary.is_text, range(vocabulary.text_size))}
    for token in grammar.serialise(turns).ids.tolist():
        expected = inside(grammar.allowed(state)) - (unwanted if state.place in (FIRST, SPANS) else set())
        assert inside(grammar.allowed(state, wanted)) == expected
        state = grammar.advance(state, token)
    with pytest.raises(MismatchError, match="no modality 'smell'"):
        grammar.allowed(grammar.advance(grammar.start(), vocabulary.bos), ["smell"])


@given(vocabularies_with_documents())
def test_no_span_is_longer_than_longest(case: tuple[Vocabulary, list[Turn]]) -> None:
    vocabulary, turns = case
    grammar = Grammar(vocabulary)
    for name, _, length in grammar.serialise(turns).spans:
        assert name == "text" or length <= grammar.longest(name)
    for modality in vocabulary.modalities:
        spec = modality.spec
        largest = np.zeros((*(axis.size for axis in spec.axes), len(spec.levels)), dtype=np.int64)
        assert len(grammar.serialise_span(Span(spec.modality, largest))) == grammar.longest(spec.modality)


def test_by_hand(grammar: Grammar) -> None:
    state = grammar.advance_all([11])
    assert grammar.allowed(state) == ((0, 10), (12, 16), (23, 24), (49, 50), (115, 116))
    assert grammar.may_open(state)
    assert grammar.open(state, "speech") == 49
    header = grammar.advance_all([0, 23], state)
    assert grammar.allowed(header) == ((17, 23),)
    with pytest.raises(GrammarError, match="no icon may begin where .* size of image axis 'height', 1 to 6"):
        grammar.open(header, "icon")
    codes = grammar.advance_all([17, 18], header)
    assert grammar.allowed(codes) == ((25, 41),)
    assert grammar.allowed(grammar.advance(codes, 25)) == ((41, 49),)
    full = grammar.advance_all([25, 41, 26, 42], codes)
    assert grammar.forced(full) == 24
    after = grammar.advance(full, 24)
    assert after.place == SPANS
    assert grammar.allowed(after) == ((0, 10), (12, 13), (23, 24), (49, 50), (115, 116)), (
        "a plain document has no roles"
    )
    assert grammar.allowed(after, ["image"]) == ((12, 13), (23, 24))
    speech = grammar.advance_all([49, 51, 83], after)
    assert grammar.allowed(speech) == ((50, 83),), "the closer and the next frame's first level touch"
    assert grammar.forced(grammar.advance_all([51, 83, 51, 83], speech)) == 50, "an open axis must close at its limit"


def test_chat_by_hand(grammar: Grammar) -> None:
    user = grammar.advance_all([11, 14])
    assert grammar.allowed(user, ["text"]) == ((0, 10), (16, 17))
    between = grammar.advance_all([3, 16], user)
    assert grammar.allowed(between) == ((12, 16),)
    assert not grammar.may_open(between)
    assert grammar.advance_all([15, 16, 12], between).place == END


def test_errors_say_what_was_expected(grammar: Grammar) -> None:
    for ids, message in (
        ([12], "position 0: eos, where the grammar expects bos"),
        ([11, 10], "position 1: pad, where the grammar expects a text id, image open, .*, a role or eos"),
        ([11, 999], "position 1: id 999, which is not in this vocabulary of 121, where"),
        ([11, 0, 14], "position 2: user, where the grammar expects a text id, .* or eos"),
        ([11, 14, 12], "position 2: eos, where .* or end_of_turn"),
        ([11, 23, 17, 24], "position 3: image close, where .* the size of image axis 'width', 1 to 6"),
        ([11, 23, 17, 17, 5], "position 4: text 5, where .* image code of level 0"),
        ([11, 49, 51, 51], "position 3: speech code 0 of level 0, where .* speech code of level 1"),
        ([11, 49] + [51, 83] * 4, "position 8: .* expects speech close, since 'time' may be at most 3 long"),
        ([11, 12, 12], "position 2: eos, where the grammar expects nothing after eos"),
    ):
        with pytest.raises(GrammarError, match=message):
            grammar.advance_all(ids)


def test_the_level_stream_ends_an_open_run_by_its_second_level() -> None:
    grammar = Grammar(Vocabulary.build(10, "aa", [(SPEECH, "cc")], max_size=1, streams={"speech": "level"}))
    first, second = (grammar.vocabulary.named_blocks[f"speech.{level}"].start for level in (0, 1))
    run = grammar.advance_all([11, grammar.vocabulary.opener("speech"), first, first + 1])
    assert grammar.allowed(run) == ((first, first + 64),), "one more of level 0, or the first of level 1"
    assert grammar.allowed(grammar.advance(run, first)) == ((second, second + 32),), "the limit of 3 is reached"
    settled = grammar.advance_all([second, second], run)
    assert grammar.forced(settled) == grammar.vocabulary.closer("speech")
    with pytest.raises(GrammarError, match="level 1, since 'time' may be at most 3 long"):
        grammar.advance_all([first, first], run)


def test_states_are_small_and_hashable(grammar: Grammar) -> None:
    state = grammar.advance_all([11, 49, 51])
    assert {state: 1}[grammar.advance_all([11, 49, 52])] == 1, "the same place is the same state"
    assert len(pickle.dumps(tuple(state))) < 50
    again = pickle.loads(pickle.dumps(grammar))
    assert isinstance(again, Grammar)
    assert again.advance_all([11, 49, 51]) == state


def test_a_step_takes_microseconds() -> None:
    """Batch generation steps one state per row: at most 10 microseconds for an advance and the ranges after it."""
    spec = CodeSpec("speech", (512,) * 4, (Axis("time", "open", 4000),))
    for stream in ("frame", "level"):
        grammar = Grammar(Vocabulary.build(2000, "aa", [(spec, "bb")], streams={"speech": stream}))
        codes = np.zeros((1000, 4), dtype=np.int64)
        ids = grammar.serialise([Turn(None, [Span("speech", codes)])]).ids.tolist()
        seconds = []
        for _ in range(5):
            state, began = grammar.start(), time.process_time()
            for token in ids:
                state = grammar.advance(state, token)
                grammar.allowed(state)
            seconds.append(time.process_time() - began)
        assert min(seconds) / len(ids) < 10e-6
