"""Writing checkpoints while training goes on: their tensors are copied into the machine's memory, and a thread writes.

DeepSpeed's own decoupled writer reads the tensors themselves, so that the next optimiser step has to wait for it. Here
a step waits for the copy alone, and for the checkpoint before, where that is not whole yet.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from anyglot.errors import AnyglotError
from anyglot.files import write_json
from anyglot.train.checkpoint import FORMAT, TAG, RunState, hash_of, steps_of

logger = logging.getLogger(__name__)

T = TypeVar("T")


class CheckpointWriter:
    """Writes the checkpoints of a run, one at a time. A context manager, whose end waits for the last one.

    Every rank makes one, and calls its methods at the same steps.

    Args:
        directory: gets a folder for each checkpoint; what an earlier process left half written there is deleted.
        keep: how many of the newest stay.
        in_background: False: `save` returns when the checkpoint is whole, and copies nothing.
        timeout_minutes: how long a rank waits for the files of the others.
    """

    def __init__(self, directory: Path, keep: int, in_background: bool, timeout_minutes: float) -> None:
        self.directory, self.keep, self.in_background = directory, keep, in_background
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        # Of its own: what the thread tells other ranks must not meet the sums of a step.
        self.group: Any = dist.new_group(backend="gloo", timeout=timedelta(minutes=timeout_minutes))
        self.checks: Any = dist.new_group(backend="gloo", timeout=timedelta(minutes=timeout_minutes))
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.pending: Future[None] | None = None
        gpu = torch.cuda.is_available()
        self.stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=gpu, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=gpu
            )
        )
        if self.rank == 0:
            for partial in directory.glob(".step-*.partial"):
                shutil.rmtree(partial)

    def save(self, engine: Any, state: RunState) -> None:
        """Begin the checkpoint of `state.step`, the one before being whole. Raises AnyglotError if that one failed."""
        self.wait()
        final = self.directory / f"step-{state.step:08d}"
        partial = self.directory / f".{final.name}.partial"
        try:
            self._together(lambda: partial.mkdir(parents=True) if self.rank == 0 else None)
        except AnyglotError as error:
            raise _unwritten(final, error) from error
        with self._copied(engine) as files:
            engine.save_checkpoint(str(partial), tag=TAG, client_state={}, save_latest=False)
        description = {"format": FORMAT, "world": self.world, "zero_stage": engine.zero_optimization_stage()}
        description["state"] = asdict(state)
        write = engine.checkpoint_engine.save
        self.pending = self.thread.submit(self._finish, lambda: _write(files, write), partial, final, description)
        if not self.in_background:
            self.wait()

    def check(self) -> None:
        """Raise AnyglotError if all ranks know that the checkpoint begun last has failed; cheap enough for every step.

        All raise at the same step: one that ended before the others would leave them waiting for it in the next.
        """
        if self.pending and self._everywhere(self.pending.done()):
            self.wait()

    def _everywhere(self, mine: bool) -> bool:
        if self.world == 1:
            return mine
        known = torch.tensor([mine], dtype=torch.int32)
        dist.all_reduce(known, dist.ReduceOp.MIN, group=self.checks)
        return bool(known.item())

    def wait(self) -> None:
        """Wait until the checkpoint begun last is whole. Raises AnyglotError, on every rank, if it failed on one."""
        pending, self.pending = self.pending, None
        if pending:
            pending.result()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.thread.shutdown()  # also if the run has failed: what was begun then becomes the newest checkpoint
        self.stager.close()
        if error is None:
            self.wait()
        elif self.pending and (failure := self.pending.exception()):
            logger.warning("%s", failure)  # the run ends with its own error

    @contextmanager
    def _copied(self, engine: Any) -> Iterator[list[tuple[Any, str]]]:
        """Within it what DeepSpeed would write to files is copied instead: gives the copies and their paths.

        The memory of the copies is kept for those of the next checkpoint.
        """
        files: list[tuple[Any, str]] = []
        if not self.in_background:
            yield files
            return
        writer = engine.checkpoint_engine
        writer.save = lambda state_dict, path: files.append((self.stager.stage(state_dict), path))
        try:
            yield files
        finally:
            del writer.save  # the class's own is left

    def _finish(self, write: Callable[[], None], partial: Path, final: Path, description: dict[str, Any]) -> None:
        """Write this rank's files; when all ranks have, rank 0 gives the checkpoint its name."""
        try:
            self._together(write)
            hashes = self._together(lambda: _hashes(partial, self.rank, self.world))
            files = {name: digest for part in hashes for name, digest in part.items()}
            self._together(lambda: self._name(partial, final, description | {"files": files}))
        except AnyglotError as error:
            if self.rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
            raise _unwritten(final, error) from error

    def _name(self, partial: Path, final: Path, description: dict[str, Any]) -> None:
        """Make a checkpoint whose files are there a whole one, and delete those that are too old."""
        if self.rank == 0:
            write_json(partial / "checkpoint.json", description)
            if final.exists():
                shutil.rmtree(final)
            os.replace(partial, final)
            for old in steps_of(self.directory)[: -self.keep]:
                shutil.rmtree(old)

    def _together(self, work: Callable[[], T]) -> list[T]:
        """What `work` gives on every rank, when all are done. Raises AnyglotError on every rank if it fails on one."""
        try:
            mine: tuple[T | None, str] = (work(), "")
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError where a disk is full
            mine = (None, f"{type(error).__name__} on rank {self.rank}: {str(error).splitlines()[0]}")
        results: list[Any] = [None] * self.world
        dist.all_gather_object(results, mine, group=self.group)
        for _, failure in results:
            if failure:
                raise AnyglotError(failure)
        return [result for result, _ in results]


def _unwritten(final: Path, error: AnyglotError) -> AnyglotError:
    return AnyglotError(f"{final} could not be written: {error}; the same command goes on from the checkpoint before")


def _write(files: list[tuple[Any, str]], write: Callable[[Any, str], Any]) -> None:
    for state_dict, path in files:
        write(state_dict, path)


def _hashes(directory: Path, rank: int, world: int) -> dict[str, str]:
    """Of a share of a folder's files, by their names."""
    names = sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())
    return {name: hash_of(directory / name) for name in names[rank::world]}
