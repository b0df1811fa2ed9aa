"""Samples of what a model answered, as files that people look at: `samples.json` and `media`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anyglot.data.documents import Part
from anyglot.eval.answers import Answer
from anyglot.eval.cases import by_direction, extremes, ranked
from anyglot.eval.documents import part_of
from anyglot.eval.scores import Score, keys
from anyglot.files import write_json
from anyglot.inference.anyglot import Anyglot, media_of
from anyglot.lm.vocabulary import TEXT

SAMPLES = "samples.json"
KEPT = 6  # items of a benchmark
Asked = tuple[Part | None, Part | None, Part | None]  # prompt, answer, and what was wanted


def write_samples(
    model: Anyglot, directions: Mapping[str, Sequence[Answer]], scores: Mapping[str, Score], keep: int, out: Path
) -> None:
    """Write samples.json, and the media that it names.

    Args:
        directions: `<source>_to_<target>.<group>` -> what was answered.
        scores: figures, `lm.<source>_to_<target>.<figure>_<group>`, by which some are better than others.
        keep: of each direction, the first ones; and half as many of the best, and of the worst.
    """
    measured = by_direction(scores)
    listed: dict[str, list[dict[str, Any]]] = {}
    for direction, answers in directions.items():
        source, target = direction.split(".")[0].split("_to_")
        chosen = choose([answer.document.id for answer in answers], measured.get(f"lm.{direction}", {}), keep)
        listed[direction] = []
        for place, nth in chosen:
            answer, name = answers[place], f"{direction}-{place}"
            prompt, wanted = part_of(answer.document, source), part_of(answer.document, target)
            listed[direction].append(
                {
                    "id": answer.document.id,
                    "nth": nth,
                    "prompt": _written(model, prompt, out, f"{name}-prompt"),
                    "answer": _written(model, answer.part(target), out, f"{name}-answer"),
                    "wanted": _written(model, wanted, out, f"{name}-wanted"),
                    "note": answer.note,
                    "right": answer.right,
                }
            )
    write_json(out / SAMPLES, listed)


def write_cases(out: Path, cases: Mapping[str, Mapping[str, Asked]], scores: Mapping[str, Score]) -> None:
    """Write samples.json of a benchmark, whose media are files already: of each direction the first `KEPT` items, and
    half as many of the best and of the worst.

    Args:
        cases: direction, as its figures' names begin -> id -> prompt, answer, and what was wanted.
        scores: by which some are better than others.
    """
    measured = by_direction(scores)
    listed: dict[str, list[dict[str, Any]]] = {}
    for direction, items in cases.items():
        names = list(items)
        listed[direction] = []
        for place, _ in choose(names, measured.get(direction, {}), KEPT):
            parts = zip(("prompt", "answer", "wanted"), items[names[place]], strict=True)
            listed[direction].append({"id": names[place]} | {key: _named(part) for key, part in parts})
    write_json(out / SAMPLES, listed)


def choose(ids: Sequence[str], scores: Mapping[str, Score], keep: int) -> list[tuple[int, int]]:
    """Which items to show: the first `keep`, then half as many of the best and of the worst that are not among them.

    Returns places in `ids`, and how many items with the same id stand before each.
    """
    found = {key: place for place, key in enumerate(keys(ids))}
    best, worst = extremes([case for case in ranked(scores) if (case.id, case.nth) in found], keep // 2)
    chosen = dict.fromkeys([*list(found)[:keep], *((case.id, case.nth) for case in (*best, *worst))])
    return [(found[key], key[1]) for key in chosen]


def _written(model: Anyglot, part: Part | None, out: Path, name: str) -> dict[str, str] | None:
    """A part as JSON: its text, or a file in `out/media`."""
    if part is None:
        return None
    if part.type == TEXT:
        return {"type": TEXT, "text": part.text or ""}
    tokenizer = model.tokenizers[part.type]
    media = media_of(tokenizer, part)
    path = out / "media" / f"{name}{tokenizer.preview_suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.preview(media, path)
    return {"type": part.type, "path": str(path.relative_to(out))}


def _named(part: Part | None) -> dict[str, str] | None:
    """A part as JSON: its text, or where its file is."""
    if part is None:
        return None
    if part.path is None:
        return {"type": part.type, "text": part.text or ""}
    return {"type": part.type, "path": str(part.path.resolve())}
