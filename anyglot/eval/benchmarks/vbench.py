"""VBench (arXiv 2311.17982), the one of its 16 dimensions that needs no network: temporal flickering.

VBench measures it on videos that its static filter lets pass, an optical flow network (RAFT). That filter is not run
here, so that real motion counts as flicker, and the figures say so in their names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from anyglot.config import to_mapping, typed
from anyglot.data.documents import Part
from anyglot.errors import AnyglotError, ConfigError, MediaError
from anyglot.eval.records import Records, fingerprint_of
from anyglot.eval.samples import Asked, write_cases
from anyglot.eval.scores import Score
from anyglot.tokenizers.clips import read_clip

SUFFIXES = (".mp4", ".webm", ".gif", ".avi", ".mov", ".mkv")
LEAST, MOST = 0.6293, 1.0  # between which VBench's tables stretch temporal flickering to 0 to 1


@dataclass
class VBench:
    """videos: a folder of them. max_pixels, max_frames: a video of more fails."""

    kind: str
    out: str
    videos: str
    max_pixels: int = 2**22
    max_frames: int = 1000

    def __post_init__(self) -> None:
        if min(self.max_pixels, self.max_frames) < 1:
            raise ConfigError("max_pixels and max_frames must be 1 or more")


def run(mapping: dict[str, Any], where: str) -> dict[str, float]:
    """Measure every video of a folder; write and return the figures."""
    config = typed(VBench, mapping, where)
    folder = Path(config.videos)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise AnyglotError(f"{folder}: no videos in it or below ({', '.join(SUFFIXES)})")
    records = Records(to_mapping(config), {"videos": fingerprint_of(files)})
    steadiness, failed = {}, {}
    for file in files:
        name = str(file.relative_to(folder))
        try:
            steadiness[name] = temporal_flickering(read_clip(file, 0, 0, config.max_pixels, config.max_frames))
        except MediaError as error:
            failed[name] = str(error)
    records.scores = scores_of(steadiness, failed)
    films: dict[str, Asked] = {name: (None, Part("video", path=folder / name), None) for name in steadiness}
    write_cases(Path(config.out), {"vbench": films}, records.scores)
    records.save(config.out)
    return records.metrics


def scores_of(steadiness: Mapping[str, float], failed: Mapping[str, str]) -> dict[str, Score]:
    """The mean over videos, and the same on the scale of VBench's tables."""
    names, stretched = list(steadiness), [(value - LEAST) / (MOST - LEAST) for value in steadiness.values()]
    return {
        "vbench.temporal_flickering_unfiltered": Score.mean(names, steadiness.values(), failed=failed),
        "vbench.temporal_flickering_unfiltered_normalised": Score.mean(names, stretched, failed=failed),
    }


def temporal_flickering(clip: np.ndarray) -> float:
    """1 less the mean absolute change from frame to frame by 255, of uint8 `[frames, height, width, 3]`; 1: it stands.

    Raises MediaError for a single frame.
    """
    if len(clip) < 2:
        raise MediaError("a single frame does not flicker; two or more are needed")
    changes = [np.abs(b.astype(np.int16) - a).mean() for a, b in pairwise(clip)]
    return float(1 - np.mean(changes) / 255)
