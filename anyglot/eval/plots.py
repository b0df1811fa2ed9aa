"""Pictures for reports: training curves as SVG, a sound's spectrogram as PNG."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anyglot.errors import MediaError

POINTS = 1000  # drawn per curve at most
INK, LINE = "#5b6472", "#2563a8"


def curves_svg(lines: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> bytes:
    """Small panels side by side, one per key: the logged values faint, their running mean strong."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    style = {"svg.hashsalt": "anyglot", "font.size": 8, "axes.edgecolor": "#c5cad3", "text.color": INK}
    columns = min(len(keys), 4)
    rows = math.ceil(len(keys) / columns)
    with matplotlib.rc_context({**style, "xtick.color": INK, "ytick.color": INK}):
        figure, axes = pyplot.subplots(rows, columns, figsize=(2.6 * columns, 1.9 * rows), squeeze=False)
        for panel, key in zip(axes.flat, keys, strict=False):
            points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
            points = points[:: math.ceil(len(points) / POINTS)]
            steps, values = np.array(points, dtype=float).T
            panel.plot(steps, values, color=LINE, alpha=0.25, linewidth=0.8)
            panel.plot(steps, running_mean(values, max(1, len(values) // 30)), color=LINE, linewidth=1.3)
            panel.set_title(key, loc="left", fontsize=9)
            panel.grid(color="#eceef2", linewidth=0.6)
            panel.spines[["top", "right"]].set_visible(False)
        for panel in axes.flat[len(keys) :]:
            panel.set_axis_off()
        figure.tight_layout()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return buffer.getvalue()


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over the last `width` values (fewer at the start), shape as `values` `[n]`."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (total[ends] - total[starts]) / (ends - starts)


def spectrogram_png(path: str | Path, height: int = 64, window: int = 512, hop: int = 128) -> bytes:
    """Log-magnitude spectrogram of a mono sound file, low frequencies at the bottom, over 70 dB, as a PNG.

    Raises MediaError naming the file if it is no sound.
    """
    import soundfile
    from matplotlib import colormaps
    from PIL import Image

    try:
        samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise MediaError(f"{path}: not a sound file that can be read ({error})") from error
    mono = np.pad(samples.mean(axis=1), (0, window))
    frames = np.lib.stride_tricks.sliding_window_view(mono, window)[::hop] * np.hanning(window)
    decibels = 20 * np.log10(np.abs(np.fft.rfft(frames)) + 1e-6).T[::-1]
    shade = np.clip((decibels - decibels.max()) / 70 + 1, 0, 1)
    coloured = (colormaps["magma"](shade)[..., :3] * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coloured).resize((max(coloured.shape[1], 1), height)).save(buffer, "PNG")
    return buffer.getvalue()
