"""GenEval (arXiv 2310.11513): whether pictures show the objects, counts, colours and places that their prompts ask for.

What a picture shows is for GenEval's own detector to say. Here its folder of pictures is written, and its results file
is scored as its `summary_scores.py` does: the mean over tags of each tag's share of correct pictures.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyglot.config import to_mapping, typed
from anyglot.data.documents import Part
from anyglot.data.progress import JobProgress
from anyglot.errors import AnyglotError, ConfigError
from anyglot.eval.benchmarks.asking import AskedModel, ask
from anyglot.eval.benchmarks.files import read_json, read_json_lines
from anyglot.eval.records import Records, fingerprint_of
from anyglot.eval.samples import Asked, write_cases
from anyglot.eval.scores import Score
from anyglot.files import write_json, write_text

MADE = "anyglot.json"  # in the folder of pictures: the model that wrote them, and how it sampled


@dataclass
class GenEval:
    """prompts: GenEval's `evaluation_metadata.jsonl`. images: the folder of pictures, written if `model` has a
    checkpoint. results: the detector's file about them; "": not there yet. per_prompt: pictures of each prompt."""

    kind: str
    out: str
    prompts: str
    images: str
    results: str = ""
    per_prompt: int = 4
    model: AskedModel = field(default_factory=AskedModel)

    def __post_init__(self) -> None:
        if self.per_prompt < 1:
            raise ConfigError(f"per_prompt is {self.per_prompt}; it must be 1 or more")
        if bool(self.results) == bool(self.model.checkpoint):
            raise ConfigError(
                "give model.checkpoint to write the pictures, or then, without it, the detector's results"
            )


def run(mapping: dict[str, Any], where: str) -> dict[str, float]:
    """Write the pictures, or score what the detector says of them; write and return the figures."""
    config = typed(GenEval, mapping, where)
    prompts = [metadata for _, metadata in read_json_lines(config.prompts, "tag", "prompt")]
    records = Records(to_mapping(config), config.model.fingerprints() | {"prompts": fingerprint_of([config.prompts])})
    if config.results:
        records.fingerprints["results"] = fingerprint_of([config.results])
        made = Path(config.images) / MADE
        if made.exists():  # what wrote the pictures is half of what the score is of
            about = read_json(made)
            records.settings["model"] = about["model"]
            records.fingerprints |= about["fingerprints"]
        records.scores = score(Path(config.results), prompts, config.per_prompt)
        write_cases(Path(config.out), {"geneval": cases_of(config, prompts, records.scores)}, records.scores)
    else:
        records.scores = {"geneval.written": write_pictures(config, prompts)}
        about = {"model": to_mapping(config.model), "fingerprints": config.model.fingerprints()}
        write_json(Path(config.images) / MADE, about)
    records.save(config.out)
    return records.metrics


def cases_of(config: GenEval, prompts: Sequence[Mapping[str, Any]], scores: Mapping[str, Score]) -> dict[str, Asked]:
    """Each picture that the detector judged, with its prompt."""
    found: dict[str, Asked] = {}
    for name in scores["geneval.images"].ids:
        folder, _, number = name.partition("/")
        picture = Path(config.images) / folder / "samples" / f"{number}.png"
        found[name] = (Part("text", text=str(prompts[int(folder)]["prompt"])), Part("image", path=picture), None)
    return found


def write_pictures(config: GenEval, prompts: Sequence[Mapping[str, Any]]) -> Score:
    """Write `<images>/00000/metadata.jsonl` and `<images>/00000/samples/00000.png`...; the share that could be.

    Raises AnyglotError if the folder has something in it already, which might be of another model.
    """
    images = Path(config.images)
    if images.exists() and any(images.iterdir()):
        raise AnyglotError(
            f"{images}: there is something in it already; remove it or give `images` a folder of its own"
        )
    model = config.model.load()
    asked = {
        f"{folder:05d}/{number:05d}": [Part("text", text=str(metadata["prompt"]))]
        for folder, metadata in enumerate(prompts)
        for number in range(config.per_prompt)
    }
    written, failed = {}, {}
    with JobProgress(Path(config.out), {"pictures": len(asked)}) as progress:
        for name, part in ask(model, asked, "image", config.model, progress, "pictures"):
            written[name] = not isinstance(part, AnyglotError)
            if isinstance(part, AnyglotError):
                failed[name] = str(part)
            else:
                folder, _, number = name.partition("/")
                path = images / folder / "samples" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                model.tokenizers["image"].write(part.data, path)
    for place, metadata in enumerate(prompts):
        write_text(images / f"{place:05d}" / "metadata.jsonl", json.dumps(metadata) + "\n")
    names = sorted(written)
    return Score.mean(names, [written[name] for name in names], failed=failed, groups=_prompts(names))


def score(results: Path, prompts: Sequence[Mapping[str, Any]], per_prompt: int) -> dict[str, Score]:
    """The figures of a results file, JSON lines of `filename`, `tag` and `correct`, as the detector writes them.

    Returns:
        geneval.score: the mean over tags. geneval.<tag>: share of that tag's correct pictures. geneval.images: of all
        pictures; geneval.prompts: share of prompts with a correct one. Pictures that the file is silent about count in
        none of them, and are `failed`. Intervals resample prompts, with all their pictures.
    Raises AnyglotError naming the line: a picture twice, or of no prompt, or another tag than its prompt's.
    """
    correct: dict[str, bool] = {}
    for where, line in read_json_lines(results, "filename", "tag", "correct"):
        folder, name = _place(str(line["filename"]), where)
        if folder >= len(prompts) or prompts[folder]["tag"] != line["tag"]:
            raise AnyglotError(f"{where}: no prompt {folder} with tag {line['tag']!r}; are these results of `prompts`?")
        if name in correct or not isinstance(line["correct"], bool):
            raise AnyglotError(f"{where}: {name} is there twice, or its `correct` is neither true nor false")
        correct[name] = line["correct"]
    if not correct:
        raise AnyglotError(f"{results}: no results in it")
    wanted = {f"{folder:05d}/{number:05d}" for folder in range(len(prompts)) for number in range(per_prompt)}
    failed = dict.fromkeys(sorted(wanted - correct.keys()), "not in the results")
    tags = {name: str(prompts[int(name.partition("/")[0])]["tag"]) for name in sorted(wanted | correct.keys())}
    names = sorted(correct)
    sizes = Counter(tags[name] for name in names)
    shares = [1 / (sizes[tags[name]] * len(sizes)) for name in names]  # a tag's pictures have 1 / tags together
    right_shares = [correct[name] * share for name, share in zip(names, shares, strict=True)]
    found = {
        "geneval.score": Score(names, right_shares, shares, "", failed, _prompts(names)),
        "geneval.images": Score.mean(names, [correct[n] for n in names], failed=failed, groups=_prompts(names)),
    }
    folders = sorted(set(_prompts(names)))
    right = set(_prompts([name for name in names if correct[name]]))
    found["geneval.prompts"] = Score.mean(folders, [folder in right for folder in folders])
    for tag in dict.fromkeys(tags.values()):
        own = [name for name in names if tags[name] == tag]
        missing = {name: why for name, why in failed.items() if tags[name] == tag}
        found[f"geneval.{tag}"] = Score.mean(own, [correct[n] for n in own], failed=missing, groups=_prompts(own))
    return found


def _prompts(names: Sequence[str]) -> list[str]:
    """Of pictures' ids the prompts: pictures of one prompt are alike, and count together in an interval."""
    return [name.partition("/")[0] for name in names]


def _place(filename: str, where: str) -> tuple[int, str]:
    """A prompt's number and a picture's id, of `.../00012/samples/0003.png`."""
    path = Path(filename)
    folder, number = path.parent.parent.name, path.stem
    if not (folder.isdecimal() and number.isdecimal()):
        raise AnyglotError(f"{where}: {filename} is not <number of the prompt>/samples/<number>.png")
    return int(folder), f"{int(folder):05d}/{int(number):05d}"
