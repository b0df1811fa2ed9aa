"""`anyglot eval`: the config's `kind` says what is measured."""

from importlib import import_module
from typing import Any

from anyglot.errors import ConfigError

OWN = ("tokenizers", "language_model", "recommendation", "harness")  # modules of anyglot.eval
BENCHMARKS = ("geneval", "coco_captions", "librispeech", "vbench", "humanml3d", "cycle")  # of anyglot.eval.benchmarks
KINDS = dict.fromkeys(OWN, "anyglot.eval") | dict.fromkeys(BENCHMARKS, "anyglot.eval.benchmarks")


def run(mapping: dict[str, Any], where: str) -> None:
    """Measure, write `<out>/metrics.json`, and print the figures."""
    kind = mapping.get("kind")
    if kind not in KINDS:
        raise ConfigError(f"{where}: key 'kind' is {kind!r}, must be one of: {', '.join(KINDS)}")
    metrics: dict[str, float] = import_module(f"{KINDS[kind]}.{kind}").run(mapping, where)
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value", title=where)
    for name, value in metrics.items():
        table.add_row(name, f"{value:,.4g}")
    Console().print(table)
