"""Runs of the language model: any number of processes is one run, and so is a run that was killed and resumed."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from anyglot.train.schedule import ScheduleConfig, factor
from tests.train.runs import kill_after, log, losses, make_store, train, weights, write_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pretrain")


@pytest.fixture(scope="module")
def store(folder):
    return make_store(folder / "store")


@pytest.fixture(scope="module")
def config(folder, store):
    return write_config(folder / "config.yaml", store, folder / "one")


@pytest.fixture(scope="module")
def one(folder, config):
    """The run that others are compared with: one process, never interrupted."""
    train(config, 1)
    return folder / "one"


def test_a_run_learns_logs_and_exports(one):
    lines = log(one)
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 9))
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert {"bits/text", "bits/image", "bits/speech", "bits/structure", "gradient_norm", "tokens_per_second"} <= set(
        steps[0]
    )
    assert 0 < steps[0]["utilisation"] < 1
    assert 0 <= steps[0]["padding"] < 0.5
    assert 3 < steps[0]["bits/image"] < 9  # near the uniform bits over the vocabulary, in bits and not nats
    assert [line["step"] for line in lines if "heldout/all/bits/image" in line] == [4, 8]
    assert sorted(path.name for path in (one / "checkpoints").iterdir()) == ["step-00000006", "step-00000008"]
    assert json.loads((one / "done.json").read_text())["steps"] == 8


def test_a_finished_run_is_not_repeated(one, config):
    before = (one / "log.jsonl").read_bytes()
    said = f"{one} is finished, with 8 steps; ask for more `steps` to go on, or delete it to train again"
    assert train(config, 1).splitlines()[-1] == said
    assert train(config, 1, "steps=7").splitlines()[-1] == said
    assert (
        train(config, 1, "minutes=5").splitlines()[-1] == f"{one} is finished, with 8 steps; delete it to train again"
    )
    assert (one / "log.jsonl").read_bytes() == before


def test_a_finished_run_can_be_made_longer(one, config, folder):
    out = folder / "longer"
    shutil.copytree(one, out)
    train(config, 1, f"out={out}", "steps=10")
    lines = [line for line in log(out) if "loss" in line]
    assert [line["loss"] for line in lines[:8]] == losses(one)
    # the schedule is that of ten steps from there on
    shape = ScheduleConfig(kind="cosine", warmup=2)
    rates = [line["learning_rate"] / lines[0]["learning_rate"] * factor(shape, 0, 8) for line in lines]
    assert rates == pytest.approx([factor(shape, step, 8 if step < 8 else 10) for step in range(10)])
    assert json.loads((out / "done.json").read_text())["steps"] == 10
    assert any(not torch.equal(value, weights(one)[name]) for name, value in weights(out).items())


def test_a_finished_run_without_checkpoints_is_not_begun_anew(one, config, folder):
    out = folder / "slim"
    shutil.copytree(one, out)
    shutil.rmtree(out / "checkpoints")
    assert "8 steps, and its checkpoints are gone" in train(config, 1, f"out={out}", "steps=10", succeeds=False)
    assert all(torch.equal(value, weights(out)[name]) for name, value in weights(one).items())


def test_the_export_is_a_plain_hugging_face_model(one):
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(one / "model")
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights(one).items())


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_processes_give_the_curve_of_one(stage, folder, config, one):
    out = folder / f"two-{stage}"
    train(config, 2, f"out={out}", f"engine.zero_stage={stage}", "model.attention_dropout=0")
    if stage == 1:  # the reference without dropout, whose draws differ by rank
        train(config, 1, f"out={folder / 'plain'}", "model.attention_dropout=0")
    np.testing.assert_allclose(losses(out), losses(folder / "plain"), rtol=2e-5)
    for key in ("bits/image", "heldout/all/bits/speech", "gradient_norm"):
        mine, theirs = ([line[key] for line in log(run) if key in line] for run in (out, folder / "plain"))
        np.testing.assert_allclose(mine, theirs, rtol=1e-4)
    for name, value in weights(folder / "plain").items():
        torch.testing.assert_close(weights(out)[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("stage", [2, 3])
def test_muon_gives_one_curve_too_however_many_processes_and_kills(stage, folder, config):
    options = (f"engine.zero_stage={stage}", "engine.optimizer=muon", "model.attention_dropout=0")
    one, two, killed = (folder / f"muon-{stage}-{name}" for name in ("one", "two", "killed"))
    train(config, 1, f"out={one}", *options)
    assert losses(one)[-1] < losses(one)[0]
    train(config, 2, f"out={two}", *options)
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-4)
    kill_after(config, killed, 4, f"out={killed}", *options)
    train(config, 1, f"out={killed}", *options)
    assert losses(killed) == losses(one)


@pytest.mark.parametrize("stage", [1, 3])
def test_levels_inside_a_position_are_trained_by_any_number_of_processes_and_exported(stage, folder):
    """Also by a rank whose share of a batch has no such codes."""
    store = make_store(folder / f"depth-store-{stage}", streams={"speech": "depth"})
    one, two = (folder / f"depth-{stage}-{name}" for name in ("one", "two"))
    config = write_config(folder / f"depth-{stage}.yaml", store, one)
    options = (
        f"engine.zero_stage={stage}",
        "model.attention_dropout=0",
        "model.depth.heads=2",
        "engine.learning_rate=0.01",
    )
    train(config, 1, f"out={one}", *options)
    assert losses(one)[-1] < losses(one)[0]
    assert {"depth.json", "depth.safetensors"} <= {path.name for path in (one / "model").iterdir()}
    train(config, 2, f"out={two}", *options)
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-4)
    ours, theirs = (load_file(run / "model" / "depth.safetensors") for run in (one, two))
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-2, atol=1e-4)


def test_what_does_not_go_with_levels_inside_a_position_is_refused(folder):
    store = make_store(folder / "depth-refused", streams={"speech": "depth"})
    config = write_config(folder / "depth-refused.yaml", store, folder / "refused")
    assert "leave them out" in train(config, 1, "freeze=['*norm*']", succeeds=False)
    assert "set sequence_parallel=1" in train(config, 2, "sequence_parallel=2", succeeds=False)


def test_kill_and_resume_is_bit_identical(folder, config, one):
    out = folder / "killed"
    kill_after(config, out, int(np.random.default_rng().integers(1, 8)), f"out={out}")  # any step will do
    train(config, 1, f"out={out}")
    assert all(torch.equal(value, weights(one)[name]) for name, value in weights(out).items())
    assert losses(out) == losses(one)


NEVER_WRITES_STEP_6 = """
import time
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
plain = TorchCheckpointEngine.save
def save(self, state_dict, path):
    if "step-00000006" in path:
        time.sleep(1000)
    plain(self, state_dict, path)
TorchCheckpointEngine.save = save
"""


def test_a_kill_while_a_checkpoint_is_written_loses_nothing_older(folder, config, one):
    out = folder / "writing"
    kill_after(config, out, 8, f"out={out}", before=NEVER_WRITES_STEP_6)  # its steps go on meanwhile
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [
        ".step-00000006.partial",
        "step-00000003",
    ]
    train(config, 1, f"out={out}")
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-00000006", "step-00000008"]
    assert all(torch.equal(value, weights(one)[name]) for name, value in weights(out).items())
    assert losses(out) == losses(one)


def test_a_damaged_checkpoint_is_one_clear_error_and_loses_nothing(folder, config, one):
    out = folder / "damaged"
    kill_after(config, out, 7, f"out={out}", "save_async=false")  # the checkpoint of step 6 is whole by then
    checkpoint = out / "checkpoints" / "step-00000006"
    victim = next(path for path in checkpoint.rglob("*optim_states.pt"))
    victim.write_bytes(victim.read_bytes()[:-100])
    message = train(config, 1, f"out={out}", succeeds=False)
    assert f"{victim}: damaged or missing; delete {checkpoint} to go on from step-00000003" in message
    shutil.rmtree(checkpoint)
    train(config, 1, f"out={out}")
    assert all(torch.equal(value, weights(one)[name]) for name, value in weights(out).items())


def test_other_data_than_the_checkpoint_s_is_refused(folder, config, store):
    out = folder / "other"
    kill_after(config, out, 4, f"out={out}", "save_async=false")
    assert "give this run another `out`" in train(config, 1, f"out={out}", "data.seed=4", succeeds=False)
