"""What an evaluation's page says of each direction: figures beside their baselines, best and worst cases, failures."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from anyglot.eval.cases import Case, by_direction, direction_of, extremes, lower_is_better, ranked
from anyglot.eval.page import can_show, number
from anyglot.eval.records import Records
from anyglot.eval.report import Cell, Comparison, Direction, Figure, Matrix, Pair, Part, Sample, Section, read_json
from anyglot.eval.samples import SAMPLES
from anyglot.eval.scores import Score

SHOWN = 3  # best cases, and worst
ARROW = "→"
WHOM = {"seen": "what it was to learn", "heldout": "held out from its training"}
CONTROLS = ("untrained", "shuffled")  # endings of what stands beside `<figure>_seen`
BASELINES = ("unigram", "to_another")  # endings of what stands beside `<figure>`
PAIR = re.compile(r"lm\.([a-z]+)_to_([a-z]+)\.(\w+)_(seen|heldout)")


@dataclass
class Evaluation:
    """What an evaluation wrote.

    page, at: where the page is, and the evaluation's folder relative to it. prefix: what the names of its figures begin
    with, on a page of several. records: None if it kept none. samples: direction -> items.
    """

    page: Path
    at: str
    prefix: str
    metrics: dict[str, Any]
    records: Records | None
    samples: dict[str, list[dict[str, Any]]]

    @staticmethod
    def read(page: str | Path, at: str = ".", prefix: str = "") -> "Evaluation":
        """Read an evaluation's folder. Raises AnyglotError naming a file that is missing or damaged."""
        folder = Path(page) / at
        records = Records.load(folder) if (folder / "records.json").is_file() else None
        samples = read_json(folder / SAMPLES) if (folder / SAMPLES).is_file() else {}
        return Evaluation(Path(page), at, prefix, read_json(folder / "metrics.json"), records, samples)

    @property
    def scores(self) -> dict[str, Score]:
        """The figures that were measured item by item, baselines left out."""
        beside, scores = baselines(self.metrics), self.records.scores if self.records else {}
        return {name: score for name, score in scores.items() if name not in beside}

    @property
    def cases(self) -> dict[str, list[dict[str, Any]]]:
        """Samples, by the direction that figures' names say."""
        pairs = {name.rpartition(".")[0] for name in self.metrics}
        names = {key: f"lm.{key}" if f"lm.{key.partition('.')[0]}" in pairs else key for key in self.samples}
        return {names[key]: rows for key, rows in self.samples.items() if not _coded(rows)}


def baselines(metrics: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Figures that stand beside another: their name -> the other's, and what they are called there."""
    found = {}
    for name in metrics:
        for ending, beside in (*((one, "_seen") for one in CONTROLS), *((one, "") for one in BASELINES)):
            if name.endswith(f"_{ending}") and (other := name.removesuffix(f"_{ending}") + beside) in metrics:
                found[name] = (other, ending.replace("_", " "))
    return found


def figures_by_direction(one: Evaluation) -> dict[str, list[str]]:
    """Direction -> the names of its figures, main one first; "" for those that are of none."""
    found = {key: list(scores) for key, scores in by_direction(one.scores).items()}
    found |= {key: found.get(key, []) for key in one.cases} | {"": []}
    beside, placed = baselines(one.metrics), set(chain(*found.values()))
    for name in one.metrics:
        if name not in beside and name not in placed:
            near = (direction_of(name)[0], *(f"{name.rpartition('.')[0]}.{group}" for group in WHOM))
            found[next((key for key in near if key in found), "")].append(name)
    return found


def directions_of(one: Evaluation) -> list[Direction]:
    """Whatever has cases to show, or items that failed."""
    return [found for found in _all(one) if _has_cases(found)]


def sections_of(one: Evaluation) -> list[Section]:
    """The figures that are of no such direction, by what their names begin with."""
    shown = {figure.name for found in directions_of(one) for figure in found.figures}
    groups: dict[str, list[str]] = {}
    for name in chain(*figures_by_direction(one).values()):
        if one.prefix + name not in shown:
            groups.setdefault(name.rpartition(".")[0], []).append(name)
    return [Section(one.prefix + (prefix or "figures"), _figures(one, names)) for prefix, names in groups.items()]


def _all(one: Evaluation) -> list[Direction]:
    measured, samples = by_direction(one.scores), one.cases
    found = []
    for key, names in figures_by_direction(one).items():
        if not key:
            continue
        scores = measured.get(key, {})
        rows = {_key(row): row for row in samples.get(key, [])}
        cases = ranked(scores)
        best, worst = extremes(cases, SHOWN) if rows or _tells(cases) else ([], [])
        shown = {(case.id, case.nth) for case in (*best, *worst)}
        found.append(
            Direction(
                title=one.prefix + title_of(key),
                what=WHOM.get(key.rpartition(".")[2], ""),
                samples=[_sample(one, row) for place, row in rows.items() if place not in shown],
                name=one.prefix + key,
                figures=_figures(one, names, key.rpartition(".")[2]),
                order=", then ".join(direction_of(name)[1] + " (low)" * lower_is_better(name) for name in scores),
                best=[_case(one, case, rows) for case in best],
                worst=[_case(one, case, rows) for case in worst],
                failed=_failed(scores),
            )
        )
    return found


def _has_cases(direction: Direction) -> bool:
    return bool(direction.best or direction.samples or direction.failed)


def _tells(cases: Sequence[Case]) -> bool:
    """Whether the names of cases alone say something: of right and wrong ones, any three are as good as others."""
    return len({next(iter(case.figures.values())) for case in cases}) > 2


def comparisons_of(one: Evaluation) -> list[Comparison]:
    """Media beside what their codes gave back, best first where that was measured."""
    found = []
    for modality, rows in one.samples.items():
        if _coded(rows):
            cases = ranked(_first_of(one, modality))
            places = {(case.id, case.nth): place for place, case in enumerate(cases)}
            pairs = []
            for row in sorted(rows, key=lambda row: places.get(_key(row), len(cases))):
                original, decoded = (
                    _part(one, {"type": modality, "path": row[key]}) for key in ("original", "decoded")
                )
                note = _rank(cases, places[_key(row)]) if _key(row) in places else ""
                pairs.append(Pair(row["label"], original, decoded, note))
            found.append(Comparison(f"{one.prefix}{modality}", "original, and coded and decoded", pairs))
    return found


def _first_of(one: Evaluation, modality: str) -> dict[str, Score]:
    """A tokenizer's figures of the items that it was measured on."""
    found = (scores for key, scores in by_direction(one.scores).items() if key.partition(".")[0] == modality)
    return next(found, {})


def _rank(cases: Sequence[Case], place: int) -> str:
    figures = ", ".join(
        f"{direction_of(name)[1]} {number(value, None)}" for name, value in cases[place].figures.items()
    )
    return f"{place + 1} of {len(cases)}: {figures}"


def matrix_of(evaluations: Sequence[Evaluation]) -> Matrix | None:
    """Source by target, of everything that was asked of a language model; None of fewer than two directions."""
    cells: dict[tuple[str, str], Cell] = {}
    targets: dict[str, str] = {}
    named = {found.name for one in evaluations for found in directions_of(one)}
    for one in evaluations:
        for name in one.metrics:
            if asked := PAIR.fullmatch(name):
                source, target, figure, group = asked.groups()
                cell = cells.setdefault((source, target), Cell(True))
                if targets.setdefault(target, figure) == figure:
                    setattr(cell, group, one.prefix + name)
                    link = f"{one.prefix}lm.{source}_to_{target}.{group}"
                    cell.direction = cell.direction or (link if link in named else "")
                valid = f"lm.{source}_to_{target}.span_validity"
                cell.validity = one.prefix + valid if valid in one.metrics else ""
    if len(cells) < 2:
        return None
    sources = dict.fromkeys(source for source, _ in cells)
    return Matrix(
        "Source by target",
        "Of what was to be learnt, and of what was held out; and the share of spans that parse and decode.",
        {target: figure.replace("_", " ") for target, figure in targets.items()},
        {source: {target: cells.get((source, target), Cell(False)) for target in targets} for source in sources},
    )


def title_of(direction: str) -> str:
    """`lm.text_to_image.heldout` as people say it."""
    words = direction.removeprefix("lm.") if "_to_" in direction else direction
    return words.replace("_to_", f" {ARROW} ").replace(".heldout", ".held out").replace(".", ", ")


def _figures(one: Evaluation, names: Sequence[str], group: str = "") -> list[Figure]:
    """Lines of a table; `group`, which its title says, is not said again."""
    beside = baselines(one.metrics)
    found = []
    for name in names:
        own = {label: one.prefix + other for other, (of, label) in beside.items() if of == name}
        found.append(
            Figure(one.prefix + name, name.rpartition(".")[2].removesuffix(f"_{group}"), baselines=own, digits=None)
        )
    return found


def _case(one: Evaluation, case: Case, rows: Mapping[tuple[str, int], dict[str, Any]]) -> Sample:
    row = rows.get((case.id, case.nth))
    sample = _sample(one, row) if row else Sample([], [], label=case.id)
    sample.figures = {direction_of(name)[1]: value for name, value in case.figures.items()}
    return sample


def _sample(one: Evaluation, row: Mapping[str, Any]) -> Sample:
    prompt, answer, wanted = ([_part(one, row[key])] if row[key] else [] for key in ("prompt", "answer", "wanted"))
    return Sample(prompt, answer, wanted, row.get("note", ""), row.get("right"), row["id"])


def _part(one: Evaluation, part: Mapping[str, str]) -> Part:
    """A part of samples.json; words in its place if its file is gone, or of a kind that pages cannot show."""
    if "path" not in part:
        return Part(part["type"], part.get("text", ""))
    path = Path(one.at) / part["path"]
    return Part(part["type"], path=str(path)) if can_show(one.page / path) else Part("text", f"(no {part['path']})")


def _key(row: Mapping[str, Any]) -> tuple[str, int]:
    """Which item a row of samples.json is; older ones of tokenizers do not say."""
    return row.get("id", ""), row.get("nth", 0)


def _coded(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether samples are of a tokenizer: originals, and what their codes gave back."""
    return bool(rows) and "decoded" in rows[0]


def _failed(scores: Mapping[str, Score]) -> dict[str, list[str]]:
    """Reason -> items, of all figures."""
    found: dict[str, list[str]] = {}
    for key, reason in dict(chain(*(score.failed.items() for score in scores.values()))).items():
        found.setdefault(reason, []).append(key)
    return found
