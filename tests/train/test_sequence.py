"""Sequence parallelism: ranks that share rows train as one process does."""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anyglot.data.batches import PackedBatch
from anyglot.errors import ConfigError
from anyglot.train.sequence import SequenceParallel, join, parts
from tests.train.runs import log, losses, make_store, train, weights, write_config

PLAIN = "model.attention_dropout=0"  # whose draws would differ by rank


def test_parts_are_the_batch_cut_into_equal_places():
    arrays = {field.name: np.arange(24).reshape(2, 12) * (i + 1) for i, field in enumerate(fields(PackedBatch))}
    batch = PackedBatch(**arrays)
    cut = [next(parts([batch], SequenceParallel(3, place, None, None))) for place in range(3)]
    for name, array in arrays.items():
        assert all(getattr(part, name).shape == (2, 4) for part in cut)
        assert np.array_equal(np.concatenate([getattr(part, name) for part in cut], axis=1), array)
    assert next(parts([batch], None)) is batch


@pytest.mark.parametrize(
    ("size", "length", "heads", "message"),
    [
        (3, 12, 6, "sequence_parallel=3 does not divide the 4 processes"),
        (2, 13, 6, "sequence_parallel=2 does not divide the 13 places of a row (data.length)"),
        (4, 12, 6, "sequence_parallel=4 does not divide the 6 heads"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(size, length, heads, message, monkeypatch):
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 4)
    with pytest.raises(ConfigError) as caught:
        join(size, SimpleNamespace(num_attention_heads=heads), length)
    assert str(caught.value) == message
    assert join(1, SimpleNamespace(num_attention_heads=heads), length) is None


def test_two_ranks_attend_as_one():
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    root = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    script = Path(__file__).with_name("sequence_ranks.py")
    result = subprocess.run(
        [*launcher, str(script)], capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "all equal" in result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sequence")


@pytest.fixture(scope="module")
def config(folder):
    return write_config(folder / "config.yaml", make_store(folder / "store"), folder / "one")


@pytest.fixture(scope="module")
def one(folder, config):
    """The run that others are compared with: one process, whole rows, all activations kept."""
    train(config, 1, PLAIN)
    return folder / "one"


def same_run(mine, theirs):
    np.testing.assert_allclose(losses(mine), losses(theirs), rtol=2e-5)
    for key in ("bits/image", "heldout/all/bits/speech", "gradient_norm", "padding"):
        ours, others = ([line[key] for line in log(run) if key in line] for run in (mine, theirs))
        np.testing.assert_allclose(ours, others, rtol=1e-4)
    for name, value in weights(theirs).items():
        torch.testing.assert_close(weights(mine)[name], value, rtol=1e-3, atol=1e-5)


def test_two_processes_that_share_rows_give_the_curve_of_one(folder, config, one):
    """With activations recomputed, so that the exchange happens again on the way back."""
    out = folder / "shared"
    train(config, 2, f"out={out}", PLAIN, "sequence_parallel=2", "activation_checkpointing=true")
    same_run(out, one)
    said = {line["attention"] for run in (out, one) for line in log(run) if "attention" in line}
    assert said == {"flash of torch, document by document"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [("engine.zero_stage=3",), ("engine.zero_stage=2", "attention=sdpa", "micro_rows=3")]
)
def test_four_processes_share_rows_two_by_two(options, folder, config, one):
    out = folder / f"four-{len(options)}"
    train(config, 4, f"out={out}", PLAIN, "sequence_parallel=2", *options)
    same_run(out, one)


@pytest.mark.slow
def test_a_run_goes_on_with_rows_shared_otherwise(folder, config):
    """A checkpoint knows nothing of it: the same two processes go on with rows of their own."""
    out, options = folder / "otherwise", (PLAIN, "schedule.kind=constant", "engine.zero_stage=2")
    train(config, 2, f"out={out}", *options, "sequence_parallel=2", "steps=4")
    train(config, 2, f"out={out}", *options)
    reference = folder / "constant"
    train(config, 1, f"out={reference}", *options)
    np.testing.assert_allclose(losses(out), losses(reference), rtol=2e-5)
