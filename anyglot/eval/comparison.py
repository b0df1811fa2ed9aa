"""`anyglot eval --compare BEFORE AFTER`: what changed between two evaluations, and whether it is more than chance."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyglot.errors import AnyglotError
from anyglot.eval.records import Records, flat
from anyglot.eval.scores import Difference, difference

MAY_DIFFER = ("out", "checkpoint", "model.checkpoint", "fingerprint of checkpoint")  # what a comparison is about


@dataclass(frozen=True)
class Comparison:
    """differences: of figures that were measured item by item, on the items that both have. values: the others, before
    and after. failed: how many items of a figure could not be measured, before and after. only: figures that one of the
    two alone has. unlike: what else differs, before and after: settings by their names, "fingerprint of ..." and
    "version of ..."; differences may come from it."""

    differences: dict[str, Difference]
    values: dict[str, tuple[float, float]]
    failed: dict[str, tuple[int, int]]
    only: list[str]
    unlike: dict[str, tuple[Any, Any]]


def compare(before: Records, after: Records) -> Comparison:
    """Compare two evaluations, figure by figure. Raises AnyglotError if no figure is in both."""
    differences = {}
    for name in before.scores.keys() & after.scores.keys():
        one, other = before.scores[name], after.scores[name]
        found = difference(one, other) if one.scale == other.scale else None
        if found is not None:
            differences[name] = found
    values = {name: (value, after.values[name]) for name, value in before.values.items() if name in after.values}
    if not differences and not values:
        raise AnyglotError("the two evaluations have no figure in common")
    only = (before.metrics.keys() | after.metrics.keys()) - differences.keys() - values.keys()
    sides = _made_of(before), _made_of(after)
    unlike = {}
    for key in sides[0] | sides[1]:
        pair = sides[0].get(key), sides[1].get(key)
        if key not in MAY_DIFFER and pair[0] != pair[1]:
            unlike[key] = pair
    failed = {name: (len(before.scores[name].failed), len(after.scores[name].failed)) for name in differences}
    return Comparison(dict(sorted(differences.items())), values, failed, sorted(only), unlike)


def _made_of(records: Records) -> dict[str, Any]:
    """Settings, fingerprints and versions under names of their own: `documents` may be a setting and a fingerprint."""
    found = dict(sorted(flat(records.settings).items()))
    for what, values in (("fingerprint", records.fingerprints), ("version", records.versions)):
        found |= {f"{what} of {name}": values[name] for name in sorted(values)}
    return found


def show(before: Path, after: Path) -> None:
    """Print what changed. Raises AnyglotError that names a folder without records."""
    from rich.console import Console
    from rich.table import Table

    found = compare(Records.load(before), Records.load(after))
    console = Console()
    table = Table(
        "figure", "before", "after", "difference", "95 % interval", "items", "failed", title=f"{before} -> {after}"
    )
    for name, one in found.differences.items():
        interval = "" if one.interval is None else f"{one.interval[0]:+.4g} to {one.interval[1]:+.4g}"
        style = "bold" if one.certain else None
        cells = (name, f"{one.before:.4g}", f"{one.after:.4g}", f"{one.value:+.4g}", interval, str(one.items))
        failed = " and ".join(map(str, found.failed[name])) if any(found.failed[name]) else ""
        table.add_row(*cells, failed, style=style)
    for name, (value, other) in found.values.items():
        table.add_row(name, f"{value:.4g}", f"{other:.4g}", f"{other - value:+.4g}", "", "", "")
    console.print(table)
    console.print(
        "Bold: the interval leaves out 0, of ten items or more (or of ten groups, where items are alike in groups). "
        "Figures without one are not measured item by item. Items that failed in either are in no difference."
    )
    for key, (value, other) in found.unlike.items():
        console.print(f"Not alike: {key}: {value} and {other}", style="yellow", markup=False)
    if found.only:
        console.print(f"In one of them alone: {', '.join(found.only)}", markup=False)
