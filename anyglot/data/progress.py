"""How far a long job is: bars for people, `log.jsonl` for programs, in the form that training writes."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType


class JobProgress:
    """Use as a context manager.

    Args:
        out: folder that gets `log.jsonl`, a line `{"step", "steps", "time"}` about once a second; steps are all tasks'.
        totals: task -> how many items it has.
    """

    def __init__(self, out: Path, totals: Mapping[str, int]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=Console(stderr=True))
        self._tasks = {name: self._bars.add_task(name, total=total) for name, total in totals.items()}
        self._done = dict.fromkeys(totals, 0)
        self._steps = sum(totals.values())
        self._path = out / "log.jsonl"
        self._began = self._logged = time.monotonic()

    def __enter__(self) -> "JobProgress":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("")
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()

    def reach(self, task: str, done: int) -> None:
        """Say that `done` items of a task are finished."""
        self._done[task] = done
        self._bars.update(self._tasks[task], completed=done)
        now, step = time.monotonic(), sum(self._done.values())
        if now - self._logged >= 1 or step == self._steps:
            self._logged = now
            line = {"step": step, "steps": self._steps, "time": round(now - self._began, 3)}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def advance(self, task: str, items: int) -> None:
        """Say that `items` more of a task are finished."""
        self.reach(task, self._done[task] + items)
