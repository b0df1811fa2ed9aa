"""An exported model's Hugging Face tokenizer gives the ids that were trained on, and so does its chat template."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anyglot.data.documents import Message, Part
from anyglot.inference.anyglot import Anyglot
from anyglot.lm.grammar import Grammar, Span, Turn
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.text import TextTokenizer
from anyglot.train.export_text import generation_config, save_text
from tests.inference.bundles import WORDS, make_bundle

pytest.importorskip("jinja2", reason="chat templates of transformers need jinja2, of the extra `eval`")

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\u2581"), max_size=30)
WORDY = st.lists(st.sampled_from([*WORDS, " ", "  ", "\n", "é", "12", "<|anyglot_usr|>"]), max_size=6).map("".join)


def huggingface_text() -> TextTokenizer:
    """A byte-level tokenizer with control tokens of its own behind its vocabulary, as published ones have."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE

    tokenizer = Tokenizer(BPE())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(WORDS * 20, trainer)
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return TextTokenizer("huggingface", tokenizer.to_str().encode())


@pytest.fixture(scope="module", params=["sentencepiece", "huggingface"])
def saved(request, tmp_path_factory):
    """A text tokenizer, its vocabulary, and what transformers loads of what was written."""
    from transformers import AutoTokenizer

    text = TextTokenizer.train(WORDS * 20, 300) if request.param == "sentencepiece" else huggingface_text()
    vocabulary = Vocabulary.build(text.size, text.fingerprint)
    folder = tmp_path_factory.mktemp(request.param)
    save_text(folder, text, vocabulary, 512)
    return text, vocabulary, AutoTokenizer.from_pretrained(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(string=TEXTS | WORDY)
def test_text_becomes_the_same_ids(saved, string):
    text, vocabulary, loaded = saved
    assert loaded(string).input_ids == [vocabulary.bos, *text.encode(string)]
    assert loaded.decode(text.encode(string)) == string


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    said=st.lists(st.tuples(st.sampled_from(["user", "assistant"]), WORDY), min_size=1, max_size=4),
    system=st.none() | WORDY,
    parts=st.booleans(),
)
def test_its_chat_template_gives_what_was_trained(saved, said, system, parts):
    text, vocabulary, loaded = saved
    said = ([("system", system)] if system is not None else []) + said
    turns = [
        Turn(role, [Span("text", np.array(text.encode(words), np.int64), role == "assistant")]) for role, words in said
    ]
    document = Grammar(vocabulary).serialise(turns)
    messages = [
        {"role": role, "content": [{"type": "text", "text": words}] if parts else words} for role, words in said
    ]
    found = loaded.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert found["input_ids"] == document.ids.tolist()
    assert found["assistant_masks"] == document.loss.astype(int).tolist()
    asked = loaded.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert asked == [*document.ids[:-1], vocabulary.special("assistant")]


def test_media_and_unknown_roles_are_refused(saved):
    *_, loaded = saved
    with pytest.raises(Exception, match="writes text only, not image"):
        loaded.apply_chat_template([{"role": "user", "content": [{"type": "image", "path": "x.png"}]}])
    with pytest.raises(Exception, match="role tool is not one of"):
        loaded.apply_chat_template([{"role": "tool", "content": "x"}])


def test_a_tokenizer_whose_ids_would_differ_is_not_written(saved, tmp_path, caplog):
    text, *_ = saved
    save_text(tmp_path, text, Vocabulary.build(text.size - 10, text.fingerprint), 512)
    assert not list(tmp_path.iterdir())
    assert "would not have the model's id" in caplog.text


def test_pipelines_chat_with_an_exported_model(tmp_path):
    """The prompt that a pipeline makes is the one that our own chat makes, and it stops where we do."""
    import transformers

    bundle = make_bundle(tmp_path / "model")
    model = Anyglot.load(bundle)
    save_text(bundle, model.text, model.vocabulary, 512)
    generation_config(model.vocabulary).save_pretrained(bundle)
    pipe = transformers.pipeline("text-generation", model=str(bundle))
    messages = [{"role": "user", "content": "what is this?"}]
    ours = model.prompt([Message("user", [Part("text", text="what is this?")])])
    assert (
        pipe.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"] == ours
    )
    answer = pipe(messages, max_new_tokens=4, do_sample=False)[0]["generated_text"]
    assert [turn["role"] for turn in answer] == ["user", "assistant"]
    assert json.loads((bundle / "generation_config.json").read_text())["eos_token_id"] == [
        model.vocabulary.end_of_turn,
        model.vocabulary.eos,
    ]
