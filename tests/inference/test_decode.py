"""Generation under the grammar: always a document, equal to the slow way, independent of the batch around it."""

import pytest
import torch

from anyglot.errors import AnyglotError
from anyglot.inference.decode import Request
from anyglot.inference.decoder import Decoder
from anyglot.inference.sampling import SamplingConfig
from anyglot.lm.grammar import Grammar
from anyglot.lm.model import ModelConfig, build_model
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.spec import Axis, CodeSpec

IMAGE = CodeSpec("image", (5,), (Axis("height", "sized", 3), Axis("width", "sized", 4)))
SPEECH = CodeSpec("speech", (4, 6), (Axis("time", "open", 9),))


def decoder(stream="frame", seed=0, sharpness=1.0, length=256, **sampling):
    vocabulary = Vocabulary.build(11, "t", [(IMAGE, "i"), (SPEECH, "s")], max_size=4, streams={"speech": stream})
    shape = ModelConfig(hidden=32, layers=2, heads=4, key_value_heads=2, max_length=length)
    model = build_model(shape, vocabulary.size, seed).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(sharpness)
    return Decoder(model, Grammar(vocabulary), default=SamplingConfig(**sampling))


def prompt(decoder, *text):
    return [decoder.vocabulary.bos, *text]


@pytest.mark.parametrize("stream", ["frame", "level", "delay"])
@pytest.mark.parametrize("max_tokens", [1, 2, 5, 17, 60])
def test_every_written_document_parses(stream, max_tokens):
    made = decoder(stream, seed=3)
    requests = [Request(prompt(made, *range(seed % 5)), max_tokens=max_tokens, seed=seed) for seed in range(40)]
    seen = set()
    for request, ids in zip(requests, made.write(requests), strict=True):
        turns = made.automaton.parse([*request.prompt, *ids] + ([made.vocabulary.eos] if turns_open(made, ids) else []))
        seen |= {span.modality for turn in turns for span in turn.spans}
    assert max_tokens < 17 or seen == {"text", "image", "speech"}


def turns_open(made, ids):
    return ids[-1] == made.vocabulary.end_of_turn


@pytest.mark.parametrize("stream", ["frame", "level", "delay"])
def test_asking_for_a_modality_gives_exactly_one_span_of_it(stream):
    made = decoder(stream)
    for modality in ("image", "speech"):
        requests = [Request(prompt(made, 1, 2), (modality,), spans=1, seed=seed) for seed in range(10)]
        for request, ids in zip(requests, made.write(requests), strict=True):
            (turn,) = made.automaton.parse([*request.prompt, *ids, made.vocabulary.eos])
            assert [span.modality for span in turn.spans] == ["text", modality]


def test_asking_for_text_gives_text_up_to_the_end():
    made = decoder()
    requests = [Request(prompt(made), ("text",), max_tokens=12, seed=seed) for seed in range(20)]
    for ids in made.write(requests):
        assert ids[-1] == made.vocabulary.eos
        assert 1 <= len(ids) - 1 <= 12
        assert all(token < 11 for token in ids[:-1])


@pytest.mark.parametrize("stream", ["frame", "level", "delay"])
def test_a_spent_budget_closes_an_open_span_at_once(stream):
    made = decoder(stream)
    requests = [Request(prompt(made), ("speech",), spans=1, max_tokens=4, seed=seed) for seed in range(20)]
    for ids in made.write(requests):
        (turn,) = made.automaton.parse([made.vocabulary.bos, *ids, made.vocabulary.eos])
        assert len(turn.spans[0].codes) <= 3


def slow_greedy(made, request):
    """The twin: the whole sequence anew at every step, all logits, what is not allowed masked out."""
    ids, state, opened = list(request.prompt), made.automaton.advance_all(request.prompt), 0
    while True:
        logits = made.model(torch.tensor([ids])).logits[0, -1]
        mask = torch.full_like(logits, -torch.inf)
        for low, high in made.automaton.allowed(state, request.modalities):
            mask[low:high] = 0
        if not state.modality:
            mask[[made.vocabulary.eos, made.vocabulary.end_of_turn, *made.constraints.roles]] = -torch.inf
        token = int((logits + mask).argmax())
        inside, state = state.modality, made.automaton.advance(state, token)
        ids.append(token)
        opened += bool(inside and not state.modality)
        if opened == request.spans:
            return ids[len(request.prompt) :]


def test_cache_and_cut_head_change_nothing():
    made = decoder(sharpness=30.0, temperature=0.0)
    requests = [Request(prompt(made, *range(length)), ("image", "speech"), spans=2) for length in (0, 1, 4, 7)]
    assert made.write(requests) == [slow_greedy(made, request) for request in requests]


def test_a_row_does_not_depend_on_the_rows_beside_it():
    made = decoder(sharpness=10.0)
    requests = [Request(prompt(made, *range(length)), max_tokens=30, seed=length) for length in (1, 6, 3)]
    together = made.write(requests)
    assert together == [made.write([request])[0] for request in requests]
    assert together != made.write([Request(r.prompt, max_tokens=30, seed=r.seed + 9) for r in requests])


def test_tokens_are_told_as_they_come():
    made = decoder()
    requests = [Request(prompt(made, 1), max_tokens=9, seed=1), Request(prompt(made, 2, 3), max_tokens=20, seed=2)]
    told, ended = [[], []], []
    for step in made.steps(requests):
        for written in step:
            told[written.ticket] += written.ids
            ended += [written.ticket] * bool(written.finish)
    assert told == made.write(requests)
    assert sorted(ended) == [0, 1]


def test_the_reason_of_an_end_is_told():
    made = decoder()
    reasons = set()
    for seed in range(20):
        steps = list(made.steps([Request(prompt(made, 1), ("text",), max_tokens=4, seed=seed)]))  # an id a step
        reasons.add(steps[-1][0].finish)
        assert steps[-1][0].finish == ("length" if len(steps) == 5 else "stop")
    assert reasons == {"length", "stop"}
    *_, last = made.steps([Request(prompt(made, *[1] * 254), ("text",))])
    assert last[0].finish == "length"


def test_a_prompt_that_leaves_no_room_is_one_clear_error():
    made = decoder()
    with pytest.raises(AnyglotError, match="256 tokens, the model reads at most 256, which leaves no room"):
        made.write([Request(prompt(made, *[1] * 255))])
    made.write([Request(prompt(made, *[1] * 254))])
    fitting = prompt(made, *[1] * (255 - 5))  # a picture is at least open, 1, 1, a code, close
    assert len(made.write([Request(fitting, ("image",), spans=1)])[0]) == 5
    with pytest.raises(AnyglotError, match="252 tokens"):
        made.write([Request([*fitting, 1], ("image",), spans=1)])


@pytest.mark.parametrize("stream", ["frame", "level", "delay"])
@pytest.mark.parametrize("length", [12, 17, 20, 23, 28])
def test_whatever_is_open_ends_before_the_model_s_positions_do(stream, length):
    made, prompts = decoder(stream, seed=3, length=length), [[], [1, 2], [1, 2, 3, 4, 5]]
    requests = [Request(prompt(made, *prompts[seed % 3]), seed=seed) for seed in range(60)]
    requests += [Request(prompt(made, *prompts[seed % 3]), ("image",), 1, seed=seed) for seed in range(30)]
    requests += [Request(prompt(made, *prompts[seed % 2]), ("speech",), 1, seed=seed) for seed in range(30)]
    longest, media = 0, 0
    for request, ids in zip(requests, made.write(requests), strict=True):
        assert len(request.prompt) + len(ids) <= length
        state = made.automaton.advance_all([*request.prompt, *ids])
        assert not state.modality
        assert len(ids) > 1
        longest = max(longest, len(request.prompt) + len(ids))
        media += any(token in made.constraints.shortest for token in ids)
    assert longest >= length - 2
    assert media > 60


def test_a_spent_budget_takes_the_smallest_sizes():
    made = decoder()
    ids = made.write([Request(prompt(made), ("image",), spans=1, max_tokens=1, seed=seed) for seed in range(5)])
    assert [len(written) for written in ids] == [5] * 5
