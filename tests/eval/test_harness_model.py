"""Our engine as a model of lm-evaluation-harness gives what the harness's own `hf` gives of the same weights."""

import json
import math

import numpy as np
import pytest
import torch

from anyglot.errors import AnyglotError, ConfigError
from anyglot.eval.harness import run
from anyglot.eval.harness_model import TextModel
from anyglot.eval.likelihood import log_likelihoods
from anyglot.eval.until import cut, settings_of
from anyglot.inference.anyglot import Anyglot
from anyglot.train.export_text import save_text
from tests.inference.bundles import make_bundle

NEEDED = "pip install 'anyglot[lm-eval]' to test lm-evaluation-harness"
CONTEXTS = ["", "black cat", "what is this? ", "old house on a hill\n\ngreen", "the sun the sun the sun", "a"]
PAIRS = [(context, end) for context in CONTEXTS for end in ("a red kite", " green apple", "?")]
GREEDY = {"until": [], "max_gen_toks": 12, "do_sample": False}
SAMPLED = {"until": ["e"], "max_gen_toks": 20, "do_sample": True, "temperature": 1.5, "top_k": 40}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A checkpoint with a depth stream that is a plain Hugging Face directory, too; greedily it writes text alone."""
    folder = make_bundle(tmp_path_factory.mktemp("model") / "depth", speech_stream="depth")
    made = Anyglot.load(folder)
    with torch.no_grad():
        rows = made.model.get_input_embeddings().weight
        rows.mul_(20)
        rows[made.vocabulary.text_size :] = 0
    made.model.save_pretrained(folder)
    save_text(folder, made.text, made.vocabulary, 512)
    return folder


@pytest.fixture(scope="module")
def model(directory):
    return Anyglot.load(directory)


def requests(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, each, index) for index, each in enumerate(arguments)]


def hf(directory, **settings):
    pytest.importorskip("lm_eval", reason=NEEDED)
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(directory), device="cpu", dtype="float32", batch_size=4, **settings)


def test_equal_numbers_and_answers_as_hf(directory, model):
    theirs, ours = hf(directory), TextModel(model, 4)
    wanted = theirs.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
    found = ours.loglikelihood(PAIRS)
    np.testing.assert_allclose([log for log, _ in found], [log for log, _ in wanted], rtol=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    asked = [(context, dict(GREEDY)) for context in CONTEXTS if context]
    answers = ours.generate_until(asked)
    assert answers == theirs.generate_until(requests("generate_until", asked), disable_tqdm=True)
    assert len(set(answers)) > 1
    stop = answers[0][3:5]
    stopped = [(context, {**GREEDY, "until": [stop]}) for context, _ in asked]
    assert (
        ours.generate_until(stopped)
        == theirs.generate_until(requests("generate_until", stopped), disable_tqdm=True)
        != answers
    )


def test_equal_rolling_as_hf_where_it_does_not_begin_twice(directory, model):
    """`hf` puts a bos before what our tokenizer begins with bos already, and counts it; without, the numbers agree."""
    texts = ["black cat", "the sun, a red kite and what is this? " * 60, ""]
    assert len(model.text.encode(texts[1])) > 2 * model.decoder.limit, "several windows"
    theirs = hf(directory, add_bos_token=False)
    wanted = theirs.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,) for text in texts]), True)
    found = TextModel(model, 3).loglikelihood_rolling(texts)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert found[2] == 0
    bos = model.vocabulary.bos
    twice = log_likelihoods(model, [([bos], [bos, *model.text.encode(texts[0])])])[0][0]
    by_default = hf(directory).loglikelihood_rolling(requests("loglikelihood_rolling", [(texts[0],)]), True)
    assert by_default == pytest.approx([twice], rel=1e-4)


def test_batch_and_order_change_nothing(model):
    asked = [(context, dict(SAMPLED)) for context in [*CONTEXTS, *CONTEXTS]]
    one, many = TextModel(model, 1), TextModel(model, 7)
    written = one.generate_until(asked)
    assert many.generate_until(asked) == written
    backwards = many.generate_until(asked[::-1])[::-1]
    assert backwards == written[len(CONTEXTS) :] + written[: len(CONTEXTS)], "which was asked first has changed places"
    assert written[1] != written[1 + len(CONTEXTS)], "asked again, it draws anew"
    assert not any("e" in answer for answer in written)
    logs = one.loglikelihood(PAIRS)
    again = many.loglikelihood(PAIRS[::-1])[::-1]
    np.testing.assert_allclose([log for log, _ in again], [log for log, _ in logs], rtol=1e-5)
    assert [greedy for _, greedy in again] == [greedy for _, greedy in logs]


def test_what_is_too_long_loses_its_beginning(model):
    texts = TextModel(model, 2)
    long = "the sun " * 600
    prompt, ids = texts._pair(long, " a red kite")
    assert len(prompt) + len(ids) == model.decoder.limit + 1
    assert prompt[0] == model.vocabulary.bos
    assert ids == model.text.encode(long.rstrip() + "  a red kite")[len(model.text.encode(long.rstrip())) :]
    (answer,) = texts.generate_until([(long, {"max_gen_toks": 5})])
    assert answer
    with pytest.raises(AnyglotError, match="asks for answers of 600 tokens, and the model reads 512"):
        texts.generate_until([("a", {"max_gen_toks": 600})])
    with pytest.raises(AnyglotError, match="typical_p mean nothing to this model"):
        texts.generate_until([("a", {"typical_p": 0.2})])


def test_generation_settings_of_tasks():
    settings = settings_of({"until": ["\n\n", ""], "max_new_tokens": 16, "temperature": 0, "num_beams": 1, "x": 2})
    assert (settings.max_tokens, settings.stops, settings.sampling.temperature) == (16, ("\n\n",), 0)
    assert settings.unknown == ("x",)
    assert settings_of({}).sampling.temperature == 0
    assert settings_of({"do_sample": True}).sampling.temperature == 1
    assert settings_of({"do_sample": False, "temperature": 0.7}).sampling.temperature == 0
    assert settings_of({"temperature": 0.7, "until": "x", "num_beams": 3}).unknown == ("num_beams",)
    assert cut("one two three", ["three", "two"]) == "one "
    with pytest.raises(ConfigError, match="at least 1"):
        settings_of({"max_gen_toks": 0})


def test_the_harness_asks_an_anyglot_checkpoint_by_its_own_engine(directory, model, tmp_path):
    pytest.importorskip("lm_eval", reason=NEEDED)
    words = "black cat and green apple and old house on a hill and a red kite in the sun"
    lines = [{"split": "heldout", "parts": [{"type": "text", "text": text}]} for text in (words, words[10:])]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    mapping = {
        "kind": "harness", "out": str(tmp_path / "out"), "models": {"own": str(directory)},
        "documents": [str(tmp_path / "text.jsonl")], "batch": 2,
    }  # fmt: skip
    figures = run(mapping, "test")
    texts = TextModel(model, 1)
    nats = -sum(texts.loglikelihood_rolling([words, words[10:]]))
    assert figures["own.paragraphs.bits_per_byte"] == pytest.approx(nats / math.log(2) / (2 * len(words) - 10))
    plain = run({**mapping, "backend": "hf"}, "test")
    assert plain["own.last_words.perplexity"] == pytest.approx(figures["own.last_words.perplexity"], rel=1e-4)
    assert plain["own.last_words.acc"] == figures["own.last_words.acc"]
    with pytest.raises(ConfigError, match="backend is 'vllm', must be one of: auto, hf"):
        run({**mapping, "backend": "vllm"}, "test")
