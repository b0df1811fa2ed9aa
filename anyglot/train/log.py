"""What a training run tells: `log.jsonl` for programs, TensorBoard for curves and samples, a progress bar for people.

Only the first rank writes. Numbers of a resumed run follow the last ones of the run before it.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch.utils.tensorboard import SummaryWriter


class TrainingLog:
    """Log of one run in `directory`. Use as a context manager; on ranks other than 0 every call does nothing.

    Args:
        directory: gets `log.jsonl` and a `tensorboard` folder.
        title: the progress bar's text.
        step: the step a resumed run goes on from; later lines of an interrupted run are dropped.
        enabled: False on ranks other than 0.
    """

    def __init__(self, directory: str | Path, title: str, step: int = 0, enabled: bool = True) -> None:
        self.path = Path(directory) / "log.jsonl"
        self.title = title
        self.start = step
        self.enabled = enabled
        self.began = time.time()
        self._writer: SummaryWriter | None = None
        self._progress: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> "TrainingLog":
        if not self.enabled:
            return self
        from torch.utils.tensorboard import SummaryWriter

        self.path.parent.mkdir(parents=True, exist_ok=True)
        _drop_after(self.path, self.start)
        self._writer = SummaryWriter(str(self.path.parent / "tensorboard"), purge_step=self.start + 1)
        if sys.stderr.isatty():
            self._progress = _progress()
            self._task = self._progress.add_task(self.title, total=None, note="")
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._writer is not None:
            self._writer.close()

    @property
    def watched(self) -> bool:
        """Whether a progress bar is shown, so that its note is worth making."""
        return self._progress is not None

    def advance(self, step: int, steps: int, note: str = "") -> None:
        """Move the progress bar; cheap enough for every step."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step, total=steps, note=note)

    def scalars(self, step: int, steps: int, values: Mapping[str, float]) -> None:
        """Append one line `{"step", "steps", "time", **values}` and draw the values in TensorBoard.

        `values` should hold "loss". A NaN or infinity is written as null: JSON has neither.
        """
        if self._writer is None:
            return
        plain = {name: float(value) if np.isfinite(value) else None for name, value in values.items()}
        line = {"step": step, "steps": steps, "time": round(time.time() - self.began, 3), **plain}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def note(self, step: int, steps: int, name: str, text: str) -> None:
        """Append one line `{"step", "steps", "time", name: text}` and show the text in TensorBoard."""
        if self._writer is None:
            return
        line = {"step": step, "steps": steps, "time": round(time.time() - self.began, 3), name: text}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._writer.add_text(name, text, step)

    def pictures(self, step: int, name: str, pictures: np.ndarray) -> None:
        """Show uint8 pictures `[count, height, width, 3]`."""
        if self._writer is not None:
            self._writer.add_images(name, pictures, step, dataformats="NHWC")

    def sound(self, step: int, name: str, samples: np.ndarray, rate: int) -> None:
        """Play float samples `[time]` in [-1, 1] at `rate` Hz."""
        if self._writer is not None:
            self._writer.add_audio(name, samples[None], step, sample_rate=rate)

    def words(self, step: int, name: str, text: str) -> None:
        """Show text."""
        if self._writer is not None:
            self._writer.add_text(name, text, step)


def read_log(directory: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's `log.jsonl` so far. A last line cut off by a crash is left out."""
    path = Path(directory) / "log.jsonl"
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def _drop_after(path: Path, step: int) -> None:
    """Drop lines past `step`: an interrupted run will write them again."""
    from anyglot.files import write_text

    if path.exists():
        kept = [json.dumps(line) for line in read_log(path.parent) if line["step"] <= step]
        write_text(path, "".join(f"{line}\n" for line in kept))


def _progress() -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )
