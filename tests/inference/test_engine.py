"""The engine: whatever stands beside it, a request gets what it gets alone and computed the slow way."""

import numpy as np
import pytest
import torch

from anyglot.errors import AnyglotError, ConfigError, GrammarError
from anyglot.inference.cache import KeyValueCache
from anyglot.inference.decode import Request
from anyglot.inference.decoder import Decoder
from anyglot.inference.engine import Engine, Written
from anyglot.inference.head import cut_of, logits_of
from anyglot.inference.sampling import SamplingConfig
from anyglot.lm.depth import DepthConfig, build_depth
from anyglot.lm.grammar import Grammar
from anyglot.lm.model import ModelConfig, build_model
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.spec import Axis, CodeSpec
from tests.inference.engine_twin import slow_write

IMAGE = CodeSpec("image", (30,), (Axis("height", "sized", 3), Axis("width", "sized", 4)))
SPEECH = CodeSpec("speech", (14, 16), (Axis("time", "open", 9),))
GREEDY = {name: SamplingConfig(temperature=0) for name in ("text", "image", "speech")}


def made(depth=False, length=256):
    streams = {"speech": "depth" if depth else "delay"}
    vocabulary = Vocabulary.build(40, "t", [(IMAGE, "i"), (SPEECH, "s")], max_size=4, streams=streams)
    shape = ModelConfig(hidden=32, layers=2, heads=4, key_value_heads=2, max_length=length)
    model = build_model(shape, vocabulary.size, seed=0).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(10)
    levels = build_depth(DepthConfig(hidden=16, layers=1, heads=2), vocabulary, 32, 0) if depth else None
    return Decoder(model, Grammar(vocabulary), depth=levels)


@pytest.fixture(scope="module")
def decoder():
    return made()


def prompt(decoder, *text):
    return [decoder.vocabulary.bos, *text]


def requests(decoder):
    """Of every kind."""
    nucleus, narrow = SamplingConfig(0.8, 0, 0.7), SamplingConfig(1.0, 5, 1.0, 1.5)
    a, b, c = prompt(decoder, 1, 2, 3), prompt(decoder, 4, *range(20)), prompt(decoder)
    begun = [*a, decoder.vocabulary.opener("speech"), decoder.automaton.rules_of("speech").symbols[0][0]]
    return [
        Request(a, ("image",), 1, seed=1),
        Request(b, ("speech",), 2, seed=2, sampling={"speech": nucleus}),
        Request(c, ("text",), max_tokens=9, seed=3, sampling={"text": narrow}),
        Request(b, max_tokens=25, seed=4),
        Request(a, ("image",), 1, sampling=GREEDY),
        Request(a, ("speech",), 1, max_tokens=7, sampling=GREEDY),
        Request(a, ("image",), 1, seed=5, guidance=3.0),
        Request(a, ("image", "speech"), 2, sampling=GREEDY, guidance=2.0, negative=prompt(decoder, 30, 31, 32, 33)),
        Request(b, ("image",), 2, seed=6, guidance=1.5, conditions=[(prompt(decoder, 7), 0.5), (a, -0.25)]),
        Request(a, max_tokens=20, seed=7, guidance=0.5, guide_text=True, sampling={"text": narrow}),
        Request(begun, ("speech",), 1, seed=8, guidance=2.0),
        Request(b, ("image",), 1, seed=1, sampling={"image": SamplingConfig(2.0, 0, 1.0, 3.0)}),
    ]


def drive(engine, asked, random):
    """Submit requests at random times; the ids and the finish of each."""
    waiting, found, tickets = list(range(len(asked))), {}, {}
    random.shuffle(waiting)
    most = 0
    while waiting or engine.busy:
        while waiting and random.random() < 0.5:
            number = waiting.pop()
            tickets[engine.submit(asked[number])] = number
            found[number] = ([], "")
        for written in engine.step():
            ids, finish = found[tickets[written.ticket]]
            assert not finish
            found[tickets[written.ticket]] = ([*ids, *written.ids], written.finish)
        most = max(most, engine.running)
    assert (engine.running, engine.waiting) == (0, 0)
    return [found[number] for number in range(len(asked))], most


@pytest.mark.parametrize(("slots", "chunk", "reserve"), [(4, 3, True), (7, 1, False), (30, 100, True)])
def test_what_a_request_gets_is_what_the_slow_way_gives_it_alone(decoder, slots, chunk, reserve):
    asked = requests(decoder)
    expected = [slow_write(decoder, request) for request in asked]
    assert {finish for _, finish in expected} == {"stop", "length"}
    found, most = drive(Engine(decoder, slots, chunk=chunk, reserve=reserve), asked, np.random.default_rng(slots))
    assert found == expected
    assert most > 2
    assert decoder.write(asked) == [ids for ids, _ in expected]


def test_more_requests_than_slots_wait(decoder, monkeypatch):
    asked = requests(decoder)
    together = decoder.write(asked)
    monkeypatch.setattr("anyglot.inference.decoder.SLOTS", 2)  # a request of four rows still gets them
    assert decoder.write(asked) == together
    assert decoder.write([]) == []


def test_guidance_changes_what_is_written(decoder):
    first = [Request(prompt(decoder, 1, 2, 3), ("image",), 1, seed=seed) for seed in range(5)]
    for change in ({"guidance": 4.0}, {"conditions": [(prompt(decoder, 9), 2.0)]}):
        assert decoder.write([Request(r.prompt, r.modalities, 1, seed=r.seed, **change) for r in first]) != (
            decoder.write(first)
        )


@pytest.mark.parametrize("slots", [2, 5])
def test_depth_streams_join_and_leave_too(slots):
    decoder = made(depth=True)
    asked = [
        Request(prompt(decoder, *range(length)), ("speech",), 2, max_tokens=15, sampling=GREEDY, guidance=guidance)
        for length, guidance in ((0, 1.0), (9, 1.0), (3, 2.0), (5, 1.0), (1, 3.0))
    ]
    asked.append(Request(prompt(decoder, 1), max_tokens=12, seed=1))
    expected = [decoder.write([request])[0] for request in asked]
    found, _ = drive(Engine(decoder, slots, chunk=2), asked, np.random.default_rng(0))
    assert [ids for ids, _ in found] == expected


def test_a_long_prompt_holds_up_nobody(decoder):
    engine = Engine(decoder, slots=3, chunk=4)
    short = engine.submit(Request(prompt(decoder, 1), ("speech",), 10, seed=1))
    engine.step()
    long = engine.submit(Request(prompt(decoder, *[2] * 60), ("text",), max_tokens=40, seed=2))
    for _ in range(14):
        assert [written.ticket for written in engine.step()] == [short]
    tickets = {written.ticket for _ in range(3) for written in engine.step()}
    assert tickets == {short, long}


def test_a_cancelled_request_frees_its_slots(decoder):
    engine = Engine(decoder, slots=3, chunk=8)
    kept = Request(prompt(decoder, 1, 2), ("speech",), 3, sampling=GREEDY)
    guided = Request(prompt(decoder, *range(30)), ("image",), 2, seed=1, guidance=2.0)
    first, second, third = engine.submit(guided), engine.submit(kept), engine.submit(guided)
    assert (engine.running, engine.waiting) == (0, 3)
    ids = []
    for number in range(200):
        for written in engine.step():
            if written.ticket == second:
                ids += written.ids
            else:
                assert written in (Written(first, (), "cancelled"), Written(third, (), "cancelled"))
        if number == 1:
            assert (engine.running, engine.waiting) == (2, 1)
            engine.cancel(first)  # while its prompts are being read
            engine.cancel(third)  # while it waits
            engine.cancel(99)
            assert (engine.running, engine.waiting) == (1, 0)
        if not engine.busy:
            break
    assert ids == decoder.write([kept])[0]
    engine.cancel(second)  # which has finished
    assert not engine.busy
    engine.submit(kept)
    engine.step()
    engine.cancel(3)
    assert engine.step() == [Written(3, (), "cancelled")]
    assert engine.step() == []


def test_a_shorter_engine_ends_what_it_begins(decoder):
    engine = Engine(decoder, slots=2, length=20)
    for seed in range(6):
        engine.submit(Request(prompt(decoder, 1, 2), seed=seed))
    written = {}
    while engine.busy:
        for step in engine.step():
            written.setdefault(step.ticket, []).extend(step.ids)
    for ids in written.values():
        assert 3 + len(ids) <= 20
        assert not decoder.automaton.advance_all([*prompt(decoder, 1, 2), *ids]).modality


@pytest.mark.parametrize("depth", [False, True])
def test_memory_is_set_aside_as_rows_come_to_need_it(depth):
    """Also while others are being written, which lose nothing by it."""
    decoder = made(depth)
    asked = [Request(prompt(decoder, *range(most // 3)), max_tokens=most, seed=most) for most in (3, 30, 100)]
    engine, tickets, found, lengths = Engine(decoder, slots=3, reserve=False), [], {}, [0]
    cache = engine._reader.cache
    while engine.busy or len(tickets) < 3:
        if len(tickets) < 3:
            tickets.append(engine.submit(asked[len(tickets)]))
        for written in engine.step():
            found.setdefault(written.ticket, []).extend(written.ids)
        lengths.append(cache.length)
        assert lengths[-1] == max(lengths[-2], 1 << (max(cache.filled) - 1).bit_length())
    assert 0 < lengths[1] < lengths[2] < lengths[-1]
    for ticket, request in zip(tickets, asked, strict=True):
        alone = Engine(decoder, slots=1)  # with all its memory from the beginning
        alone.submit(request)
        written = []
        while alone.busy:
            written += [token for step in alone.step() for token in step.ids]
        assert alone._reader.cache.length == 256
        assert found[ticket] == written


def test_what_can_never_be_served_is_refused_at_once(decoder):
    engine, a = Engine(decoder, slots=2, length=50), prompt(decoder, 1)
    opener = decoder.vocabulary.opener("image")
    for request, error, message in (
        (Request(prompt(decoder, *[1] * 60)), AnyglotError, "61 tokens, the model reads at most 50"),
        (Request(a, guidance=2.0, negative=prompt(decoder, *[1] * 60)), AnyglotError, "61 tokens"),
        (Request([1, 2]), GrammarError, "bos"),
        (Request([*a, decoder.vocabulary.eos]), AnyglotError, "a whole document"),
        (Request(a, ("video",)), AnyglotError, "no modality 'video'"),
        (Request(a, max_tokens=0), AnyglotError, "max_tokens 0 must be 1 or more"),
        (Request(a, sampling={"video": SamplingConfig()}), AnyglotError, "sampling of 'video'"),
        (Request(a, conditions=[(a, 1.0)]), AnyglotError, "by 3 prompts at once, there are 2 slots"),
        (Request(a, negative=a), AnyglotError, "needs a guidance other than 1"),
        (Request(a, guidance=float("nan")), AnyglotError, "must be finite"),
        (Request(a, guidance=2.0, negative=[*a, opener]), AnyglotError, "end all alike"),
    ):
        with pytest.raises(error, match=message):
            engine.submit(request)
    assert not engine.busy
    with pytest.raises(ConfigError, match="slots and chunk of 1 or more"):
        Engine(decoder, slots=0)


def test_rows_are_no_longer_than_what_every_layer_sees():
    decoder = made()
    assert decoder.limit == 256
    decoder.model.config.sliding_window = 40
    assert Decoder(decoder.model, decoder.automaton).limit == 256  # of no layer
    decoder.model.config.layer_types = ["full_attention", "sliding_attention"]
    assert Decoder(decoder.model, decoder.automaton).limit == 40


def test_a_slot_keeps_what_it_read_when_it_moves():
    cache, rows = KeyValueCache(3, 6), torch.randn(3, 2, 4, 5)  # [rows, heads, new, head_dim]
    cache.place([0, 1, 2], [4, 2, 3], rows.device)
    cache.update(rows, rows + 1, 0)
    cache.swap(0, 2)
    cache.swap(1, 1)
    assert cache.filled == [3, 2, 4]
    more = torch.randn(2, 2, 1, 5)
    cache.place([2, 0], [1, 1], rows.device)
    keys, values = cache.update(more, more + 1, 0)
    assert torch.equal(keys[0], torch.cat([rows[0], more[0]], 1))
    assert torch.equal(values[1, :, :4], torch.cat([rows[2, :, :3], more[1]], 1) + 1)
    cache.clear(0)
    cache.place([0, 1], [1, 1], rows.device)
    keys, _ = cache.update(more, more, 0)
    assert cache.filled == [1, 3, 5]
    assert torch.equal(keys[0, :, :1], more[0])
    assert torch.equal(keys[1], torch.cat([rows[1, :, :2], more[1]], 1))


def test_a_cache_that_grows_keeps_what_it_has():
    cache, rows, more = KeyValueCache(2, 3), torch.randn(2, 2, 3, 5), torch.randn(2, 2, 2, 5)
    cache.place([0, 1], [3, 2], rows.device)
    cache.update(rows, rows + 1, 0)
    assert cache.length == 3
    assert cache.place([0, 1], [1, 2], rows.device).tolist() == [[3, 4], [2, 3]]  # 4: nobody reads it
    assert cache.length == 4
    keys, values = cache.update(more, more + 1, 0)
    assert torch.equal(keys[0], torch.cat([rows[0], more[0, :, :1]], 1))
    assert torch.equal(values[1], torch.cat([rows[1, :, :2], more[1]], 1) + 1)


def test_the_cut_head_says_what_the_whole_one_says():
    head, hidden = torch.randn(5000, 8), torch.randn(3, 8)
    for ranges in (
        ((7, 40),),
        ((0, 2000), (2100, 2101), (4000, 4500), (4501, 4502)),
        ((0, 1), (600, 601), (4999, 5000)),
    ):
        cut = cut_of(ranges, head.device)
        wanted = [token for low, high in ranges for token in range(low, high)]
        assert cut.ids.tolist() == wanted
        capped = 2 * torch.tanh(hidden @ head[wanted].T / 2)
        torch.testing.assert_close(logits_of(hidden, head, 2.0, cut), capped)
