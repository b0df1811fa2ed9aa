"""Files of arrays over time, one row a step: `.npy`."""

import io
from pathlib import Path
from tokenize import TokenError

import numpy as np

from anyglot.errors import MediaError
from anyglot.files import atomic_path

# What NumPy raises for headers that are broken, or promise more than there is.
BROKEN = (ValueError, TypeError, SyntaxError, TokenError, OverflowError, RecursionError, MemoryError, OSError, EOFError)


def read_steps(source: str | Path | bytes, what: str) -> np.ndarray:
    """A `.npy` file or its bytes, numbers as float32. Raises MediaError naming the file, or `what` the bytes are."""
    name = f"{len(source)} bytes of {what}" if isinstance(source, bytes) else str(source)
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            found: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise MediaError(f"{name}: no such file; remove it from the list") from error
    except BROKEN as error:
        raise MediaError(f"{name}: not a .npy file of numbers; export the {what} again") from error
    return found.astype(np.float32) if found.dtype.kind in "fiu" else found


def write_steps(steps: np.ndarray, path: str | Path) -> None:
    """Write an array as `.npy`, atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, steps)


def check_steps(steps: np.ndarray, features: int, longest: int, name: str) -> None:
    """Raise MediaError unless `steps` are finite float32 `[time, features]`, 1 to `longest` of them."""
    if steps.ndim != 2 or steps.shape[1] != features or steps.dtype != np.float32 or not len(steps):
        raise MediaError(
            f"{name}: expected float32 [time, {features}], got {steps.dtype} {list(steps.shape)}; "
            "make its features as those of the training data were"
        )
    bad = ~np.isfinite(steps).all(axis=1)
    if bad.any():
        raise MediaError(f"{name}: NaN or infinity in {int(bad.sum())} steps; repair them")
    if len(steps) > longest:
        raise MediaError(f"{name}: {len(steps)} steps, more than max_steps={longest}; cut it or raise it")
