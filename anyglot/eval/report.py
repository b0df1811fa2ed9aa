"""One self-contained HTML page about a run: curves, reconstructions, generations, figures beside their bars.

A run's script fills a `Report`, saves it as `report.json` beside `metrics.json` (figures under flat names) and
calls `build`. All paths are relative to the run's folder. The page needs no network: media are inside.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from anyglot.errors import AnyglotError
from anyglot.eval.plots import curves_svg, spectrogram_png
from anyglot.files import write_json, write_text
from anyglot.train.log import read_log

TEMPLATE = Path(__file__).with_name("report.html")
MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".gif": "image/gif", ".wav": "audio/wav", ".mp4": "video/mp4"}
WORDS = (".txt", ".json", ".smi")  # shown as they are


@dataclass
class Figure:
    """A line of the figures table. name: key in metrics.json; bar: what it should reach; baselines: label -> key."""

    name: str
    label: str
    unit: str = ""
    bar: float | None = None
    better: Literal["higher", "lower"] = "higher"
    baselines: dict[str, str] = field(default_factory=dict)
    digits: int = 2

    def met(self, metrics: Mapping[str, Any]) -> bool | None:
        """Whether the bar is reached; None without a bar. A figure that was not measured does not reach it."""
        if self.bar is None:
            return None
        value = metrics.get(self.name)
        return value is not None and (value >= self.bar if self.better == "higher" else value <= self.bar)


@dataclass
class Section:
    """Figures that belong together."""

    title: str
    figures: list[Figure]


@dataclass
class Stage:
    """A training. directory: holds its log.jsonl; curves: keys of the log that are drawn; what: one line about it."""

    title: str
    directory: str
    curves: list[str]
    what: str = ""


@dataclass
class Part:
    """A piece of content, keys as in documents: `text`, or `path` of a medium in the run's folder."""

    type: str
    text: str = ""
    path: str = ""


@dataclass
class Pair:
    """A medium as it was, and coded and decoded."""

    label: str
    original: Part
    decoded: Part


@dataclass
class Comparison:
    """Originals beside what the codes gave back."""

    title: str
    what: str
    pairs: list[Pair]


@dataclass
class Sample:
    """One generation. wanted: the true answer, shown beside; right: what a check found, None = unchecked."""

    prompt: list[Part]
    answer: list[Part]
    wanted: list[Part] = field(default_factory=list)
    note: str = ""
    right: bool | None = None


@dataclass
class Direction:
    """Generations of one kind, such as text to image."""

    title: str
    what: str
    samples: list[Sample]


@dataclass
class Cell:
    """One modality from another. trained: whether the model learnt it. seen, heldout, validity: keys in metrics.json of
    what was measured of learnt documents, of others, and of spans; "" for what was not."""

    trained: bool
    seen: str = ""
    heldout: str = ""
    validity: str = ""


@dataclass
class Matrix:
    """Source by target. targets: modality -> what is measured of it. cells: source -> target -> cell."""

    title: str
    what: str
    targets: dict[str, str]
    cells: dict[str, dict[str, Cell]]


@dataclass
class Report:
    """All that the page says beyond `metrics.json` and the logs.

    commands: exact shell commands, in order. facts: seeds, versions, machine, durations, as label -> value.
    """

    title: str
    summary: str
    commands: list[str]
    facts: dict[str, str]
    matrix: Matrix | None = None
    sections: list[Section] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    directions: list[Direction] = field(default_factory=list)

    def save(self, directory: str | Path) -> None:
        """Write `report.json`."""
        write_json(Path(directory) / "report.json", asdict(self))

    @staticmethod
    def load(directory: str | Path) -> "Report":
        """Read `report.json`. Raises AnyglotError naming the file if it is missing or of another shape."""
        path = Path(directory) / "report.json"
        value = _read(path)
        try:
            return Report(
                **{
                    **value,
                    "matrix": _matrix(value["matrix"]) if value.get("matrix") else None,
                    "sections": [_section(item) for item in value.get("sections", [])],
                    "stages": [Stage(**item) for item in value.get("stages", [])],
                    "comparisons": [_comparison(item) for item in value.get("comparisons", [])],
                    "directions": [_direction(item) for item in value.get("directions", [])],
                }
            )
        except (TypeError, KeyError) as error:
            raise AnyglotError(f"{path}: not a report ({error}); write it with Report.save") from error


def build(directory: str | Path) -> Path:
    """Write `report.html` in a run's folder out of its report.json, metrics.json and logs; returns its path.

    Raises:
        AnyglotError: one of the files, or a medium that the report names, is missing or not of the expected kind.
    """
    from jinja2 import Environment, StrictUndefined

    run = Path(directory)
    report, metrics = Report.load(run), _read(run / "metrics.json")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["uri"] = lambda path: _uri(run / path)
    environment.filters["spectrogram"] = lambda path: _data(spectrogram_png(run / path), "image/png")
    environment.filters["words"] = lambda path: _words(run / path)
    environment.filters["number"] = _number
    environment.tests["words"] = lambda path: path.endswith(WORDS)
    figures = [figure for section in report.sections for figure in section.figures]
    verdicts = [figure.met(metrics) for figure in figures]
    named = {figure.name for figure in figures} | {key for figure in figures for key in figure.baselines.values()}
    if report.matrix:
        cells = [cell for row in report.matrix.cells.values() for cell in row.values()]
        named |= {key for cell in cells for key in (cell.seen, cell.heldout, cell.validity)}
    page = environment.from_string(TEMPLATE.read_text("utf-8")).render(
        report=report,
        metrics=metrics,
        bars=sum(verdict is not None for verdict in verdicts),
        bars_met=sum(verdict is True for verdict in verdicts),
        further={name: value for name, value in sorted(metrics.items()) if name not in named},
        curves={stage.title: _curves(run, stage) for stage in report.stages},
    )
    write_text(run / "report.html", page)
    return run / "report.html"


def _curves(run: Path, stage: Stage) -> str:
    """A stage's curves as a data URI, "" if its log has none of them."""
    lines = read_log(run / stage.directory)
    drawn = [key for key in stage.curves if any(line.get(key) is not None for line in lines)]
    return _data(curves_svg(lines, drawn), "image/svg+xml") if drawn else ""


def _number(value: Any, digits: int = 2) -> str:
    """A figure as it is shown: `digits` decimals for fractions, thousands separated; other values as they are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "not measured" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def _words(path: Path) -> str:
    """What a text file says."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise AnyglotError(f"{path}: the report names it, but it cannot be read ({error})") from error


def _uri(path: Path) -> str:
    if path.suffix.lower() not in MEDIA_TYPES:
        raise AnyglotError(f"{path}: the report shows {', '.join(MEDIA_TYPES)} files")
    try:
        return _data(path.read_bytes(), MEDIA_TYPES[path.suffix.lower()])
    except OSError as error:
        raise AnyglotError(f"{path}: the report names it, but it cannot be read ({error.strerror})") from error


def _data(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise AnyglotError(f"{path}: missing; the run has not come that far") from error
    except json.JSONDecodeError as error:
        raise AnyglotError(f"{path}: not valid JSON ({error})") from error
    return value


def _matrix(value: dict[str, Any]) -> Matrix:
    cells = {source: {target: Cell(**cell) for target, cell in row.items()} for source, row in value["cells"].items()}
    return Matrix(**{**value, "cells": cells})


def _section(value: dict[str, Any]) -> Section:
    return Section(value["title"], [Figure(**figure) for figure in value["figures"]])


def _comparison(value: dict[str, Any]) -> Comparison:
    pairs = [Pair(pair["label"], Part(**pair["original"]), Part(**pair["decoded"])) for pair in value["pairs"]]
    return Comparison(value["title"], value["what"], pairs)


def _direction(value: dict[str, Any]) -> Direction:
    samples = []
    for item in value["samples"]:
        parts = {key: [Part(**part) for part in item.get(key, [])] for key in ("prompt", "answer", "wanted")}
        samples.append(Sample(**{**item, **parts}))
    return Direction(value["title"], value["what"], samples)
