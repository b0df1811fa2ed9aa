"""Levels inside a position: folding, the loss and generation equal a twin that reads every document id by id."""

import numpy as np
import pytest
import torch

from anyglot.data.batches import pack
from anyglot.errors import AnyglotError, ConfigError, MismatchError
from anyglot.inference.decode import Request
from anyglot.inference.decoder import Decoder
from anyglot.inference.sampling import SamplingConfig
from anyglot.lm.depth import DepthConfig, DepthTransformer, build_depth, fold, riders_after
from anyglot.lm.grammar import Grammar, Span, Turn
from anyglot.lm.model import LanguageModel, ModelConfig, build_model
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.spec import Axis, CodeSpec

IMAGE = CodeSpec("image", (5, 7), (Axis("height", "sized", 3), Axis("width", "sized", 4)))
SPEECH = CodeSpec("speech", (4, 6, 3), (Axis("time", "open", 9),))
VOCABULARY = Vocabulary.build(
    11, "t", [(IMAGE, "i"), (SPEECH, "s")], max_size=4, streams={"speech": "depth", "image": "depth"}
)
GRAMMAR = Grammar(VOCABULARY)
RIDERS = riders_after(VOCABULARY)


def made(seed=0, sharpness=1.0):
    """A language model with a depth transformer. sharpness: makes its choices surer."""
    model = build_model(ModelConfig(hidden=32, layers=2, heads=4, key_value_heads=2, max_length=256), 64, seed)
    depth = build_depth(DepthConfig(hidden=16, layers=2, heads=2), VOCABULARY, 32, seed)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(sharpness)
    return LanguageModel(model.eval(), 0.0, depth=depth, riders=RIDERS)


def document(seed):
    """Ids of a random document with words, a picture and two sounds."""
    random = np.random.default_rng(seed)
    spans = [
        Span("text", random.integers(0, 11, 3)),
        Span("speech", np.stack([random.integers(0, size, 1 + seed % 4) for size in SPEECH.levels], -1)),
        Span("image", np.stack([random.integers(0, size, (2, 3)) for size in IMAGE.levels], -1)),
        Span("speech", np.stack([random.integers(0, size, 2) for size in SPEECH.levels], -1)),
    ]
    return GRAMMAR.serialise([Turn(None, spans)]).ids.astype(np.int64)


class Store:
    """Documents as `pack` reads them."""

    def __init__(self, documents):
        self.documents = documents

    def ids(self, index):
        return self.documents[index]

    def loss(self, index):
        return np.ones(len(self.documents[index]), dtype=bool)


def packed(*documents, length=None):
    """One packed row as tensors."""
    store = Store(list(documents))
    pieces = [(store, index, 0, len(ids)) for index, ids in enumerate(documents)]
    batch = pack([pieces], 1, length or sum(map(len, documents)) + 5, VOCABULARY)
    names = ("input_ids", "position_ids", "document_ids", "labels", "weights")
    return [torch.from_numpy(getattr(batch, name)) for name in names]


def slow_state(language_model, ids):
    """The twin: hidden state after `ids` of one document, everything computed anew."""
    model, embedding = language_model.model, language_model.model.get_input_embeddings()
    positions, begun = [], []
    for token in ids:
        begun.append(int(token))
        if len(begun) == 1 + RIDERS[begun[0]]:
            positions.append(embedding(torch.tensor(begun)).sum(0))
            begun = []
    hidden = model.get_decoder()(inputs_embeds=torch.stack(positions)[None], use_cache=False).last_hidden_state[0, -1]
    if begun:
        hidden = language_model.depth(hidden[None], embedding(torch.tensor(begun))[None])[0, -1]
    return hidden


def slow_nll(language_model, ids):
    head = language_model.model.get_output_embeddings().weight
    states = torch.stack([slow_state(language_model, ids[:end]) for end in range(1, len(ids))])
    return torch.nn.functional.cross_entropy(states @ head.T, torch.from_numpy(ids[1:]), reduction="none")


def test_riders_are_the_later_levels():
    names = [VOCABULARY.named_blocks[name] for name in ("image.0", "image.1", "speech.0", "speech.2", "text")]
    assert [RIDERS[block.start : block.end].unique().tolist() for block in names] == [[1], [-1], [2], [-1], [0]]


def test_folding_counts_positions_anew_in_every_document():
    rides = torch.tensor([[0, 0, 1, 1, 0, 0, 0, 1, 0]], dtype=torch.bool)
    folded = fold(rides, torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 0]]), torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, -1]]))
    assert folded.position.tolist() == [[0, 1, 1, 1, 2, 3, 4, 4, 0]]
    assert folded.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert folded.document_ids.tolist() == [[0, 0, 0, 1, 1]]


@torch.no_grad()
def test_the_loss_of_packed_rows_is_that_of_reading_id_by_id():
    language_model = made(sharpness=5.0)
    documents = [document(seed) for seed in range(3)]
    ids, *rest = packed(*documents)
    nll = language_model(ids, *rest).nll
    expected = torch.cat([torch.cat([slow_nll(language_model, ids), torch.zeros(1)]) for ids in documents])
    torch.testing.assert_close(nll[: len(expected)], expected, rtol=1e-4, atol=1e-4)
    assert (nll[len(expected) :] == 0).all()


@torch.no_grad()
def test_nothing_is_told_by_what_comes_later():
    language_model = made(sharpness=5.0)
    one = document(3)
    for place in range(2, len(one)):
        other = one.copy()
        block = VOCABULARY.blocks[VOCABULARY.lookup.block[one[place]]]
        other[place] = block.start + (one[place] - block.start + 1) % block.size
        before, after = (language_model(*packed(ids)).nll for ids in (one, other))
        torch.testing.assert_close(before[: place - 1], after[: place - 1], rtol=1e-5, atol=1e-5)


def test_every_weight_learns_also_from_batches_without_such_codes():
    language_model = made()
    for ids, zero in ((document(1), False), (np.array([VOCABULARY.bos, 1, 2, VOCABULARY.eos]), True)):
        language_model.zero_grad()
        language_model(*packed(ids)).total.backward()
        gradients = [parameter.grad for parameter in language_model.depth.parameters()]
        assert all(gradient is not None for gradient in gradients)
        assert all((gradient == 0).all() for gradient in gradients) == zero


def test_generation_equals_reading_everything_anew():
    language_model = made(seed=2, sharpness=20.0)
    decoder = Decoder(
        language_model.model, GRAMMAR, default=SamplingConfig(temperature=0.0), depth=language_model.depth
    )
    head = language_model.model.get_output_embeddings().weight
    prompts = [[VOCABULARY.bos, *range(length)] for length in (1, 4)]
    prompts.append([*document(2)[:-1].tolist()])
    prompts.append(prompts[-1][:-5])  # in the middle of a cell
    requests = [Request(prompts[0], ("speech",), 1), Request(prompts[1], ("image",), 1)]
    requests += [Request(prompt, ("speech",), 1, max_tokens=9) for prompt in prompts[2:]]
    for request, ids in zip(requests, decoder.write(requests), strict=True):
        assert decoder.write([request]) == [ids]
        state, read = GRAMMAR.advance_all(request.prompt), list(request.prompt)
        for token in ids[:9]:
            with torch.no_grad():
                logits = head @ slow_state(language_model, read)
            ranges = GRAMMAR.allowed(state, request.modalities)
            allowed = [i for low, high in ranges for i in range(low, high) if i not in (VOCABULARY.eos,)]
            best = max(logits[i].item() for i in allowed if i not in decoder.constraints.roles)
            assert logits[token].item() >= best - 1e-3
            state, read = GRAMMAR.advance(state, token), [*read, token]


def test_a_depth_transformer_is_saved_whole_or_refused(tmp_path):
    depth = made().depth
    depth.save(tmp_path)
    again = DepthTransformer.load(tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in depth.state_dict().items())
    (tmp_path / "depth.safetensors").write_bytes(b"nothing")
    with pytest.raises(AnyglotError, match="depth transformer cannot be loaded"):
        DepthTransformer.load(tmp_path)
    with pytest.raises(MismatchError, match="no depth transformer was given"):
        Decoder(made().model, GRAMMAR)
    with pytest.raises(ConfigError, match="hidden a multiple of heads"):
        DepthConfig(hidden=6, heads=4)
