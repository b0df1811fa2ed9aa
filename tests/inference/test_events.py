"""Events of a reply: whole characters, chunks that are the medium, and the same parts however ids are fed."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyglot.config import typed
from anyglot.data.documents import Part
from anyglot.errors import GrammarError, MediaError
from anyglot.inference.events import EventStream, Finish, MediaChunk, MediaReady, SpanStart, parts_of
from anyglot.lm.grammar import Grammar, Span, Turn
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.text import TextTokenizer
from anyglot.tokenizers.video import VideoConfig, VideoTokenizer
from tests.inference.bundles import WORDS, make_tokenizers

FRAMES = 7  # of speech: three chunks of two, and one frame


@pytest.fixture(scope="module")
def pieces():
    return TextTokenizer.train(WORDS * 20, size=300), make_tokenizers()


def model_of(pieces, stream="frame", factors=1):
    """What an event stream needs of a model: all but the language model."""
    text, media = pieces
    specs = [(tokenizer.spec, tokenizer.modality) for tokenizer in media]
    streams = {"streams": {"speech": stream}, "factors": {"speech": factors}}
    vocabulary = Vocabulary.build(text.size, text.fingerprint, specs, max_size=8, **streams)
    return SimpleNamespace(
        grammar=Grammar(vocabulary), text=text, tokenizers={tokenizer.modality: tokenizer for tokenizer in media}
    )


def document(model, *spans):
    """Ids of a plain document, from its bos to its eos."""
    return model.grammar.serialise([Turn(None, list(spans))]).ids.tolist()


def words(model, text):
    return Span("text", np.array(model.text.encode(text)))


def speech(frames=FRAMES):
    return Span("speech", np.random.default_rng(1).integers(0, 16, (frames, 2)))


def picture():
    return Span("image", np.random.default_rng(2).integers(0, 200, (2, 3, 1)))


def fed(stream, ids, size):
    """Events of ids that come `size` at a time, and of the end."""
    events = [event for start in range(0, len(ids), size) for event in stream.feed(ids[start : start + size])]
    return events + stream.finish("stop")


def same(one: list[Part], other: list[Part]) -> bool:
    return len(one) == len(other) and all(
        (a.type, a.text) == (b.type, b.text) and np.array_equal(a.data, b.data) and np.array_equal(a.codes, b.codes)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(("stream", "factors"), [("frame", 1), ("level", 1), ("delay", 1), ("depth", 1), ("delay", 2)])
def test_chunks_are_exactly_the_sound_that_is_decoded_at_once(pieces, stream, factors, size):
    model = model_of(pieces, stream, factors)
    spans = [words(model, "a red kite"), speech(), picture(), speech(4), words(model, "the sun")]
    ids = document(model, *spans)
    told = EventStream(model, ids[:1])
    events = fed(told, ids[1:], size)
    assert events[-1] == Finish("stop", 1, len(ids) - 1)
    assert [e.index for e in events if isinstance(e, SpanStart)] == [1, 2, 3]
    assert [e.modality for e in events if isinstance(e, SpanStart)] == ["speech", "image", "speech"]
    for index, span in ((1, spans[1]), (3, spans[3])):
        (whole,) = model.tokenizers["speech"].decode([torch.from_numpy(span.codes)])
        chunks = [e for e in events if isinstance(e, MediaChunk) and e.index == index]
        assert np.array_equal(np.concatenate([chunk.data for chunk in chunks]), whole)
        assert {(chunk.modality, chunk.rate) for chunk in chunks} == {("speech", 800)}
        assert np.array_equal(told.parts[index].data, whole)
        assert np.array_equal(told.parts[index].codes, span.codes)
    assert [part.type for part in told.parts] == ["text", "speech", "image", "speech", "text"]
    assert (told.parts[0].text, told.parts[4].text) == ("a red kite", "the sun")
    assert np.array_equal(told.parts[2].data, model.tokenizers["image"].decode([torch.from_numpy(spans[2].codes)])[0])
    assert same(told.parts, parts_of(events))
    assert [e.index for e in events if isinstance(e, MediaReady)] == [1, 2, 3]


@pytest.mark.parametrize(("stream", "codes"), [("frame", 4), ("depth", 4), ("delay", 1 + 2 + 2), ("level", FRAMES + 2)])
def test_sound_is_heard_as_soon_as_the_frames_of_a_chunk_are_whole(pieces, stream, codes):
    """The first chunk is of two frames of two levels: four codes, and those that the stream puts before them."""
    model = model_of(pieces, stream)
    ids = document(model, speech())
    told = EventStream(model, ids[:1])
    heard = [count for count, token in enumerate(ids[1:]) if any(isinstance(e, MediaChunk) for e in told.feed([token]))]
    assert heard[0] == codes  # id 0 opens the span
    assert len(heard) == 4  # three chunks, and the end


@pytest.mark.parametrize("stream", ["frame", "delay"])
def test_a_film_comes_by_the_frames_of_each_code(pieces, stream):
    """Its codes are [time, rows, columns, levels]; the first is of one frame, each further one of two."""
    network = {"patch": 2, "channels": [8, 8], "halve_time": [True], "blocks": 1, "decoder_blocks": 1, "groups": 4}
    quantizer = {"type": "residual", "levels": 2, "inner": {"type": "vq", "size": 16, "kmeans_init": False}}
    config = {"network": network, "quantizer": quantizer, "dim": 6, "max_side": 32, "max_frames": 9}
    film = VideoTokenizer(typed(VideoConfig, config)).eval()
    text, _ = pieces
    vocabulary = Vocabulary.build(text.size, text.fingerprint, [(film.spec, "film")], 8, {"video": stream})
    model = SimpleNamespace(grammar=Grammar(vocabulary), text=text, tokenizers={"video": film})
    span = Span("video", np.random.default_rng(3).integers(0, 16, (4, 2, 3, 2)))
    ids = document(model, span)
    told = EventStream(model, ids[:1])
    events = [(count, event) for count, token in enumerate(ids[1:]) for event in told.feed([token])]
    assert events[0][1] == SpanStart(0, "video", (0, 2, 3))
    chunks = [(count, event.data) for count, event in events if isinstance(event, MediaChunk)]
    assert [len(data) for _, data in chunks] == [1, 2, 2, 2]
    row, before = 2 * 3, 3  # cells of a frame; opener and header
    first = row * (2 if stream == "frame" else 3) - 1  # with delay, level 0 of the second frame stands between
    assert chunks[0][0] == before + first
    assert [event.rate for _, event in events if isinstance(event, MediaChunk)] == [8.0] * 4
    (part,) = told.parts
    assert np.array_equal(part.data, np.concatenate([data for _, data in chunks]))
    (whole,) = film.decode([torch.from_numpy(span.codes)])
    assert part.data.shape == whole.shape == (7, *whole.shape[1:])
    assert np.abs(part.data.astype(int) - whole).max() <= 1


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=30), cuts=st.lists(st.integers(1, 5), max_size=20))
def test_text_comes_by_whole_characters(pieces, text, cuts):
    model = model_of(pieces)
    ids = document(model, words(model, text))[1:]
    told, events = EventStream(model, [model.grammar.vocabulary.bos]), []
    for cut in [*cuts, len(ids)]:
        events += told.feed(ids[:cut])
        ids = ids[cut:]
        said = "".join(e.text for e in events)
        assert said == text[: len(said)]  # no half character, and so no replacement of one
        assert [part.text for part in told.parts] == [said] * bool(said)
    assert told.finish("stop")[:-1] == []
    assert said == text


@settings(max_examples=30, deadline=None)
@given(data=st.binary(min_size=1, max_size=12))
def test_bytes_that_are_no_text_become_what_decoding_makes_of_them(pieces, data):
    model = model_of(pieces)
    spelt = [model.text.engine.byte_ids[byte] for byte in data]
    ids = document(model, Span("text", np.array(spelt)), picture())
    (said, _) = parts_of(fed(EventStream(model, ids[:1]), ids[1:], 1))
    assert said.text == model.text.decode(spelt)
    cut_off = parts_of(fed(EventStream(model, ids[:1]), ids[1 : 1 + len(spelt)], 1))
    assert same(cut_off, [said])


def test_a_span_that_the_prompt_begins_is_of_the_reply(pieces):
    model = model_of(pieces)
    ids = document(model, words(model, "what"), speech(3), words(model, "is this?"), speech())
    (whole,) = model.tokenizers["speech"].decode([torch.from_numpy(speech().codes)])
    for cut in (len(ids) - 14, len(ids) - 7):  # before a code is written, and in the middle
        events = fed(EventStream(model, ids[:cut]), ids[cut:], 1)
        assert events[0] == SpanStart(0, "speech", (0,))
        (part,) = parts_of(events)
        assert np.array_equal(part.data, whole)
        assert events[-1] == Finish("stop", cut, len(ids) - cut)


def test_what_is_cut_off_is_no_part(pieces):
    model = model_of(pieces)
    ids = document(model, words(model, "the sun"), speech())
    told = EventStream(model, ids[:1])
    events = told.feed(ids[1:-4]) + told.finish("cancelled")
    assert any(isinstance(event, MediaChunk) for event in events)
    assert events[-1] == Finish("cancelled", 1, len(ids) - 5)
    assert [part.text for part in told.parts] == ["the sun"]


def test_codes_that_stand_for_nothing_cost_their_medium_alone(pieces, monkeypatch, caplog):
    def refuse(codes):
        raise MediaError("no such picture")

    model = model_of(pieces)
    monkeypatch.setattr(model.tokenizers["image"], "decode", refuse)
    ids = document(model, picture(), words(model, "the sun"))
    events = fed(EventStream(model, ids[:1]), ids[1:], 2)
    ready = next(event for event in events if isinstance(event, MediaReady))
    assert (ready.part.data, ready.part.codes.shape) == (None, (2, 3, 1))
    assert parts_of(events)[1].text == "the sun"
    assert "image codes that stand for nothing: no such picture" in caplog.text


def test_ids_that_are_no_document_are_refused(pieces):
    model = model_of(pieces)
    bos = model.grammar.vocabulary.bos
    with pytest.raises(GrammarError, match="position 1"):
        EventStream(model, [bos, bos])
    with pytest.raises(GrammarError, match="position 1"):
        EventStream(model, [bos]).feed([bos])
