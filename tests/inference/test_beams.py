"""Beams over a catalogue: the same as scoring every code by itself, and never a code that there is not."""

import itertools

import numpy as np
import pytest
import torch

from anyglot.errors import AnyglotError, GrammarError
from anyglot.inference.beams import beam_search
from anyglot.inference.decode import Request
from anyglot.inference.decoder import Decoder
from anyglot.inference.trie import Trie
from anyglot.lm.grammar import Grammar, Span, Turn
from anyglot.lm.model import ModelConfig, build_model
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.spec import Axis, CodeSpec

LEVELS = (4, 5, 3)


@pytest.fixture(scope="module", params=[{}, {"norm": "sandwich", "logit_softcap": 2.0}], ids=["plain", "capped"])
def decoder(request):
    specs = [(CodeSpec("image", (6,), (Axis("width", "fixed", 3),)), "i"), (CodeSpec("item", LEVELS, ()), "j")]
    vocabulary = Vocabulary.build(10, "t", specs)
    shape = ModelConfig(hidden=32, layers=2, heads=2, max_length=64, **request.param)
    model = build_model(shape, vocabulary.size, seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # sharper answers than a fresh model's
    return Decoder(model, Grammar(vocabulary))


def some_codes(count, seed=0):
    every = np.array(list(itertools.product(*map(range, LEVELS))))
    return every[np.random.default_rng(seed).permutation(len(every))[:count]]


def prompts(decoder, lengths):
    codes = some_codes(sum(lengths), seed=5)
    found = []
    for length in lengths:
        spans, codes = [Span("item", code) for code in codes[:length]], codes[length:]
        found.append(decoder.automaton.serialise([Turn(None, spans)]).ids[:-1].tolist())
    return found


@torch.no_grad()
def scored_one_by_one(decoder, prompt, codes):
    """log-probability of each code among all, by a forward of its own."""
    rules = decoder.automaton.rules_of("item")
    found = {}
    for code in codes.tolist():
        ids = [*prompt, rules.opener, *(rules.symbols[level][0] + c for level, c in enumerate(code))]
        logits = decoder.model(torch.tensor([ids])).logits[0, len(prompt) :]
        total = 0.0
        for level, c in enumerate(code):
            may_follow = sorted({other[level] for other in codes.tolist() if other[:level] == code[:level]})
            low = rules.symbols[level][0]
            total += float(logits[level, [low + m for m in may_follow]].log_softmax(0)[may_follow.index(c)])
        found[tuple(code)] = total
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def test_wide_beams_find_what_scoring_every_code_finds(decoder):
    codes = some_codes(17)
    asked = prompts(decoder, [0, 3, 1])
    answers = beam_search(decoder, asked, "item", Trie(codes), beams=100)  # far more than there are
    for prompt, beams in zip(asked, answers, strict=True):
        wanted = scored_one_by_one(decoder, prompt, codes)
        assert [beam.codes for beam in beams] == list(wanted)
        np.testing.assert_allclose([beam.score for beam in beams], list(wanted.values()), atol=1e-4)
        assert sum(np.exp(beam.score) for beam in beams) == pytest.approx(1, abs=1e-4)  # shared out among all codes


def test_narrow_beams_are_sorted_valid_and_the_same_alone_and_again(decoder):
    codes = some_codes(30)
    known = set(map(tuple, codes.tolist()))
    asked = prompts(decoder, [4, 0, 2])
    trie = Trie(codes)
    answers = beam_search(decoder, asked, "item", trie, beams=4)
    for prompt, beams in zip(asked, answers, strict=True):
        assert len(beams) == 4
        assert {beam.codes for beam in beams} <= known
        assert [beam.score for beam in beams] == sorted((beam.score for beam in beams), reverse=True)
        wanted = scored_one_by_one(decoder, prompt, codes)
        np.testing.assert_allclose([b.score for b in beams], [wanted[b.codes] for b in beams], atol=1e-4)
        (alone,) = beam_search(decoder, [prompt], "item", trie, beams=4)
        assert [beam.codes for beam in alone] == [beam.codes for beam in beams]
    assert beam_search(decoder, asked, "item", trie, beams=4) == answers  # nothing is kept from call to call


def test_what_is_excluded_is_never_written_and_leaves_scores_as_they_are(decoder):
    codes = some_codes(20)
    trie = Trie(codes)
    (prompt,) = prompts(decoder, [2])
    wanted = scored_one_by_one(decoder, prompt, codes)
    seen = np.array(list(wanted)[:7])  # the likeliest, whole prefixes among them
    (beams,) = beam_search(decoder, [prompt], "item", trie, 50, [trie.without(seen)])
    assert [beam.codes for beam in beams] == list(wanted)[7:]
    np.testing.assert_allclose([beam.score for beam in beams], list(wanted.values())[7:], atol=1e-4)
    (few,) = beam_search(decoder, [prompt], "item", trie, 1, [trie.without(np.array(list(wanted)[1:]))])
    assert [beam.codes for beam in few] == list(wanted)[:1]  # a single way to go is found by a single beam


def test_what_is_allowed_but_not_in_the_catalogue_is_never_written(decoder):
    codes = some_codes(20)
    (prompt,) = prompts(decoder, [2])
    (beams,) = beam_search(decoder, [prompt], "item", Trie(codes[:12]), 50, [Trie(codes[8:])])
    assert {beam.codes for beam in beams} == set(map(tuple, codes[8:12].tolist()))


def test_a_trie_knows_whole_prefixes_not_pairs():
    codes = np.array([[0, 1, 2], [3, 1, 0], [0, 2, 0], [0, 1, 1], [0, 1, 1]])
    trie = Trie(codes)
    assert len(trie) == 4
    for length in range(4):
        for prefix in itertools.product(range(4), repeat=length):
            twin = {code[length] for code in codes.tolist() if length < 3 and tuple(code[:length]) == prefix}
            assert trie.children(prefix).tolist() == sorted(twin)
    assert trie.children((3, 1)).tolist() == [0]  # after (0, 1) come 1 and 2: pairs of levels would allow them here
    assert trie.without(np.array([[0, 1, 1], [0, 2, 0]])).children((0,)).tolist() == [1]
    with pytest.raises(AnyglotError, match="one medium or more"):
        trie.without(codes)


def test_wrong_uses_are_named(decoder):
    trie = Trie(some_codes(5))
    (prompt,) = prompts(decoder, [1])
    with pytest.raises(AnyglotError, match="beams must be 1 or more"):
        beam_search(decoder, [prompt], "item", trie, 0)
    with pytest.raises(AnyglotError, match="media of one stack of codes"):
        beam_search(decoder, [prompt], "image", trie, 2)
    with pytest.raises(AnyglotError, match="leaves no room.*shorten the history"):
        beam_search(decoder, [[prompt[0], *[1] * 62]], "item", trie, 2)
    with pytest.raises(GrammarError, match="bos"):
        beam_search(decoder, [prompt[1:]], "item", trie, 2)
    assert beam_search(decoder, [], "item", trie, 2) == []


def test_sampling_writes_only_what_the_catalogue_has(decoder):
    codes = some_codes(7)
    known = set(map(tuple, codes.tolist()))
    asked = prompts(decoder, [0, 2, 5])
    requests = [Request(prompt, ("item",), spans=1, seed=seed) for prompt in asked for seed in range(12)]
    free = written_codes(decoder, requests)
    assert not set(free) <= known  # left alone, it writes others
    bound = Decoder(decoder.model, decoder.automaton, catalogues={"item": Trie(codes)})
    assert set(written_codes(bound, requests)) <= known
    begun = [*asked[0], decoder.automaton.rules_of("item").opener, codes_as_ids(decoder, codes[3])[0]]
    (code,) = written_codes(bound, [Request(begun, ("item",), spans=1)], offset=1)
    assert (int(codes[3, 0]), *code) in known  # also where the prompt has begun one


def codes_as_ids(decoder, code):
    rules = decoder.automaton.rules_of("item")
    return [rules.symbols[level][0] + int(c) for level, c in enumerate(code)]


def written_codes(decoder, requests, offset=0):
    """The codes of the span that each request wrote; offset: how many of them its prompt had."""
    rules = decoder.automaton.rules_of("item")
    starts = [rules.symbols[level][0] for level in range(offset, len(LEVELS))]
    found = []
    for ids in decoder.write(requests):
        line = ids[:-1] if offset else ids[1:-1]
        found.append(tuple(token - start for token, start in zip(line, starts, strict=True)))
    return found
