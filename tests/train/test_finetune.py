"""Fine-tuning: a trained model goes on with its own vocabulary and tokenizers, and learns what the assistant says."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from anyglot.config import typed
from anyglot.data.checkpoint import read_checkpoint
from anyglot.data.packing import pack_plan
from anyglot.data.shards import TokenStore
from anyglot.errors import AnyglotError, ConfigError, MismatchError
from anyglot.inference.anyglot import Anyglot
from anyglot.lm.grammar import Grammar
from anyglot.train import finetune
from anyglot.train.finetune import FinetuneConfig, begin_from
from anyglot.train.objective import NextTokens
from tests.train.chats import mapping, train
from tests.train.runs import log, make_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("finetune")


def test_a_checkpoint_brings_vocabulary_and_tokenizers(checkpoint, tokens):
    found = read_checkpoint(checkpoint)
    assert found.directory == checkpoint / "model"
    assert list(found.tokenizers) == ["text", "image", "speech"]
    assert TokenStore(tokens / "chats").vocabulary == found.vocabulary


def test_loss_lies_on_the_assistant_s_parts_of_every_turn(tokens):
    store = TokenStore(tokens / "chats")
    words = store.vocabulary
    document = store[0]
    learned = Grammar(words).parse(
        [words.bos, *document.ids[document.loss & (document.ids != words.end_of_turn)], words.eos]
    )
    assert [span.modality for span in learned[0].spans] == ["text", "image"]
    assert document.loss[document.ids == words.end_of_turn].tolist() == [False, False, True, False, True]
    assert not document.loss[
        np.isin(document.ids, [words.special("user"), words.special("assistant"), words.eos])
    ].any()


@pytest.fixture(scope="module")
def tuned(folder, checkpoint, tokens):
    train(mapping("finetune", checkpoint, tokens / "chats", folder / "tuned"), folder / "tuned.yaml")
    return folder / "tuned"


def test_a_run_goes_on_from_the_model_for_its_epochs(tuned, checkpoint, tokens):
    lines = [line for line in log(tuned) if "loss" in line]
    rows = 4 * pack_plan(TokenStore(tokens / "chats"), 80).rows
    assert rows >= 8
    assert lines[-1]["step"] == lines[-1]["steps"] == -(-rows // 2)
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    before, after = (load_file(run / "model" / "model.safetensors") for run in (checkpoint, tuned))
    assert before.keys() == after.keys()
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert 0 < moved < 0.5  # went on from these weights; fresh ones would lie far off
    assert not torch.equal(before["model.norm.weight"], after["model.norm.weight"])


def test_the_result_is_whole_and_answers(tuned):
    model = Anyglot.load(tuned / "model")
    assert set(model.tokenizers) == {"image", "speech"}
    assert (tuned / "model" / "tokenizers" / "text" / "manifest.json").is_file()


def test_what_is_never_learned_costs_nothing(tuned):
    heldout = [line for line in log(tuned) if "heldout/all/bits/image" in line]
    assert heldout
    assert "heldout/all/bits/speech" not in heldout[0]


def test_it_goes_on_where_it_stopped(folder, checkpoint, tokens, tuned):
    """A run that ended after 4 steps and is continued is the run that was never interrupted."""
    out = folder / "again"
    shutil.copytree(tuned, out)
    (out / "done.json").unlink()
    for step in sorted((out / "checkpoints").iterdir())[1:]:
        shutil.rmtree(step)
    train(mapping("finetune", checkpoint, tokens / "chats", out), folder / "again.yaml")
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (out, tuned))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    finetune.run(mapping("finetune", checkpoint, tokens / "chats", out), "test")  # is finished: nothing happens
    assert (
        json.loads((out / "done.json").read_text())["steps"] == json.loads((tuned / "done.json").read_text())["steps"]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizers": {"text": "x"}}, "tokenizers: the run begins from `checkpoint`"),
        ({"model": {"pretrained": "x"}}, "model.pretrained: the run begins"),
        ({"codebook_embeddings": True}, "codebook_embeddings is for models that begin untrained"),
        ({"steps": 5}, "2 of them are set"),
        ({"minutes": 1.0}, "both say how long"),
    ],
)
def test_what_a_checkpoint_brings_is_not_repeated(changes, message):
    with pytest.raises(ConfigError, match=message):
        typed(FinetuneConfig, {**mapping("finetune", "c", "s", "o"), **changes})


def test_one_thing_says_how_long(checkpoint, tokens):
    config = mapping("finetune", checkpoint, tokens / "chats", "o")
    config["data"]["stores"]["all"]["epochs"] = 0
    with pytest.raises(ConfigError, match="0 of them are set"):
        typed(FinetuneConfig, config)
    assert typed(FinetuneConfig, config | {"steps": 3, "samples": ["cat"]}).engine.learning_rate == 1e-2
    del config["engine"]
    assert typed(FinetuneConfig, config | {"steps": 3}).engine.learning_rate == 2e-5


def test_other_tokens_and_broken_checkpoints_are_refused(folder, checkpoint, tokens, tmp_path):
    other = make_store(tmp_path / "other")
    config = typed(FinetuneConfig, mapping("finetune", checkpoint, other, tmp_path / "out"))
    objective = NextTokens(begin_from(config))
    with pytest.raises(MismatchError, match="was made with vocabulary"):
        objective.open(config.data)
    with pytest.raises(AnyglotError, match="no model here"):
        finetune.run(mapping("finetune", tmp_path, tokens / "chats", tmp_path / "out"), "test")
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint / "model", broken)
    shutil.rmtree(broken / "tokenizers" / "text")
    with pytest.raises(AnyglotError, match="no text tokenizer here"):
        read_checkpoint(broken)
    shutil.copytree(checkpoint / "model" / "tokenizers" / "speech", broken / "tokenizers" / "text")
    with pytest.raises(MismatchError, match="the text tokenizer has fingerprint"):
        read_checkpoint(broken)
    described = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(described | {"anyglot_vocabulary": "another"}))
    with pytest.raises(MismatchError, match="another"):
        read_checkpoint(broken)
