"""The state of a training run on disk: whole or absent, safe to read, exact to resume from.

A checkpoint is one file of tensors and plain values. `torch.load(weights_only=True)` reads it, so a checkpoint
from elsewhere cannot run code. RNG states and step counters go in beside the weights.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyglot.errors import AnyglotError
from anyglot.files import atomic_path


def save_state(path: str | Path, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors and plain values to one file, atomically."""
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def load_state(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """Read what `save_state` wrote, or None if there is no such file. Raises AnyglotError if it is damaged."""
    if not Path(path).exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged zip or pickle raises any of a dozen types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AnyglotError(f"{path}: damaged checkpoint ({reason}); delete it to start again, or restore it") from error
    return state


def rng_state() -> dict[str, Any]:
    """The global random generators of this process: Python, NumPy, torch and every CUDA device."""
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 (libraries draw from the global one)
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put the global random generators back to what `rng_state` returned."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([value.cpu() for value in state["cuda"]])


def seed_everything(seed: int) -> None:
    """Seed the global random generators of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
