"""Log-likelihoods in batches are those of reading id by id, for plain streams and for levels inside a position."""

import numpy as np
import pytest
import torch

from anyglot.data.documents import Message, Part
from anyglot.errors import AnyglotError
from anyglot.eval.likelihood import log_likelihoods
from anyglot.inference.anyglot import Anyglot
from tests.inference.bundles import make_bundle


@pytest.fixture(scope="module", params=["frame", "depth"])
def model(request, tmp_path_factory):
    found = Anyglot.load(make_bundle(tmp_path_factory.mktemp("model") / request.param, speech_stream=request.param))
    with torch.no_grad():
        found.model.get_input_embeddings().weight.mul_(20)  # so that some ids are far likelier than others
    return found


@torch.inference_mode()
def slow(model, prompt, ids):
    """The definition: all read anew for every id."""
    total, likeliest = 0.0, True
    for done, token in enumerate(ids):
        hidden = model.decoder.reader(1, 512).read([0], [[*prompt, *ids[:done]]])
        logs = model.decoder.logits(hidden, 0, model.decoder.head.shape[0])[0].double().log_softmax(0)
        total += float(logs[token])
        likeliest &= int(logs.argmax()) == token
    return total, likeliest


def pairs_of(model):
    """Text after text, a sound after a name, text after a sound, what the model itself would write, and nothing."""
    sound = Part("speech", data=np.sin(np.arange(400) / 9).astype(np.float32))
    name = model.prompt([Message(None, [Part("text", text="black cat")])])
    heard = model.prompt([Message(None, [sound])])
    both = model.prompt([Message(None, [Part("text", text="black cat"), sound])])
    greedy = list(name)
    for _ in range(3):
        hidden = model.decoder.reader(1, 512).read([0], [greedy])
        greedy.append(int(model.decoder.logits(hidden, 0, model.decoder.head.shape[0])[0].argmax()))
    return [
        (name, model.text.encode(" on a hill")),
        (name, both[len(name) :]),
        (heard, model.text.encode("a red kite")),
        ([model.vocabulary.bos], model.text.encode("the sun")),
        (name, greedy[len(name) :]),
        (name, []),
    ]


def test_equal_reading_id_by_id_whatever_the_batch(model):
    pairs = pairs_of(model)
    wanted = [slow(model, *pair) for pair in pairs]
    assert [likeliest for _, likeliest in wanted][-2:] == [True, True]
    assert not wanted[0][1]
    for batch in (1, 2, 6):
        found = log_likelihoods(model, pairs, batch)
        np.testing.assert_allclose([log for log, _ in found], [log for log, _ in wanted], rtol=2e-5, atol=1e-6)
        assert [likeliest for _, likeliest in found] == [likeliest for _, likeliest in wanted]
    assert log_likelihoods(model, []) == []


def test_what_cannot_be_read_is_refused(model):
    with pytest.raises(AnyglotError, match="a prompt of 0 tokens and 1 after it"):
        log_likelihoods(model, [([], [1])])
    bos = model.vocabulary.bos
    with pytest.raises(AnyglotError, match="at most 513 together"):
        log_likelihoods(model, [([bos], [1] * 513)])
    assert log_likelihoods(model, [([bos], [1] * 512)])[0][0] < 0
