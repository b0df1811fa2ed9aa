"""`anyglot eval`: the config's `kind` says what is measured."""

from importlib import import_module
from pathlib import Path
from typing import Any

from anyglot.errors import AnyglotError, ConfigError
from anyglot.eval.folder_report import write_if_possible
from anyglot.eval.records import Records

OWN = ("tokenizers", "language_model", "conversation", "recommendation", "harness")  # modules of anyglot.eval
BENCHMARKS = ("geneval", "coco_captions", "librispeech", "vbench", "humanml3d", "cycle")  # of anyglot.eval.benchmarks
KINDS = dict.fromkeys(OWN, "anyglot.eval") | dict.fromkeys(BENCHMARKS, "anyglot.eval.benchmarks")


def run(mapping: dict[str, Any], where: str) -> None:
    """Measure, write `<out>/metrics.json` and `report.html`, and print the figures."""
    kind = mapping.get("kind")
    if kind not in KINDS:
        raise ConfigError(f"{where}: key 'kind' is {kind!r}, must be one of: {', '.join(KINDS)}")
    metrics: dict[str, float] = import_module(f"{KINDS[kind]}.{kind}").run(mapping, where)
    out = Path(str(mapping.get("out", "")))
    failed = _failed(out, metrics)
    if not metrics:
        raise AnyglotError(f"{where}: nothing could be measured; {'; '.join(failed) or 'there was nothing to measure'}")
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value", title=where)
    for name, value in metrics.items():
        table.add_row(name, f"{value:,.4g}")
    console = Console()
    console.print(table)
    for line in failed:
        console.print(line, style="yellow", markup=False)
    console.print(write_if_possible(out), markup=False, soft_wrap=True)


def _failed(out: Path, metrics: dict[str, float]) -> list[str]:
    """A line for each figure of which items could not be measured, with the reason of the first."""
    if not (out / "records.json").is_file():
        return []
    records = Records.load(out)
    if records.metrics != metrics:  # of another evaluation: not all kinds write records
        return []
    return [
        f"{name}: {len(score.failed)} failed, first {next(iter(score.failed))}: {next(iter(score.failed.values()))}"
        for name, score in records.scores.items()
        if score.failed
    ]
