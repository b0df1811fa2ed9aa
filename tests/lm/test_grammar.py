"""Documents to ids and back: exactly, as a slow obvious reader has it, and never as something else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyglot.errors import GrammarError
from anyglot.lm.grammar import Grammar, Span, Turn, normalise
from anyglot.lm.streams import factor
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.spec import Axis, CodeSpec
from anyglot.tokenizers.text import TextTokenizer
from tests.lm.grammar_strategies import vocabularies_with_documents
from tests.lm.grammar_twin import Refused, Twin

IMAGE = CodeSpec("image", (16, 8), (Axis("height", "sized", 6), Axis("width", "sized", 6)))
SPEECH = CodeSpec("speech", (32, 32), (Axis("time", "open", 3),))
ICON = CodeSpec("icon", (4,), (Axis("height", "fixed", 2), Axis("width", "fixed", 1)))


@pytest.fixture
def grammar() -> Grammar:
    return Grammar(Vocabulary.build(10, "aa", [(IMAGE, "bb"), (SPEECH, "cc"), (ICON, "dd")], max_size=6))


@given(vocabularies_with_documents())
@settings(max_examples=300)
def test_every_document_serialises_and_parses_back(case: tuple[Vocabulary, list[Turn]]) -> None:
    vocabulary, turns = case
    grammar = Grammar(vocabulary)
    document = grammar.serialise(turns)
    assert document.ids.dtype == np.int32
    assert document.ids.shape == document.loss.shape
    assert document.loss.dtype == bool
    assert grammar.parse(document.ids) == normalise(turns)
    assert normalise(normalise(turns)) == normalise(turns)
    assert grammar.serialise(normalise(turns)).ids.tolist() == document.ids.tolist()


def twin_of(vocabulary: Vocabulary) -> Twin:
    modalities = [(modality.spec, modality.stream, modality.factors) for modality in vocabulary.modalities]
    marks = vocabulary.marks.to_json() if vocabulary.marks else None
    return Twin(vocabulary.text_size, vocabulary.max_size, modalities, marks)


def plain(turns: list[Turn]) -> list[object]:
    """Turns as the twin gives them."""
    found: list[object] = []
    for turn in turns:
        spans: list[object] = []
        for span in turn.spans:
            *grid, levels = span.codes.shape
            codes = span.codes
            spans.append(("text", codes.tolist()) if span.modality == "text"
                         else (span.modality, grid, codes.reshape(-1, levels).tolist()))  # fmt: skip
        found.append((turn.role, spans))
    return found


@given(vocabularies_with_documents(), st.data())
@settings(max_examples=600)
def test_the_twin_agrees(case: tuple[Vocabulary, list[Turn]], data: st.DataObject) -> None:
    """On documents, and on documents with an id changed, dropped, added or with their end cut off."""
    vocabulary, turns = case
    grammar, twin = Grammar(vocabulary), twin_of(vocabulary)
    assert twin.size == vocabulary.size
    ids = grammar.serialise(turns).ids.tolist()
    assert plain(grammar.parse(ids)) == twin.read(ids)
    at = data.draw(st.integers(0, len(ids) - 1))
    token = data.draw(st.integers(-1, vocabulary.size))
    changed = {
        "change": [*ids[:at], token, *ids[at + 1 :]],
        "drop": [*ids[:at], *ids[at + 1 :]],
        "add": [*ids[:at], token, *ids[at:]],
        "swap": [*ids[:at], *ids[at : at + 2][::-1], *ids[at + 2 :]],
        "cut": ids[:at],
    }[data.draw(st.sampled_from(["change", "drop", "add", "swap", "cut"]))]
    try:
        expected = twin.read(changed)
    except Refused as refused:
        with pytest.raises(GrammarError, match=f"^position {refused.position}: "):
            grammar.parse(changed)
    else:
        assert plain(grammar.parse(changed)) == expected


@given(vocabularies_with_documents())
def test_spans_and_annotations_describe_the_ids(case: tuple[Vocabulary, list[Turn]]) -> None:
    vocabulary, turns = case
    grammar = Grammar(vocabulary)
    document = grammar.serialise(turns)
    ids = document.ids.tolist()
    found = grammar.annotate(document)
    outside = np.ones(len(ids), dtype=bool)
    written = [span for turn in turns for span in turn.spans if span.modality != "text" or span.codes.size]
    assert [span.modality for span in document.spans] == [span.modality for span in written]
    for (name, start, length), span in zip(document.spans, written, strict=True):
        inside = slice(start, start + length)
        outside[inside] = False
        assert (found.modality[inside] == vocabulary.modality_names.index(name)).all()
        if name == "text":
            assert ids[inside] == span.codes.tolist()
            assert found.position[inside].tolist() == list(range(length))
            continue
        assert (ids[start], ids[start + length - 1]) == (vocabulary.opener(name), vocabulary.closer(name))
        modality = vocabulary.modality(name)
        digits = factor(span.codes, modality.spec.levels, modality.factors)
        cells = digits.reshape(-1, digits.shape[-1])
        is_code = found.level[inside] >= 0
        assert is_code.sum() == digits.size
        assert (found.position[inside] >= 0).tolist() == is_code.tolist()
        codes = vocabulary.describe(document.ids[inside]).code[is_code]
        assert (cells[found.position[inside][is_code], found.level[inside][is_code]] == codes).all()
    assert (found.modality[outside] == -1).all()
    assert (found.position[outside] == -1).all()
    assert (found.level[outside] == -1).all()


def test_a_document_by_hand(grammar: Grammar) -> None:
    """The worked example of docs/grammar.md."""
    picture = np.array([[[3, 1], [0, 7]]])  # [height 1, width 2, levels 2]
    turns = [Turn(None, [Span("text", np.array([4, 2])), Span("image", picture), Span("text", np.array([9]))])]
    document = grammar.serialise(turns)
    names = [grammar.vocabulary.name(token) for token in document.ids.tolist()]
    assert names == [
        "bos", "text 4", "text 2", "image open", "size 1", "size 2",
        "image code 3 of level 0", "image code 1 of level 1", "image code 0 of level 0", "image code 7 of level 1",
        "image close", "text 9", "eos",
    ]  # fmt: skip
    assert document.ids.tolist() == [11, 4, 2, 23, 17, 18, 28, 42, 25, 48, 24, 9, 12]
    assert document.spans == [("text", 1, 2), ("image", 3, 8), ("text", 11, 1)]
    assert document.loss.tolist() == [False] + [True] * 12


def test_loss_by_hand(grammar: Grammar) -> None:
    text = np.array([1, 2])
    picture = np.array([[[0], [0]]]).reshape(2, 1, 1)

    def loss(*turns: Turn) -> str:
        return "".join("x" if flag else "." for flag in grammar.serialise(list(turns)).loss)

    assert loss(Turn(None)) == ".x"
    assert loss() == ".x"
    assert loss(Turn(None, [Span("text", text, loss=False), Span("icon", picture)])) == "." + ".." + "xxxx" + "x"
    assert loss(Turn(None, [Span("icon", picture), Span("text", text, loss=False)])) == "." + "xxxx" + ".." + "."
    user, assistant = Turn("user", [Span("text", text, loss=False)]), Turn("assistant", [Span("text", text)])
    assert loss(user, assistant) == "." + "...." + ".xxx" + "."
    assert loss(Turn("user"), Turn("assistant"), Turn("assistant", user.spans)) == "." + ".." + ".x" + "...." + "."
    assert loss(Turn("user", [Span("text", text)])) == "." + ".xxx" + ".", (
        "whoever asks for loss on a user's words gets it"
    )


def test_normal_form_by_hand() -> None:
    empty, one, two = (np.array(ids, dtype=np.int32) for ids in ([], [1], [2, 3]))
    icon = Span("icon", np.zeros((2, 1, 1), dtype=np.int8))
    turns = [
        Turn("user", [Span("text", one, False), Span("text", empty), Span("text", two), icon, Span("text", empty)])
    ]
    assert normalise(turns) == [Turn("user", [Span("text", np.array([1, 2, 3])), icon])]
    assert normalise(turns)[0].spans[1].codes.dtype == np.int64
    assert normalise([]) == normalise([Turn(None)]) == [Turn(None)]
    assert turns[0].spans[0].codes.tolist() == [1], "what was given is left as it was"


def test_what_is_no_document_is_refused(grammar: Grammar) -> None:
    def refused(span: Span, message: str) -> None:
        with pytest.raises(GrammarError, match=message):
            grammar.serialise([Turn(None, [span])])

    zeros = lambda *shape: np.zeros(shape, dtype=np.int64)  # noqa: E731
    refused(Span("speech", zeros(4, 2)), "speech: axis 'time' may be 1 to 3 long, got 4")
    refused(Span("speech", zeros(0, 2)), "speech: axis 'time' may be 1 to 3 long, got 0")
    refused(Span("image", zeros(6, 7, 2)), "image: axis 'width' may be 1 to 6 long, got 7")
    refused(Span("icon", zeros(1, 1, 1)), "icon: axis 'height' is always 2 long, got 1")
    refused(Span("image", zeros(6, 2)), r"image: codes must be \[height, width, 2 levels\], got shape \[6, 2\]")
    refused(Span("image", zeros(6, 6, 3)), r"got shape \[6, 6, 3\]")
    refused(Span("image", np.zeros((6, 6, 2))), "image: codes must be integers, got float64")
    refused(Span("image", zeros(6, 6, 2) + np.array([16, 0])), "image: level 0 has codes 0 to 15, got 16")
    refused(Span("image", zeros(6, 6, 2) - np.array([0, 1])), "image: level 1 has codes 0 to 7, got -1")
    refused(Span("video", zeros(1)), "no modality 'video' in this vocabulary; it has: text, image, speech, icon")
    refused(Span("text", np.array([3, 10])), "text ids are 0 to 9, got 10")
    refused(Span("text", np.array([-1])), "text ids are 0 to 9, got -1")
    refused(Span("text", np.array([[1]])), "text must be integer ids")
    refused(Span("text", np.array([1.0])), "text must be integer ids")
    with pytest.raises(GrammarError, match="no role 'tool' in a chat; the roles are: system, user, assistant"):
        grammar.serialise([Turn("tool")])
    with pytest.raises(GrammarError, match="no role None in a chat"):
        grammar.serialise([Turn("user"), Turn(None)])
    with pytest.raises(GrammarError, match="a document without roles is one turn"):
        grammar.serialise([Turn(None), Turn("user")])


def test_truncated_spans_say_where(grammar: Grammar) -> None:
    ids = grammar.serialise([Turn(None, [Span("text", np.array([1])), Span("image", np.zeros((2, 2, 2), int))])]).ids
    for end, message in (
        (0, "position 0: ids end where the grammar expects bos"),
        (3, "position 3: ids end .* size of image axis 'height', 1 to 6, in the image span that begins at 2"),
        (9, "position 9: ids end .* image code of level 0, in the image span that begins at 2"),
        (13, "position 13: ids end .* image close, in the image span that begins at 2"),
        (14, "position 14: ids end .* or eos$"),
    ):
        with pytest.raises(GrammarError, match=message):
            grammar.parse(ids[:end])


LINES = ["a <image> of <s> and </s> in <0x41>", "the quick brown fox", "bos eos pad image open size 1"] * 5
TEXT = TextTokenizer.train(LINES, 300)


@given(st.lists(st.text() | st.sampled_from(["<image>", "<s>", "</s>", "bos", "<0x41>", "\0", "image open", "\u2581"])))
def test_no_text_injects_an_id(texts: list[str]) -> None:
    """Whatever a user types is text ids: it opens no span, ends no turn, and reads back as typed."""
    vocabulary = Vocabulary.build(TEXT.size, TEXT.fingerprint, [(IMAGE, "bb")], max_size=6)
    grammar = Grammar(vocabulary)
    spans = [Span("text", np.array(TEXT.encode(text), dtype=np.int64)) for text in texts]
    ids = grammar.serialise([Turn("user", spans)]).ids
    assert (vocabulary.describe(ids[2:-2]).modality == 0).all()
    (turn,) = grammar.parse(ids)
    assert "".join(TEXT.decode(span.codes.tolist()) for span in turn.spans) == "".join(texts)
    assert len(turn.spans) <= 1
