"""The systems of the survey "Discrete Tokenization for Multimodal LLMs" (Li et al., 2025), and what is built of them.

`systems.tsv` lists them: 244 systems and 44 technique rows. The state of each is found, never typed: a
recipe is `configs/systems/<id>.yaml`: a config of `anyglot train` that says under `system:` where it comes from, the
claim that makes it itself, and the test that asserts the claim on real data.
"""

import ast
import csv
import difflib
import functools
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from anyglot.config import config_root, load_mapping, typed
from anyglot.errors import AnyglotError, ConfigError

TABLE = Path(__file__).with_name("systems.tsv")


@dataclass(frozen=True)
class System:
    """One row of the survey.

    state: "missing" = no recipe; "recipe" = a recipe whose test is not to be found (an installed wheel
    carries no tests); "tested" = recipe and test exist. recipe: config name, test: pytest node id; "" if none.
    """

    id: str
    name: str
    section: str
    kind: Literal["system", "technique"]
    state: Literal["missing", "recipe", "tested"]
    recipe: str
    test: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class About:
    """The `system:` block of a recipe. source: paper or code. claim: what the test asserts. test: pytest node id."""

    source: str
    claim: str
    test: str


def about(mapping: dict[str, Any], where: str) -> About:
    """What a recipe says of itself. Raises ConfigError if it does not."""
    return typed(About, mapping.get("system", {}), f"{where}: system")


def systems(configs: Path | None = None, repository: Path | None = None) -> list[System]:
    """All rows in the survey's order, with their state.

    Args:
        configs: the folder of configs (default: the shipped one). repository: where test paths start.
    Raises:
        ConfigError: a recipe that no row of the survey has, or one that is not a valid config.
    """
    configs = configs or config_root()
    repository = repository or config_root().parent
    recipes = {path.stem: path for path in sorted((configs / "systems").glob("*.yaml"))}
    with open(TABLE, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    unknown = sorted(recipes.keys() - {row["id"] for row in rows})
    if unknown:
        raise ConfigError(f"{recipes[unknown[0]]}: no system of the survey has the id {unknown[0]!r}")
    return [System(**row, **_found(recipes.get(row["id"]), repository)) for row in rows]  # type: ignore[arg-type]


def _found(recipe: Path | None, repository: Path) -> dict[str, str]:
    if recipe is None:
        return {"state": "missing", "recipe": "", "test": ""}
    test = about(load_mapping(recipe), str(recipe)).test
    state = "tested" if test and _test_exists(test, repository) else "recipe"
    return {"state": state, "recipe": f"systems/{recipe.stem}", "test": test}


def _test_exists(node: str, repository: Path) -> bool:
    """Whether `tests/file.py::test_name[case]` (or `::Class::test_name`) names a test function that is there."""
    path, *names = node.split("[")[0].split("::")
    file = repository / path
    return bool(names) and names[-1].startswith("test") and file.is_file() and tuple(names) in _tests_in(file)


@functools.cache
def _tests_in(file: Path) -> set[tuple[str, ...]]:
    """Names of a file's functions and methods, methods as (class, name)."""
    found: set[tuple[str, ...]] = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add((node.name,))
        elif isinstance(node, ast.ClassDef):
            found.update((node.name, item.name) for item in node.body if isinstance(item, ast.FunctionDef))
    return found


def show(as_json: bool, only: str = "") -> None:
    """Print the list, as a table or as a JSON array of objects; or one system with all that its recipe says of itself.

    Raises AnyglotError if `only` is no system's id.
    """
    rows = systems()
    if only:
        _show_one(only, rows, as_json)
        return
    if as_json:
        print(json.dumps([row.to_json() for row in rows], indent=1, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("id", "name", "section", "kind", "state", "recipe", box=None, header_style="bold")
    colours = {"missing": "dim", "recipe": "yellow", "tested": "green"}
    for row in rows:
        table.add_row(row.id, row.name, row.section, row.kind, f"[{colours[row.state]}]{row.state}[/]", row.recipe)
    console = Console()
    console.print(table)
    counts = {state: sum(row.state == state for row in rows) for state in colours}
    console.print(f"{len(rows)} rows: " + ", ".join(f"{count} {state}" for state, count in counts.items()))


def _show_one(wanted: str, rows: list[System], as_json: bool) -> None:
    row = next((row for row in rows if row.id == wanted), None)
    if row is None:
        near = difflib.get_close_matches(wanted, [row.id for row in rows], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; `anyglot systems` lists them"
        raise AnyglotError(f"the survey has no system {wanted!r}{hint}")
    said = asdict(about(load_mapping(row.recipe), row.recipe)) if row.recipe else {}
    if as_json:
        print(json.dumps({**row.to_json(), **said}, indent=1, ensure_ascii=False))
        return
    print(f"{row.name} ({row.id}), section {row.section}: {row.state}")
    if row.recipe:
        print(f"  source: {said['source']}\n  claim:  {said['claim']}\n  test:   {row.test}")
        print(f"  run:    anyglot train {row.recipe}")
