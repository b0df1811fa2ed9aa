"""What is trained: freeze patterns, rows of new ids, and runs in which old rows stay bit for bit."""

import numpy as np
import pytest
import torch

from anyglot.config import typed
from anyglot.errors import ConfigError, MismatchError
from anyglot.lm.model import LanguageModel, ModelConfig, build_model
from anyglot.lm.rows import split_rows
from anyglot.lm.vocabulary import Vocabulary
from anyglot.train.engine import EngineConfig
from anyglot.train.optimizers import build_optimizer, set_learning_rates
from anyglot.train.pretrain import PretrainConfig
from anyglot.train.trainable import NewRowsConfig, build_trainable, first_new_id, freeze
from tests.train.runs import IMAGE, SPEECH, kill_after, log, losses, make_store, train, weights, write_config

SMALL = {"hidden": 32, "layers": 2, "heads": 4, "key_value_heads": 2}
OLD = Vocabulary.build(40, "t", [(IMAGE, "i")], max_size=8)
NEW = OLD.extend(SPEECH, "s")  # as runs.make_store has it


def trained(model):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def split_model(**config):
    model = build_model(ModelConfig(**SMALL, **config), NEW.size)
    split_rows(model, OLD.size)
    return model


def test_the_last_pattern_that_matches_counts():
    model = split_model()
    freeze(model, ["*", "!*.new_rows", "!model.layers.1.*", "*.layers.1.mlp.*"])
    names = trained(model)
    assert names[0] == "model.embed_tokens.new_rows"
    assert all(name.startswith("model.layers.1.") and ".mlp." not in name for name in names[1:])
    assert len(names) > 4


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("model.layer.*", "near are: model.layers.*"),
        ("!model.embed_tokens.new_row", "near are: model.embed_tokens.new_rows, model.embed_tokens.old_rows"),
        ("*.mlp.up_projection.weight", "mlp.up_proj.weight"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error_with_near_names(pattern, near):
    with pytest.raises(ConfigError, match="freeze: no parameter matches") as caught:
        freeze(split_model(), [pattern])
    assert near in str(caught.value)


def test_nothing_left_to_train_is_refused():
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        freeze(split_model(), ["*"])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_new_rows_have_their_own_rate_and_old_ones_no_state(optimizer):
    module = LanguageModel(split_model())
    freeze(module.model, ["*.old_rows"])
    config = EngineConfig(optimizer=optimizer, learning_rate=0.01, new_rows_learning_rate=0.5)
    built = build_optimizer(module, config)
    groups = {group["name"]: group for group in built.param_groups}
    assert groups["new_rows"]["params"] == [module.model.get_input_embeddings().new_rows]
    held = {id(parameter) for group in built.param_groups for parameter in group["params"]}
    assert id(module.model.get_input_embeddings().old_rows) not in held
    assert len(held) == len(list(module.parameters())) - 1
    set_learning_rates(built, config, 0.5)
    assert groups["new_rows"]["lr"] == 0.25
    assert groups["decayed"]["lr"] == 0.005 if optimizer == "adamw" else groups["hidden"]["lr"] == 0.01


def test_a_rate_without_new_rows_is_refused():
    mapping = {"stage": "pretrain", "out": "x", "data": {"stores": {}}, "engine": {"new_rows_learning_rate": 1.0}}
    with pytest.raises(ConfigError, match="set new_rows.after"):
        typed(PretrainConfig, mapping)


def checkpoint(folder, vocabulary, model=None):
    (model or build_model(ModelConfig(**SMALL), vocabulary.size, seed=5)).save_pretrained(folder)
    vocabulary.save(folder)
    return folder


def test_where_new_ids_begin(tmp_path):
    assert first_new_id("17", NEW) == 17
    assert first_new_id(str(checkpoint(tmp_path / "ours", OLD)), NEW) == OLD.size
    build_model(ModelConfig(**SMALL), 40).save_pretrained(tmp_path / "theirs")
    assert first_new_id(str(tmp_path / "theirs"), NEW) == 40  # a backbone from elsewhere knows text
    with pytest.raises(ConfigError, match="500 is no id of the vocabulary"):
        first_new_id("500", NEW)
    with pytest.raises(ConfigError, match="neither a checkpoint directory nor an id"):
        first_new_id(str(tmp_path / "nowhere"), NEW)
    with pytest.raises(MismatchError, match="does not extend"):
        first_new_id(str(tmp_path / "ours"), Vocabulary.build(40, "t", [(SPEECH, "s"), (IMAGE, "i")], max_size=8))


def test_a_checkpoint_gets_the_rows_that_it_lacks_and_keeps_the_rest(tmp_path):
    old = checkpoint(tmp_path / "old", OLD)
    config = ModelConfig(pretrained=str(old))
    before = build_model(config, OLD.size)
    model = build_trainable(config, NEW, NewRowsConfig(str(old)), ["*", "!*.new_rows"], {}, seed=1)
    assert trained(model) == ["model.embed_tokens.new_rows"]
    assert torch.equal(model.get_input_embeddings().old_rows, before.get_input_embeddings().weight[: OLD.size])
    assert len(model.get_input_embeddings().new_rows) >= NEW.size - OLD.size
    with pytest.raises(ConfigError, match="set model.pretrained"):
        build_trainable(ModelConfig(**SMALL), NEW, NewRowsConfig(str(old)), [], {}, seed=1)
    with pytest.raises(ConfigError, match="ids end at 75, in model.pretrained already at"):
        build_trainable(config, NEW, NewRowsConfig("75"), [], {}, seed=1)


def test_embeddings_of_a_pretrained_model_are_not_begun_again(tmp_path):
    old = checkpoint(tmp_path / "old", OLD)
    before = build_model(ModelConfig(pretrained=str(old)), OLD.size)
    codebooks = {"image": [torch.randn(16, 4)]}
    model = build_trainable(ModelConfig(pretrained=str(old)), OLD, NewRowsConfig(), [], codebooks, seed=1)
    assert torch.equal(model.get_input_embeddings().weight, before.get_input_embeddings().weight)


# ---------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainable")
    make_store(folder / "store")
    checkpoint(folder / "old", OLD)
    write_config(folder / "config.yaml", folder / "store", folder / "one")
    return folder


def new_rows_only(folder, **more):
    settings = {
        "model.pretrained": folder / "old",
        "model.attention_dropout": 0,
        "new_rows.after": folder / "old",
        "freeze": "['*', '!*.new_rows']",
        "engine.new_rows_learning_rate": 0.05,
        **more,
    }
    return [f"{key}={value}" for key, value in settings.items()]


def test_new_rows_learn_and_the_rest_stays_bit_for_bit(folder):
    from safetensors.torch import load_file

    train(folder / "config.yaml", 1, *new_rows_only(folder))
    assert losses(folder / "one")[-1] < losses(folder / "one")[0]
    before, after = load_file(folder / "old" / "model.safetensors"), weights(folder / "one")
    rows = "model.embed_tokens.weight"
    assert sorted(before) == sorted(after)
    assert all(torch.equal(before[name], value) for name, value in after.items() if name != rows)
    assert torch.equal(before[rows][: OLD.size], after[rows][: OLD.size])
    assert len(after[rows]) % 64 == 0
    assert len(after[rows]) >= NEW.size


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_processes_and_a_move_give_the_curve_of_one(stage, folder):
    config, options = folder / "config.yaml", [*new_rows_only(folder), f"engine.zero_stage={stage}"]
    single, two, moved = (folder / f"{name}-{stage}" for name in ("single", "two", "moved"))
    train(config, 1, f"out={single}", *options)
    train(config, 2, f"out={two}", *options)
    kill_after(config, moved, 4, f"out={moved}", *options)
    train(config, 2, f"out={moved}", *options)
    np.testing.assert_allclose(losses(two), losses(single), rtol=2e-5)
    np.testing.assert_allclose(losses(moved), losses(single), rtol=1e-3)
    rows = "model.embed_tokens.weight"
    for out in (two, moved):
        assert torch.equal(weights(out)[rows][: OLD.size], weights(single)[rows][: OLD.size])
        torch.testing.assert_close(weights(out)[rows], weights(single)[rows], rtol=1e-3, atol=1e-3)
    assert any("heldout/all/bits/speech" in line for line in log(two))
