"""The launch scripts: clean shell, and the command line that each makes of a cluster's variables."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "scripts" / "launch").glob("*.sh"))


@pytest.fixture
def run(tmp_path):
    """Run a script with stand-ins for commands, given as their shell lines; returns the result."""

    def run(script, *words, stand_ins, **variables):
        for name, line in stand_ins.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
            (tmp_path / name).chmod(0o755)
        environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
        (path,) = (path for path in SCRIPTS if path.name == script)
        return subprocess.run([path, *words], capture_output=True, text=True, env=environment | variables, check=False)

    return run


def test_there_are_two_of_them():
    assert [path.name for path in SCRIPTS] == ["hostfile.sh", "slurm.sh"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean_shell(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed; syntax alone was checked")
    subprocess.run(["shellcheck", script], check=True)


def test_slurm_starts_one_torchrun_a_node(run):
    stand_ins = {"scontrol": "printf 'node7\\nnode8\\n'", "srun": 'echo "$OMP_NUM_THREADS" "$@"'}
    job = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "42"}
    found = run(
        "slurm.sh", "sizes/7b", "out=a b", stand_ins=stand_ins, **job, SLURM_GPUS_ON_NODE="8", SLURM_CPUS_PER_TASK="64"
    )
    assert found.stdout.strip() == (
        "8 --kill-on-bad-exit=1 torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint node7:29500 "
        "--rdzv-id 42 --max-restarts 3 -m anyglot train sizes/7b out=a b"
    )
    assert found.returncode == 0


def test_a_hostfile_s_run_that_fails_is_started_again(run, tmp_path):
    fails_once = 'echo "$@" >> "$CALLS"; [ "$(wc -l < "$CALLS")" -ge 2 ]'
    found = run("hostfile.sh", "hosts.txt", "sizes/7b", "out=a b", stand_ins={"deepspeed": fails_once})
    assert found.returncode == 0
    line = "--hostfile hosts.txt --master_port 29500 --module anyglot train sizes/7b out=a b"
    assert (tmp_path / "calls").read_text().splitlines() == [line, line]
    assert "ended with an error; start 1 of 4" in found.stderr


def test_a_hostfile_s_run_that_keeps_failing_is_given_up(run, tmp_path):
    found = run("hostfile.sh", "hosts.txt", "sizes/7b", stand_ins={"deepspeed": "exit 7"}, RESTARTS="1")
    assert found.returncode == 1
    assert found.stderr.count("ended with an error") == 2


def test_a_missing_config_is_told(run):
    found = run("hostfile.sh", "hosts.txt", stand_ins={"deepspeed": "exit 0"})
    assert found.returncode == 2
    assert "usage:" in found.stderr
