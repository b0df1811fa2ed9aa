import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers.base import load_tokenizer
from anyglot.tokenizers.objectives.image import ImageObjective
from anyglot.train import tokenizer as training
from anyglot.train.log import read_log
from anyglot.train.tokenizer import UNKNOWN, _estimates, run

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    lines = []
    for index in range(24):
        small = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize((16, 16), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
        split = "heldout" if index < 4 else "train"
        lines.append({"split": split, "parts": [{"type": "image", "path": f"{index}.png"}]})
    path = folder / "images.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def mapping(documents, out, **fields):
    """Everything that has state: discriminator, moving-average codebook with resets, quantizer dropout, weight EMA."""
    inner = {"type": "vq", "size": 16, "reset_below": 0.2}
    return {
        "stage": "tokenizer",
        "modality": "image",
        "out": str(out),
        "data": {"files": [str(documents)]},
        "model": {
            "network": {"patch": 2, "channels": [8, 16], "blocks": 1, "decoder_blocks": 1, "groups": 4},
            "dim": 6,
            "quantizer": {"type": "residual", "levels": 2, "dropout": 0.5, "inner": inner},
        },
        "objective": {
            "height": 16, "width": 16, "perceptual": 0.0, "discriminator_width": 8, "adversarial": 0.1,
            "discriminator_start": 2, "adversarial_start": 4,
        },
        "schedule": {"warmup": 3},
        "batch_size": 4,
        "steps": 12,
        "save_every": 4,
        "sample_every": 6,
        "log_every": 1,
        "ema": 0.9,
        **fields,
    }  # fmt: skip


def interrupt(monkeypatch, at):
    """Make the objective fail at a step, as a crash would."""
    whole = ImageObjective.generator_loss

    def failing(self, model, batch, step):
        if step == at:
            raise KeyboardInterrupt
        return whole(self, model, batch, step)

    monkeypatch.setattr(ImageObjective, "generator_loss", failing)


def same_tensors(a, b):
    first, second = load_file(a / "tokenizer/model.safetensors"), load_file(b / "tokenizer/model.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_interrupted_and_resumed_is_bit_for_bit_uninterrupted(documents, tmp_path, monkeypatch, precision):
    kept = {}
    save_state = training.save_state

    def keep(path, state):
        save_state(path, state)
        kept[str(path)] = copy.deepcopy(state)  # training goes on to change the tensors in it

    monkeypatch.setattr(training, "save_state", keep)
    for name, crashes in (("whole", []), ("cut", [6, 9])):
        for at in crashes:  # after the discriminator joined, twice
            with monkeypatch.context() as patch:
                interrupt(patch, at)
                with pytest.raises(KeyboardInterrupt):
                    run(mapping(documents, tmp_path / name, precision=precision), "test")
            assert not (tmp_path / name / "done.json").exists()
        run(mapping(documents, tmp_path / name, precision=precision), "test")
    assert same_tensors(tmp_path / "whole", tmp_path / "cut")
    logs = [
        [{k: v for k, v in line.items() if k != "time"} for line in read_log(tmp_path / n)] for n in ("whole", "cut")
    ]
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == list(range(1, 13))
    states = [kept[str(tmp_path / name / "state.pt")] for name in ("whole", "cut")]
    assert states[0]["step"] == states[1]["step"] == 8
    torch.testing.assert_close(states[0]["objective"], states[1]["objective"], rtol=0, atol=0)
    torch.testing.assert_close(states[0]["optimizers"][1]["state"], states[1]["optimizers"][1]["state"], rtol=0, atol=0)


def test_a_finished_run_leaves_a_tokenizer_and_is_not_repeated(documents, tmp_path):
    run(mapping(documents, tmp_path), "test")
    done = json.loads((tmp_path / "done.json").read_text())
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    assert done["steps"] == 12
    assert done["fingerprint"] == tokenizer.fingerprint
    assert not (tmp_path / "state.pt").exists()
    before = (tmp_path / "log.jsonl").read_bytes()
    run(mapping(documents, tmp_path), "test")
    assert (tmp_path / "log.jsonl").read_bytes() == before
    last = read_log(tmp_path)[-1]
    assert {"step", "steps", "loss", "time", "l1", "quantizer", "discriminator", "adversarial_weight"} <= last.keys()
    assert {"quantizer/usage", "grad_norm", "lr"} <= last.keys()


def test_pictures_are_shown_in_tensorboard(documents, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(mapping(documents, tmp_path, samples=3), "test")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    shown = events.Images("original above reconstruction")
    assert [event.step for event in shown] == [6, 12]
    assert (shown[0].width, shown[0].height) == (3 * 16, 2 * 16)


def test_codebook_health_is_shown_per_level(documents, tmp_path):
    """Over all the steps since the last line, not the last batch."""
    pytest.importorskip("matplotlib")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    quantizer = {"type": "residual", "levels": 2, "inner": {"type": "vq", "size": 16, "kmeans_init": False}}
    settings = mapping(documents, tmp_path, log_every=6)
    settings["model"] = {**settings["model"], "quantizer": quantizer}
    codes = []
    with pytest.MonkeyPatch.context() as patch:
        update = training.Health.update
        patch.setattr(training.Health, "update", lambda self, seen: (codes.append(seen.clone()), update(self, seen))[1])
        run(settings, "test")
    lines = read_log(tmp_path)
    assert [line["step"] for line in lines] == [6, 12]
    window = torch.cat(
        [each.reshape(-1, 2) for each in codes[::2][:6]]
    )  # the first log line's; every other is the plot's
    for level in (0, 1):
        used = len(window[:, level].unique())
        assert lines[0][f"quantizer/usage_{level}"] == used / 16
        assert lines[0][f"quantizer/dead_{level}"] == 16 - used
        share = window[:, level].bincount().double() / len(window)
        bits = float(torch.special.entr(share).sum()) / np.log(2)
        assert lines[0][f"quantizer/bits_{level}"] == pytest.approx(bits)
        assert lines[0][f"quantizer/perplexity_{level}"] == pytest.approx(2**bits)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"quantizer/usage_0", "quantizer/dead_1", "quantizer/bits_1"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("quantizer/code_use")] == [6, 12]
    assert (tmp_path / "health.png").exists()


def test_it_learns_and_the_average_is_what_is_kept(documents, tmp_path):
    settings = {"steps": 60, "optimizer": {"lr": 3e-3}, "batch_size": 8, "log_every": 10, "save_every": 1000}
    run(mapping(documents, tmp_path / "average", **settings), "test")
    losses = [line["l1"] for line in read_log(tmp_path / "average")]
    assert losses[-1] < 0.7 * losses[0]
    run(mapping(documents, tmp_path / "raw", **{**settings, "ema": 0.0}), "test")
    assert not same_tensors(tmp_path / "average", tmp_path / "raw")


def test_another_config_does_not_go_on_with_a_run(documents, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            run(mapping(documents, tmp_path), "test")
    with pytest.raises(ConfigError, match="unfinished run with another 'batch_size'"):
        run(mapping(documents, tmp_path, batch_size=8), "test")
    run(mapping(documents, tmp_path, log_every=3), "test")


def test_a_broken_step_is_not_saved(documents, tmp_path, monkeypatch):
    whole = ImageObjective.generator_loss

    def breaking(self, model, batch, step):
        loss, terms, reconstruction = whole(self, model, batch, step)
        return (loss * float("nan") if step == 7 else loss), terms, reconstruction

    monkeypatch.setattr(ImageObjective, "generator_loss", breaking)
    with pytest.raises(AnyglotError, match=r"loss nan .* at step 8; lower optimizer.lr"):
        run(mapping(documents, tmp_path), "test")
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 4


def test_a_damaged_state_is_one_clear_error(documents, tmp_path):
    (tmp_path / "state.pt").write_bytes(b"half a file")
    with pytest.raises(AnyglotError, match=r"state\.pt: damaged checkpoint"):
        run(mapping(documents, tmp_path), "test")


def test_a_budget_becomes_steps_and_is_kept(documents, tmp_path, monkeypatch):
    began = time.time()
    run(mapping(documents, tmp_path, minutes=0.1, save_every=1000, sample_every=1000), "test")
    took = time.time() - began
    lines = read_log(tmp_path)
    assert lines[0]["steps"] == UNKNOWN
    assert lines[-1]["step"] == lines[-1]["steps"] == json.loads((tmp_path / "done.json").read_text())["steps"]
    assert lines[-1]["step"] > 16
    assert took < 60  # six seconds, on any machine that is not ten times slower in its second half


def test_a_budget_is_estimated_again_until_two_thirds():
    assert [step for step in range(1, 200) if _estimates(step, UNKNOWN)] == [16, 24, 32, 48, 64, 96, 128, 192]
    assert [step for step in range(1, 1000) if _estimates(step, 300)] == [16, 24, 32, 48, 64, 96, 128, 192]


def test_bad_settings_are_refused(documents, tmp_path):
    with pytest.raises(ConfigError, match="objective: unknown key 'hight'; did you mean 'height'"):
        run(mapping(documents, tmp_path, objective={"hight": 16}), "test")
    with pytest.raises(AnyglotError, match="no tokenizer for modality 'smell'"):
        run(mapping(documents, tmp_path, modality="smell"), "test")
    with pytest.raises(ConfigError, match="ema"):
        run(mapping(documents, tmp_path, ema=1.0), "test")


SCRIPT = "import json, sys; from anyglot.train.tokenizer import run; run(json.loads(sys.argv[1]), 'test')"


@pytest.mark.slow
def test_killed_by_the_system_and_resumed(documents, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    settings = {"steps": 400, "save_every": 20, "log_every": 100, "sample_every": 1000, "precision": "fp32"}
    killed = json.dumps(mapping(documents, tmp_path / "killed", **settings))
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, killed], env=environment, cwd=REPOSITORY)
    while not (tmp_path / "killed/state.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed/done.json").exists()
    for out in (killed, json.dumps(mapping(documents, tmp_path / "whole", **settings))):
        subprocess.run([sys.executable, "-c", SCRIPT, out], env=environment, cwd=REPOSITORY, check=True)
    assert same_tensors(tmp_path / "killed", tmp_path / "whole")


def test_two_processes_train_one_model(documents, tmp_path):
    """Gradients are averaged and codebook statistics summed, so both ranks hold one model after any step."""
    script = tmp_path / "rank.py"
    script.write_text(
        "import json, sys\n"
        "from anyglot.train import tokenizer as t\n"
        "import anyglot.train.state as s\n"
        "whole = t._finish\n"
        "def finish(config, out, model, parameters, average, *rest):\n"
        "    world = rest[-1]\n"
        "    s.save_state(out / f'rank{world.rank}.pt', {'model': model.state_dict(), 'average': average})\n"
        "    whole(config, out, model, parameters, average, *rest)\n"
        "t._finish = finish\n"
        "t.run(json.loads(sys.argv[1]), 'test')\n"
    )
    settings = json.dumps(mapping(documents, tmp_path / "run", steps=6, save_every=3))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
        settings,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, env=environment, check=True, timeout=300)
    states = [torch.load(tmp_path / f"run/rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    assert (tmp_path / "run/done.json").exists()
    assert len(read_log(tmp_path / "run")) == 6
