"""Codebook health where people look for it: numbers in the log, and a plot of how evenly codes are used."""

import logging
import math
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from anyglot.files import atomic_path
from anyglot.tokenizers.quantizers.health import Health
from anyglot.train.log import TrainingLog

logger = logging.getLogger(__name__)

LABELLED = 8  # levels; more get no legend


def health_scalars(health: Health) -> dict[str, float]:
    """Flat names for a log: `quantizer/usage_0`, `dead_0`, `perplexity_0`, `bits_0` and so on for every level, and
    `quantizer/usage` and `quantizer/perplexity`, the means over levels."""
    found = health.result()
    scalars = {
        f"quantizer/{name}_{level}": float(value)
        for level, one in enumerate(found)
        for name, value in one.to_json().items()
        if name != "size"
    }
    scalars["quantizer/usage"] = sum(one.usage for one in found) / len(found)
    scalars["quantizer/perplexity"] = sum(one.perplexity for one in found) / len(found)
    return scalars


def health_picture(health: Health) -> np.ndarray | None:
    """How often each level's codes occur, most frequent first, beside an even use of all: uint8 [height, width, 3].

    None where matplotlib is not installed, which is said once, and before any code was seen.
    """
    if not _can_draw() or not any(len(health.counts(level)) for level in range(len(health.levels))):
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), dpi=120, layout="tight")
    canvas = FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    for level, (size, found) in enumerate(zip(health.levels, health.result(), strict=True)):
        counts = health.counts(level).double().numpy()
        if len(counts):
            label = f"level {level}: {found.bits:.1f} of {math.log2(size):.1f} bits, {found.dead} dead"
            axis.plot((np.arange(len(counts)) + 1) / size, counts / counts.sum() * size, label=label)
    axis.axhline(1, color="#c5cad3", linewidth=0.8)
    axis.set(xlim=(0, 1), yscale="log", xlabel="share of the codebook", ylabel="use, times an even one")
    if len(health.levels) <= LABELLED:
        axis.legend(frameon=False, fontsize=7)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def show_health(health: Health, log: TrainingLog, step: int, path: Path) -> None:
    """Show the plot in TensorBoard, and keep it as a PNG file; on ranks other than 0 nothing happens."""
    picture = health_picture(health) if log.enabled else None
    if picture is not None:
        log.pictures(step, "quantizer/code_use", picture[None])
        with atomic_path(path) as temporary:
            Image.fromarray(picture).save(temporary, format="PNG")


@cache
def _can_draw() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        logger.warning("no plots of code use: drawing needs pip install 'anyglot[eval]'")
        return False
    return True
