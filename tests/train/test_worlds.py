"""One run on any number of processes: resumed on more or fewer, lacking a modality on a rank, losing a process.

DeepSpeed takes seconds to import, so that many runs share the processes of a launch.
"""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from anyglot.config import load_mapping, typed
from anyglot.data.batches import open_batches
from anyglot.train.pretrain import PretrainConfig
from tests.train.runs import command, log, losses, make_store, train, write_config

RUNS = """
import sys
from anyglot.config import load_mapping, typed
from anyglot.errors import AnyglotError
from anyglot.train.engine import process_group
from anyglot.train.pretrain import PretrainConfig, pretrain
with process_group() as (rank, world):
    for words in sys.argv[2:]:
        try:
            pretrain(typed(PretrainConfig, load_mapping(sys.argv[1], words.split())), rank, world)
        except AnyglotError as error:
            print("REFUSED", words, error)
"""
STAGES = (0, 1, 2, 3)
WORLDS = (1, 2)
HALF, WHOLE = "steps=4", "steps=8"


def launch(config, world, *runs):
    """Train each of `runs`, given as overrides, one after the other in the same processes; return what was printed."""
    script = config.with_name("runs.py")
    script.write_text(RUNS)
    start = [sys.executable]
    if world > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    result = subprocess.run(
        [*start, str(script), str(config), *runs],
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("worlds")


@pytest.fixture(scope="module")
def config(folder):
    path = write_config(folder / "config.yaml", make_store(folder / "store"), folder / "one")
    text = path.read_text().replace("kind: cosine", "kind: constant").replace("attention_dropout: 0.1", "dropout: 0")
    path.write_text(text.replace("evaluate_every: 4", "evaluate_every: 100"))
    return path


@pytest.fixture(scope="module")
def apart(folder):
    """Overrides for stores that hold one modality each, a row of one of them for each of two ranks."""
    stores = {name: make_store(folder / name, only=name) for name in ("text", "speech")}
    words = ["rows=2", "length=32", *(f"stores.{name}.path={path}" for name, path in stores.items()), "stores.all=null"]
    return " ".join(f"data.{word}" for word in words) + f" heldout.all={stores['speech']} engine.zero_stage=3"


@pytest.fixture(scope="module")
def resumed(folder, config, apart):
    """All runs: half of each in each world, then the other half in each. Gives what the last two launches printed."""
    runs = [(stage, "adamw") for stage in STAGES] + [(1, "muon")]

    def words(stage, optimizer, came, goes, steps):
        out = folder / f"{optimizer}-{stage}-{came}-{goes}"
        return f"out={out} engine.zero_stage={stage} engine.optimizer={optimizer} {steps}"

    for world in WORLDS:
        extra = [f"out={folder}/reference engine.zero_stage=1 {WHOLE}"] if world == 1 else []
        extra += [f"out={folder}/apart-{world} {apart} {WHOLE}"]
        launch(config, world, *(words(*run, world, world, HALF) for run in runs), *extra)
        for stage, optimizer in runs:
            here = folder / f"{optimizer}-{stage}-{world}-{world}"
            shutil.copytree(here, folder / f"{optimizer}-{stage}-{world}-{3 - world}")
    return {
        world: launch(config, world, *(words(*run, came, world, WHOLE) for run in runs for came in WORLDS))
        for world in WORLDS
    }


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("came", WORLDS)
@pytest.mark.parametrize("goes", WORLDS)
def test_a_run_goes_on_in_any_world_as_the_one_that_never_stopped(resumed, folder, stage, came, goes):
    mine, reference = losses(folder / f"adamw-{stage}-{came}-{goes}"), losses(folder / "reference")
    assert len(mine) == len(reference) == 8
    np.testing.assert_allclose(mine, reference, rtol=1e-4)
    assert reference[-1] < reference[0]


def test_muon_goes_on_in_its_own_world_and_says_that_it_cannot_in_another(resumed, folder):
    for world, printed in resumed.items():
        own, other = (folder / f"muon-1-{came}-{world}" for came in (world, 3 - world))
        assert len(losses(own)) == 8
        assert len(losses(other)) == 4
        assert f"REFUSED out={other} " in printed
        assert "cannot be converted to this world size" in printed
        assert "resume with the one it had" in printed


def test_a_rank_that_lacks_a_modality_neither_hangs_nor_changes_the_run(resumed, folder, config, apart):
    data = typed(PretrainConfig, load_mapping(config, apart.split())).data
    batches = open_batches(data)
    kinds = [[set(batches.local(k, rank, 2).modalities.flatten()) for rank in range(2)] for k in range(8)]
    speech = batches.mixture.vocabulary.modality_names.index("speech")
    assert any((speech in first) != (speech in second) for first, second in kinds)
    one, two = (losses(folder / f"apart-{world}") for world in WORLDS)
    assert len(two) == 8
    np.testing.assert_allclose(two, one, rtol=2e-5)


def start(config, out, *overrides):
    """Two processes under torchrun, and their ids once the run has done 4 steps. Its messages go to `out`.txt."""
    words = [*command(config, 2, f"out={out}", "steps=100000", "save_every=3", *overrides)]
    with open(f"{out}.txt", "w") as messages:
        launcher = subprocess.Popen(words, stderr=messages, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 200
    while not any(line["step"] >= 4 for line in log(out)):
        assert launcher.poll() is None, "the run ended before it was disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ranks = [p for p in psutil.Process(launcher.pid).children() if p.environ().get("RANK")]
    return launcher, {int(process.environ()["RANK"]): process for process in ranks}


@pytest.mark.slow
def test_a_killed_process_ends_the_job_with_a_message_and_a_restart_goes_on(resumed, folder, config):
    out = folder / "killed"
    launcher, ranks = start(config, out, "engine.zero_stage=2")
    ranks[1].send_signal(signal.SIGKILL)
    assert launcher.wait(timeout=200) != 0
    assert "SIGKILL" in (folder / "killed.txt").read_text()
    done = max(line["step"] for line in log(out))
    train(config, 2, f"out={out}", "engine.zero_stage=2", f"steps={done + 3}")
    assert len(losses(out)) == done + 3
    both = list(zip(losses(out), losses(folder / "reference"), strict=False))
    np.testing.assert_allclose(*zip(*both, strict=True), rtol=1e-4)


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_job_with_a_message(folder, config):
    out = folder / "hung"
    launcher, ranks = start(config, out, "engine.timeout_minutes=0.2")
    ranks[1].send_signal(signal.SIGSTOP)
    try:
        assert launcher.wait(timeout=200) != 0
    finally:
        for process in ranks.values():
            if process.is_running():
                process.kill()
    assert "rank 0 waits in vain for another process, which ended or hangs" in (folder / "hung.txt").read_text()
