"""`report.html` of an evaluation's folder, of whatever kind, made of what the evaluation wrote there.

Figures are those of `metrics.json`, their intervals, items and failures those of `records.json`; cases are in
`samples.json`. What an older evaluation did not write is left out. Of a folder with several evaluations in it, such as
a suite's, one page is made.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anyglot.errors import AnyglotError
from anyglot.eval.directions import Evaluation, comparisons_of, directions_of, matrix_of, sections_of
from anyglot.eval.records import Records
from anyglot.eval.report import Measured, Report, read_json, read_measured, render
from anyglot.files import write_text

NEEDED = ("jinja2", "matplotlib")
STATES = "suite.json"  # what became of a suite's evaluations, in order


def write_if_possible(folder: str | Path) -> str:
    """Write the page if this installation can; a line that says where it is, or what is missing."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        return f"no report.html: it needs {' and '.join(missing)} (pip install 'anyglot[eval]')"
    return f"report: {write(folder)}"


def write(folder: str | Path) -> Path:
    """Write `report.html` into an evaluation's folder; returns its path.

    Raises AnyglotError: nothing was measured there, or a file is damaged.
    """
    page = Path(folder)
    evaluations, failed = read_all(page)
    metrics: dict[str, Any] = {}
    measured: dict[str, Measured] = {}
    for one in evaluations:
        metrics |= {one.prefix + name: value for name, value in one.metrics.items()}
        measured |= {one.prefix + name: value for name, value in read_measured(page / one.at).items()}
    write_text(page / "report.html", render(report_of(page, evaluations, failed), page, metrics, measured))
    return page / "report.html"


def read_all(page: Path) -> tuple[list[Evaluation], dict[str, str]]:
    """The evaluations in a folder, or else the one that it is of; and why others failed, as a suite says.

    Raises AnyglotError if there is none.
    """
    states = read_json(page / STATES)["evaluations"] if (page / STATES).is_file() else []
    failed = {one["name"]: one["failed"] for one in states if one["failed"]}
    inside = [one["name"] for one in states] or sorted(path.parent.name for path in page.glob("*/metrics.json"))
    found = [Evaluation.read(page, name, f"{name}.") for name in inside if name not in failed]
    if not inside:
        if not (page / "metrics.json").is_file():
            raise AnyglotError(f"{page}: no metrics.json; give the `out` folder of an evaluation that was finished")
        found = [Evaluation.read(page)]
    return found, failed


def report_of(page: Path, evaluations: list[Evaluation], failed: dict[str, str]) -> Report:
    """All that the page says."""
    kept = {one.prefix.rstrip("."): one.records for one in evaluations if one.records is not None}
    lost = {key for records in kept.values() for score in records.scores.values() for key in score.failed}
    summary = [f"{sum(len(one.metrics) for one in evaluations)} figures; {len(lost)} items could not be measured."]
    if len(kept) < len(evaluations):
        summary.append("Where records.json is missing, no intervals, failures, best and worst cases are known.")
    facts: dict[str, str] = {}
    for name, records in kept.items():
        facts |= {" ".join(filter(None, (name, label))): value for label, value in facts_of(records).items()}
    return Report(
        title=f"Evaluation: {page.resolve().name}",
        summary=" ".join(summary),
        commands=[f"anyglot eval --report {page}"],
        facts=facts,
        failed=failed,
        matrix=matrix_of(evaluations),
        sections=[section for one in evaluations for section in sections_of(one)],
        comparisons=[comparison for one in evaluations for comparison in comparisons_of(one)],
        directions=[direction for one in evaluations for direction in directions_of(one)],
        settings={f"settings {name}".strip(): _yaml(records.settings) for name, records in kept.items()},
    )


def facts_of(records: Records) -> dict[str, str]:
    """Checkpoint, seed, fingerprints and versions, as they were when it was measured."""
    asked = records.settings.get("model")
    settings = {**(asked if isinstance(asked, dict) else {}), **records.settings}
    facts = {
        name: str(settings[name]) for name in ("kind", "checkpoint", "seed") if settings.get(name) not in (None, "")
    }
    for name, found in (("fingerprints", records.fingerprints), ("versions", records.versions)):
        facts |= {name: ", ".join(f"{label} {value}" for label, value in found.items())} if found else {}
    return facts


def _yaml(settings: dict[str, Any]) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(settings)
