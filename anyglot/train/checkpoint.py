"""Checkpoints of a DeepSpeed run: whole or absent, checked before they are read, usable at another world size.

`<run>/checkpoints/step-00000123/` holds `checkpoint.json` (the step, the world size, every file's hash) and
DeepSpeed's own files under `state/`. The folder is written under another name and renamed last
(`checkpoint_writer.py`). DeepSpeed's files are pickles: load only checkpoints that you made. What is meant for others
is the model export (`export.py`).
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anyglot.errors import AnyglotError, MismatchError

FORMAT = 1
TAG = "state"  # DeepSpeed's name of the folder in a checkpoint
UNIVERSAL = "universal"


@dataclass
class RunState:
    """All that a run needs besides weights and optimiser: random draws are functions of (seed, step).

    step: optimiser steps done. steps: how many there will be, 0 while a time budget has not fixed it.
    seconds: time spent so far; warm_seconds: of these, before the speed was measured.
    fingerprint: of the data order; going on with another one is refused.
    """

    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    warm_seconds: float = 0.0
    fingerprint: str = ""


@dataclass
class Checkpoint:
    """A whole checkpoint on disk. universal: it must be loaded as a universal one, the world size having changed."""

    path: Path
    state: RunState
    universal: bool = False


def newest(directory: Path, world: int, zero_stage: int) -> Checkpoint | None:
    """The newest checkpoint, its files checked against their hashes, or None if there is none.

    One saved at another world size is converted to DeepSpeed's universal format beside it. Rank 0 calls it.
    Raises AnyglotError naming the damaged file, and MismatchError if it was saved at another ZeRO stage.
    """
    paths = steps_of(directory)
    if not paths:
        return None
    path = paths[-1]
    others = f"delete {path} to go on from {paths[-2].name}" if len(paths) > 1 else f"delete {path} to start again"
    try:
        description = json.loads((path / "checkpoint.json").read_text(encoding="utf-8"))
        if description["format"] != FORMAT:
            raise MismatchError(
                f"{path} has format {description['format']}, this Anyglot reads {FORMAT}; use the other"
            )
        state, files = RunState(**description["state"]), dict(description["files"])
        saved_world, saved_stage = int(description["world"]), int(description["zero_stage"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnyglotError(f"{path / 'checkpoint.json'}: damaged ({type(error).__name__}); {others}") from error
    for name, digest in files.items():
        if not (path / name).is_file() or hash_of(path / name) != digest:
            raise AnyglotError(f"{path / name}: damaged or missing; {others}")
    if saved_stage != zero_stage:
        raise MismatchError(
            f"{path} was saved at ZeRO stage {saved_stage}, the run asks for {zero_stage}; "
            f"set engine.zero_stage={saved_stage} to go on"
        )
    universal = saved_world != world and zero_stage > 0
    if universal:
        _to_universal(path)
    return Checkpoint(path, state, universal)


def load(engine: Any, checkpoint: Checkpoint) -> None:
    """Put weights and optimiser of a checkpoint into an engine; its settings stay. Every rank calls it."""
    tag = UNIVERSAL if checkpoint.universal else TAG
    optimizer = engine.basic_optimizer
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    loaded, _ = engine.load_checkpoint(str(checkpoint.path), tag=tag)
    if loaded is None:
        raise AnyglotError(f"{checkpoint.path}: DeepSpeed could not load it; delete it to go on from an older one")
    # Of a universal checkpoint ZeRO 3 gives all groups the first one's settings, and one tensor to count their steps.
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    for state in optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()


def _to_universal(path: Path) -> None:
    """Convert the sharded states of a checkpoint into one file per parameter, with DeepSpeed's own converter."""
    target = path / UNIVERSAL
    if target.is_dir():
        return
    partial = path / f".{UNIVERSAL}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", str(path / TAG), "--output_folder", str(partial)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()[-1]
        raise AnyglotError(f"{path}: cannot be converted to this world size ({reason}); resume with the one it had")
    os.replace(partial, target)


def steps_of(directory: Path) -> list[Path]:
    """The folders of whole checkpoints, oldest first."""
    return sorted(directory.glob("step-*"))


def hash_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
