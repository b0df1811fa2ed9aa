"""Checkpoints written while training goes on: equal to those that training waits for, whole or absent, never silent."""

import threading
from concurrent.futures import wait
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch.utils._pytree import tree_leaves

from anyglot.errors import AnyglotError
from anyglot.lm.model import LanguageModel, ModelConfig, build_model
from anyglot.train.checkpoint import RunState, load, newest
from anyglot.train.checkpoint_writer import CheckpointWriter
from anyglot.train.engine import EngineConfig, build_engine, process_group
from anyglot.train.memory import checkpoint_bytes, job_of

SHAPE = ModelConfig(hidden=32, layers=2, heads=4, key_value_heads=2, max_length=64)
IDS = torch.arange(24).view(2, 12)


@pytest.fixture(scope="module")
def group():
    with process_group() as ranks:
        yield ranks


def step(engine):
    places, documents = torch.arange(12).expand(IDS.shape), torch.zeros_like(IDS).int()
    engine.backward(engine(IDS, places, documents, IDS, torch.ones(IDS.shape)).total / 24, scale_wrt_gas=False)
    engine.step()


def engine_of(stage, dtype, seed=0):
    return build_engine(LanguageModel(build_model(SHAPE, 60, seed)), EngineConfig(zero_stage=stage), 2, dtype)


def tensors(folder):
    """All tensors of a checkpoint's files, in order."""
    files = sorted((folder / "state").glob("*.pt"))
    leaves = [leaf for file in files for leaf in tree_leaves(torch.load(file, weights_only=False))]
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize(
    ("stage", "dtype"),
    [(0, torch.float32), (0, torch.bfloat16), (1, torch.bfloat16), (2, torch.float32), (3, torch.bfloat16)],
    ids=str,
)
def test_what_is_written_later_is_what_was_there_at_the_step(group, tmp_path, monkeypatch, stage, dtype):
    """Twice, as the second copy takes the memory of the first; steps are taken before the thread may write."""
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

    engine, plain, may_write = engine_of(stage, dtype), TorchCheckpointEngine.save, threading.Event()

    def held(self, state_dict, path):
        if "/later/" in str(path):
            assert threading.current_thread() is not threading.main_thread()
            assert may_write.wait(60)
        plain(self, state_dict, path)

    monkeypatch.setattr(TorchCheckpointEngine, "save", held)
    with (
        CheckpointWriter(tmp_path / "now", 5, in_background=False, timeout_minutes=1) as now,
        CheckpointWriter(tmp_path / "later", 5, in_background=True, timeout_minutes=1) as later,
    ):
        for number in (1, 2):
            step(engine)
            state = RunState(step=number)
            now.save(engine, state)
            later.save(engine, state)
            state.step = 99
            step(engine)  # goes on, and changes what is being written
            later.check()
            assert not later.pending.done()
            may_write.set()
            later.wait()
            may_write.clear()
    for name in ("step-00000001", "step-00000002"):
        ours, theirs = tensors(tmp_path / "later" / name), tensors(tmp_path / "now" / name)
        assert len(ours) == len(theirs) > 3
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert not all(map(torch.equal, tensors(tmp_path / "later/step-00000001"), ours))

    found = newest(tmp_path / "later", 1, stage)
    assert found.state == RunState(step=2)
    again = engine_of(stage, dtype, seed=1)
    load(again, found)
    step(again)
    step(engine := reloaded(engine, tmp_path / "now", stage))
    with weights(engine) as one, weights(again) as other:
        assert all(map(torch.equal, one, other))

    copied = sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in ours) if s.nbytes()}.values())
    job = job_of(list(build_model(SHAPE, 60).parameters()), EngineConfig(), dtype, 1, accumulates=False)
    assert checkpoint_bytes(job, stage) == pytest.approx(copied, rel=0.02)


def reloaded(engine, directory, stage):
    load(engine, newest(directory, 1, stage))
    return engine


def weights(engine):
    import deepspeed

    class Whole(deepspeed.zero.GatheredParameters):
        def __enter__(self):
            super().__enter__()
            return [parameter.detach() for parameter in engine.module.parameters()]

    return Whole(list(engine.module.parameters()))


# ---------------------------------------------------------------------- what goes wrong, with a scripted engine


def scripted(save):
    """An engine of one small file; `save` stands for what writes it."""

    class Files:
        def save(self, state_dict, path):
            save(state_dict, path)

    files = Files()

    def save_checkpoint(folder, tag, **_):
        rank = dist.get_rank()
        files.save({"weights": torch.full((4,), float(rank))}, f"{folder}/rank{rank}.pt")

    return SimpleNamespace(checkpoint_engine=files, save_checkpoint=save_checkpoint, zero_optimization_stage=lambda: 1)


def fails(*_):
    raise OSError(28, "No space left on device")


def run(folder, *writes, then=lambda writer: None):
    """Save once with each of `writes`, do something, end."""
    with CheckpointWriter(folder, 2, in_background=True, timeout_minutes=1) as writer:
        for number, write in enumerate(writes, 1):
            writer.save(scripted(write), RunState(step=number))
        then(writer)


def next_step(writer):
    wait([writer.pending])
    writer.check()
    raise AssertionError("nothing was said at the next step")


def is_broken_off(writer):
    raise ZeroDivisionError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_failure_surfaces_at_the_next_step_and_costs_no_older_checkpoint(group, tmp_path):
    with pytest.raises(AnyglotError) as caught:
        run(tmp_path, torch.save, fails, then=next_step)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'step-00000002'} could not be written: OSError on rank 0: ")
    assert message.endswith("No space left on device; the same command goes on from the checkpoint before")
    assert names(tmp_path) == ["step-00000001"]
    assert newest(tmp_path, 1, 1).state.step == 1


def test_a_failure_of_the_last_one_ends_the_run_too(group, tmp_path):
    with pytest.raises(AnyglotError, match="No space left"):
        run(tmp_path, fails)


def test_a_run_that_ends_with_an_error_writes_its_last_checkpoint_and_ends_with_that_error(group, tmp_path, caplog):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, torch.save, then=is_broken_off)
    assert newest(tmp_path, 1, 1).state.step == 1
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, fails, then=is_broken_off)
    assert "No space left" in caplog.text


def test_what_a_killed_run_left_half_written_goes_and_the_newest_stay(group, tmp_path):
    half = tmp_path / ".step-00000002.partial"
    half.mkdir()
    (half / "rank0.pt").write_bytes(b"half")
    assert newest(tmp_path, 1, 1) is None
    run(tmp_path, *[torch.save] * 4)
    assert names(tmp_path) == ["step-00000003", "step-00000004"]


def rank_of_two(rank, folder):
    """Rank 1 cannot write its part of the second checkpoint: both learn it."""
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    with pytest.raises(AnyglotError, match="step-00000002 could not be written: OSError on rank 1: .* No space left"):
        run(folder / "checkpoints", torch.save, fails if rank else torch.save)
    dist.barrier()
    dist.destroy_process_group()


def test_every_rank_learns_what_failed_on_one(tmp_path):
    torch.multiprocessing.spawn(rank_of_two, (tmp_path,), nprocs=2)
    assert names(tmp_path / "checkpoints") == ["step-00000001"]
    assert names(tmp_path / "checkpoints/step-00000001") == ["checkpoint.json", "rank0.pt", "rank1.pt"]
    assert newest(tmp_path / "checkpoints", 2, 1).state.step == 1


class LearnsLate(CheckpointWriter):
    """A writer whose thread is told of a failure, and needs a while to say so."""

    may_say = threading.Event()

    def _finish(self, *arguments):
        try:
            super()._finish(*arguments)
        finally:
            assert self.may_say.wait(60)


def steps(kind, folder, rank, reached):
    """Steps in which both ranks meet. Rank 0 knows of the failure before the first, rank 1 after the third."""
    with kind(folder, 2, in_background=True, timeout_minutes=1) as writer:
        writer.save(scripted(fails), RunState(step=1))
        pending = writer.pending
        if rank == 0:
            wait([pending])
        for number in range(1, 20):
            dist.barrier()
            if rank == 1 and number == 4:
                writer.may_say.set()
                wait([pending])
            reached.append(number)
            writer.check()


def rank_that_steps(rank, folder):
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    reached = []
    with pytest.raises(AnyglotError, match="No space left"):
        steps(LearnsLate if rank else CheckpointWriter, folder / "checkpoints", rank, reached)
    assert reached == [1, 2, 3, 4]
    dist.barrier()
    dist.destroy_process_group()


def test_every_rank_ends_at_the_same_step_whenever_its_own_thread_learns_of_a_failure(tmp_path):
    """One that ended earlier would leave the other waiting in the next step."""
    torch.multiprocessing.spawn(rank_that_steps, (tmp_path,), nprocs=2)
