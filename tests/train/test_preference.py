"""DPO against a slow twin, and whole runs: the reference is computed once, and the chosen answers win."""

import copy
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid

from anyglot.config import typed
from anyglot.data.pairs import pair_pass
from anyglot.errors import AnyglotError, ConfigError
from anyglot.lm.model import LanguageModel, ModelConfig, build_model
from anyglot.train.finetune import begin_from
from anyglot.train.preference import PreferenceConfig, Preferences
from anyglot.train.pretrain import micro_batches, tensors_of
from tests.data.test_pairs import LENGTH, make_store
from tests.train.chats import mapping, train
from tests.train.groups import one_process
from tests.train.runs import log


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("pairs") / "store", number=7)


def settings(**changes):
    return typed(PreferenceConfig, mapping("preference", "c", "s", "o", **changes))


def twin(model, reference, store, config):
    """The mean loss over pairs, from each document alone and whole tables of logits."""

    def log_probability(model, index):
        ids, loss = torch.from_numpy(store.ids(index)).long(), torch.from_numpy(store.loss(index))
        logits = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        return logits.gather(1, ids[1:, None])[:, 0][loss[1:]].sum(), int(loss[1:].sum())

    losses = []
    for index in range(0, len(store), 2):
        if store.lengths[index : index + 2].sum() > LENGTH:
            continue
        (chosen, count), (rejected, _) = (log_probability(model, index + side) for side in (0, 1))
        with torch.no_grad():
            was = [log_probability(reference, index + side)[0] for side in (0, 1)]
        margin = config.beta * ((chosen - was[0]) - (rejected - was[1]))
        smooth = config.label_smoothing
        loss = -(1 - smooth) * logsigmoid(margin) - smooth * logsigmoid(-margin)
        losses.append(loss - config.nll_weight * chosen / count)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("changes", [{}, {"beta": 0.5, "label_smoothing": 0.1, "nll_weight": 0.3}])
def test_loss_and_gradient_are_those_of_the_slow_twin(store, tmp_path, changes):
    config = settings(**changes)
    shape = ModelConfig(hidden=32, layers=2, heads=4, key_value_heads=2, max_length=128)
    reference = build_model(shape, store.vocabulary.size, seed=1)
    model = copy.deepcopy(reference)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    expected = twin(model, reference, store, config)
    expected.backward()
    objective = Preferences(store.vocabulary, config)
    with one_process():
        was = objective._reference(engine(reference), store, config_data(2), 1, 0, 1, tmp_path)
        policy = engine(model)
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        model.zero_grad()
        total, pairs = 0.0, 0
        for batch in pair_pass(store, was, LENGTH, 2):
            for micro in micro_batches(tensors_of(batch, torch.device("cpu")), 1):
                loss = objective.loss(policy, micro | {"weighted": micro["weights"]})
                loss.total.backward()
                total, pairs = total + loss.total.item(), pairs + int(micro["weights"].sum().round())
        figures = objective.scalars()
    assert pairs == 6
    assert total / pairs == pytest.approx(expected.item(), rel=1e-5)
    assert figures["preference/loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert figures["preference/margin"] == pytest.approx(
        figures["preference/reward/chosen"] - figures["preference/reward/rejected"], abs=1e-6
    )
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad / pairs, gradient, rtol=1e-3, atol=1e-6)


def engine(model):
    return LanguageModel(model)


def config_data(rows):
    config = settings().data
    config.length, config.rows = LENGTH, rows
    return config


def test_a_model_that_is_its_reference_has_loss_log_2(store, tmp_path):
    objective = Preferences(store.vocabulary, settings())
    shape = ModelConfig(hidden=32, layers=1, heads=2, key_value_heads=2, max_length=128)
    model = engine(build_model(shape, store.vocabulary.size))
    with one_process():
        was = objective._reference(model, store, config_data(4), 4, 0, 1, tmp_path)
        assert (was[:12] < 0).all()
        assert (was[12:] == 0).all()  # longer than a row
        for batch in pair_pass(store, was, LENGTH, 4):
            objective.loss(model, tensors_of(batch, torch.device("cpu")) | {"weighted": None})
        figures = objective.scalars()
    assert figures["preference/loss"] == pytest.approx(np.log(2), rel=1e-6)
    assert figures["preference/margin"] == pytest.approx(0, abs=1e-5)


def test_the_reference_is_computed_once(store, tmp_path, monkeypatch):
    objective = Preferences(store.vocabulary, settings())
    shape = ModelConfig(hidden=32, layers=1, heads=2, key_value_heads=2, max_length=128)
    model = engine(build_model(shape, store.vocabulary.size))
    with one_process():
        first = objective._reference(model, store, config_data(4), 4, 0, 1, tmp_path)
        (cached,) = tmp_path.iterdir()
        assert np.array_equal(
            objective._reference(None, store, config_data(2), 1, 0, 1, tmp_path), first
        )  # no engine needed
        cached.write_bytes(cached.read_bytes()[:50])
        assert np.allclose(objective._reference(model, store, config_data(2), 1, 0, 1, tmp_path), first, rtol=1e-5)
        objective.model = "another"
        with pytest.raises(AttributeError):  # must compute, and has nothing to compute with
            objective._reference(None, store, config_data(4), 4, 0, 1, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 0.0}, "beta must be above 0"),
        ({"label_smoothing": 0.5}, "label_smoothing in"),
        ({"modality_weights": {"text": 2.0}}, "modality_weights: an answer's log-probability"),
        ({"z_loss": 1e-4}, "z_loss: an answer's"),
        ({"sequence_parallel": 2}, "needs whole rows"),
        ({"normalise": "sample"}, "normalise: the loss is the mean over pairs; leave it out"),
        ({"normalise": "modality"}, "normalise: the loss is the mean over pairs; leave it out"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(ConfigError, match=message):
        settings(**changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("preference")


def configured(checkpoint, tokens, out, **changes):
    changed = mapping("preference", checkpoint, tokens / "pairs", out, beta=0.5, **changes)
    changed["engine"] = {"learning_rate": 1e-2, **changes.get("engine", {})}
    changed["data"] |= {"length": 96, "rows": 2, "stores": {"all": {"path": str(tokens / "pairs"), "epochs": 8}}}
    return changed


@pytest.fixture(scope="module")
def preferred(folder, checkpoint, tokens):
    train(configured(checkpoint, tokens, folder / "one"), folder / "one.yaml")
    return folder / "one"


def test_a_run_makes_the_chosen_answers_win(preferred):
    lines = log(preferred)
    steps = [line for line in lines if "loss" in line]
    assert steps[0]["loss"] == pytest.approx(np.log(2), rel=1e-4)
    assert steps[0]["preference/margin"] == pytest.approx(0, abs=1e-4)
    assert steps[-1]["loss"] < 0.5
    heldout = [line for line in lines if "heldout/all/preference/accuracy" in line]
    assert heldout[-1]["heldout/all/preference/accuracy"] == 1
    assert heldout[-1]["heldout/all/preference/loss"] < 0.5
    assert "heldout/all/bits/image" in heldout[-1]


def test_it_goes_on_where_it_stopped_with_the_same_reference(folder, checkpoint, tokens, preferred):
    out = folder / "again"
    shutil.copytree(preferred, out)
    (out / "done.json").unlink()
    shutil.rmtree(sorted((out / "checkpoints").iterdir())[-1])
    shutil.rmtree(out / "reference")  # computed anew, by the model as it was before training
    train(configured(checkpoint, tokens, out), folder / "again.yaml")
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (out, preferred))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_chats_are_no_preferences(checkpoint, tokens, tmp_path):
    config = configured(checkpoint, tokens, tmp_path / "out")
    config["data"]["stores"]["all"]["path"] = str(tokens / "chats")
    typed_config = typed(PreferenceConfig, config)
    objective = Preferences(begin_from(typed_config), typed_config)
    with pytest.raises(AnyglotError, match="no half of a preference"):
        objective.open(typed_config.data)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_two_processes_give_the_curve_of_one(stage, folder, checkpoint, tokens, preferred):
    out = folder / f"two-{stage}"
    train(configured(checkpoint, tokens, out, engine={"zero_stage": stage}), folder / f"two-{stage}.yaml", world=2)
    for key in ("loss", "preference/margin", "heldout/all/preference/loss"):
        ours, theirs = ([line[key] for line in log(run) if key in line] for run in (out, preferred))
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-5)
