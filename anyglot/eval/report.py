"""One self-contained HTML page about a run: curves, reconstructions, generations, figures beside their bars.

A run's script fills a `Report`, saves it as `report.json` beside `metrics.json` (figures under flat names) and
calls `build`; an evaluation's page is made by `anyglot/eval/folder_report.py`. All paths are relative to the run's
folder. The page needs no network: media are inside.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from anyglot.errors import AnyglotError
from anyglot.eval.page import data_uri, template
from anyglot.eval.plots import curves_svg
from anyglot.files import write_json, write_text
from anyglot.train.log import read_log


@dataclass
class Figure:
    """A line of a table of figures. name: key in metrics.json; bar: what it should reach; baselines: label -> key;
    digits: decimals, None: four digits that matter."""

    name: str
    label: str
    unit: str = ""
    bar: float | None = None
    better: Literal["higher", "lower"] = "higher"
    baselines: dict[str, str] = field(default_factory=dict)
    digits: int | None = 2

    def met(self, metrics: Mapping[str, Any]) -> bool | None:
        """Whether the bar is reached; None without a bar. A figure that was not measured does not reach it."""
        if self.bar is None:
            return None
        value = metrics.get(self.name)
        return value is not None and (value >= self.bar if self.better == "higher" else value <= self.bar)


@dataclass(frozen=True)
class Measured:
    """What records say of a figure beside its value. interval: of 95 %. items: that it is of; failures: that could not
    be measured."""

    interval: tuple[float, float] | None
    items: int
    failures: int


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
    """A medium as it was, and coded and decoded. note: how well."""

    label: str
    original: Part
    decoded: Part
    note: str = ""


@dataclass
class Comparison:
    """Originals beside what the codes gave back."""

    title: str
    what: str
    pairs: list[Pair]


@dataclass
class Sample:
    """One generation, or one item that was measured. wanted: the true answer, shown beside; right: what a check found,
    None = unchecked. label: what it is called; figures: label -> what was measured of it."""

    prompt: list[Part]
    answer: list[Part]
    wanted: list[Part] = field(default_factory=list)
    note: str = ""
    right: bool | None = None
    label: str = ""
    figures: dict[str, float] = field(default_factory=dict)


@dataclass
class Direction:
    """Generations of one kind, such as text to image.

    name: what links point to. figures: of all of them. best, worst: by `order`, which says what by. samples: others.
    failed: reason -> the items of which nothing was measured.
    """

    title: str
    what: str
    samples: list[Sample]
    name: str = ""
    figures: list[Figure] = field(default_factory=list)
    order: str = ""
    best: list[Sample] = field(default_factory=list)
    worst: list[Sample] = field(default_factory=list)
    failed: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Cell:
    """One modality from another. trained: whether the model learnt it. seen, heldout, validity: keys in metrics.json of
    what was measured of learnt documents, of others, and of spans; "" for what was not. direction: where the page has
    more of it."""

    trained: bool
    seen: str = ""
    heldout: str = ""
    validity: str = ""
    direction: str = ""


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
    records: folders of evaluations, of whose figures intervals are shown. settings: title -> a config, as YAML. failed:
    evaluation -> why it could not be made.
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
    records: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def save(self, directory: str | Path) -> None:
        """Write `report.json`."""
        write_json(Path(directory) / "report.json", asdict(self))

    @staticmethod
    def load(directory: str | Path) -> "Report":
        """Read `report.json`. Raises AnyglotError naming the file if it is missing or of another shape."""
        path = Path(directory) / "report.json"
        value = read_json(path)
        try:
            report: Report = _made(Report, value)
        except (TypeError, KeyError, AttributeError) as error:
            raise AnyglotError(f"{path}: not a report ({error}); write it with Report.save") from error
        return report


def build(directory: str | Path) -> Path:
    """Write `report.html` in a run's folder out of its report.json, metrics.json, records and logs; returns its path.

    Raises:
        AnyglotError: one of the files, or a medium that the report names, is missing or not of the expected kind.
    """
    run = Path(directory)
    report = Report.load(run)
    measured = {name: one for folder in report.records for name, one in read_measured(run / folder).items()}
    write_text(run / "report.html", render(report, run, read_json(run / "metrics.json"), measured))
    return run / "report.html"


def render(report: Report, run: Path, metrics: Mapping[str, Any], measured: Mapping[str, Measured]) -> str:
    """The page. metrics: the figures' values; measured: what else is known of some. Raises AnyglotError as `build`."""
    blocks: list[Section | Direction] = [*report.sections, *report.directions]
    figures = [figure for one in blocks for figure in one.figures]
    verdicts = [figure.met(metrics) for figure in figures]
    named = {figure.name for figure in figures} | {key for figure in figures for key in figure.baselines.values()}
    if report.matrix:
        cells = [cell for row in report.matrix.cells.values() for cell in row.values()]
        named |= {key for cell in cells for key in (cell.seen, cell.heldout, cell.validity)}
    return template(run).render(
        report=report,
        metrics=metrics,
        measured=measured,
        bars=sum(verdict is not None for verdict in verdicts),
        bars_met=sum(verdict is True for verdict in verdicts),
        further={name: value for name, value in sorted(metrics.items()) if name not in named},
        curves={stage.title: _curves(run, stage) for stage in report.stages},
    )


def read_measured(folder: Path) -> dict[str, Measured]:
    """What the records of an evaluation say of its figures; nothing if it kept none."""
    path = folder / "records.json"
    if not path.is_file():
        return {}
    try:
        figures = read_json(path)["figures"]
        return {name: Measured(one["interval"], one["n"], one["failures"]) for name, one in figures.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise AnyglotError(f"{path}: damaged ({error!r}); evaluate again") from error


def _curves(run: Path, stage: Stage) -> str:
    """A stage's curves as a data URI, "" if its log has none of them."""
    lines = read_log(run / stage.directory)
    drawn = [key for key in stage.curves if any(line.get(key) is not None for line in lines)]
    return data_uri(curves_svg(lines, drawn), "image/svg+xml") if drawn else ""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file. Raises AnyglotError naming it if it is missing or no JSON."""
    try:
        value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise AnyglotError(f"{path}: missing; the run has not come that far") from error
    except (OSError, ValueError) as error:
        raise AnyglotError(f"{path}: not valid JSON ({error})") from error
    return value


def _made(kind: Any, value: Any) -> Any:
    """`value` of a JSON file as a dataclass, or as lists and mappings of them. Raises KeyError for an unknown field."""
    if get_origin(kind) is UnionType:
        kind = None if value is None else get_args(kind)[0]
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: _made(hints[name], one) for name, one in value.items()})  # type: ignore[operator]
    if get_origin(kind) is list:
        return [_made(get_args(kind)[0], one) for one in value]
    if get_origin(kind) is dict:
        return {name: _made(get_args(kind)[1], one) for name, one in value.items()}
    return value
