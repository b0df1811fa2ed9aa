"""COCO captions (arXiv 1504.00325): pictures described in words, by CIDEr-D and BLEU.

Files as COCO has them: `captions_val2017.json` with `images` and `annotations`, results as a list of `image_id` and
`caption`. METEOR and SPICE need Java and are not measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyglot.config import to_mapping, typed
from anyglot.data.documents import Part
from anyglot.data.progress import JobProgress
from anyglot.errors import AnyglotError, ConfigError
from anyglot.eval.benchmarks.asking import AskedModel, ask
from anyglot.eval.benchmarks.caption_metrics import ORDERS, bleu, cider_d, simple_words
from anyglot.eval.benchmarks.files import read_json
from anyglot.eval.documents import spread
from anyglot.eval.records import Records, fingerprint_of
from anyglot.eval.samples import Asked, write_cases
from anyglot.eval.scores import Score
from anyglot.files import write_json


@dataclass
class CocoCaptions:
    """annotations: COCO's file of captions. images: the folder of pictures, which `model` describes; or
    results: a file of captions to score. tokenized: annotations and results went through the Penn Treebank tokenizer
    and are split at blanks; else our own words are compared, and the figures named so. limit: pictures, evenly spaced,
    0 for all. instruction: words after the picture."""

    kind: str
    out: str
    annotations: str
    images: str = ""
    results: str = ""
    tokenized: bool = False
    limit: int = 0
    instruction: str = ""
    model: AskedModel = field(default_factory=AskedModel)

    def __post_init__(self) -> None:
        if bool(self.results) == bool(self.images and self.model.checkpoint):
            raise ConfigError("give images and model.checkpoint to describe them, or results to score; not both")
        if self.limit < 0:
            raise ConfigError(f"limit is {self.limit}; it must be 0 or more")
        if self.tokenized and not self.results:
            raise ConfigError("tokenized is about results; what a model writes is not tokenized yet")


def run(mapping: dict[str, Any], where: str) -> dict[str, float]:
    """Describe the pictures, or read what was written of them; write and return the figures."""
    config = typed(CocoCaptions, mapping, where)
    pictures, references = read_annotations(config.annotations)
    asked = spread(sorted(references, key=int), config.limit)
    records = Records(
        to_mapping(config), config.model.fingerprints() | {"annotations": fingerprint_of([config.annotations])}
    )
    failed: dict[str, str] = {}
    if config.results:
        captions = read_results(config.results, set(references))
        records.fingerprints["results"] = fingerprint_of([config.results])
    else:
        captions, failed = describe(config, {name: pictures[name] for name in asked})
        lines = [{"image_id": int(name), "caption": captions[name]} for name in asked if name in captions]
        write_json(Path(config.out) / "captions.json", lines)
    failed |= {name: "no caption" for name in asked if name not in captions and name not in failed}
    here = [name for name in asked if name in captions]
    if not here:
        raise AnyglotError("not one of the pictures has a caption to score")
    records.scores, records.values = score(
        {name: captions[name] for name in here}, {name: references[name] for name in asked}, failed, config.tokenized
    )
    write_cases(Path(config.out), {"coco": cases_of(config, pictures, captions, references, here)}, records.scores)
    records.save(config.out)
    return records.metrics


def cases_of(
    config: CocoCaptions,
    pictures: Mapping[str, str],
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    names: Sequence[str],
) -> dict[str, Asked]:
    """Each picture, if it is known where they are, what was written of it, and what people wrote."""
    found: dict[str, Asked] = {}
    for name in names:
        picture = Part("image", path=Path(config.images) / pictures[name]) if config.images else None
        people = Part("text", text="\n".join(references[name]))
        found[name] = (picture, Part("text", text=captions[name]), people)
    return found


def score(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]], failed: Mapping[str, str], tokenized: bool
) -> tuple[dict[str, Score], dict[str, float]]:
    """CIDEr-D picture by picture, and BLEU, which is of all captions together.

    references: of all pictures that were asked about; those without a caption count in CIDEr-D's weights alone.
    """
    words, ending = (str.split, "") if tokenized else (simple_words, "_simple_words")
    written = [words(caption) for caption in captions.values()]
    wanted = [[words(reference) for reference in references[name]] for name in captions]
    others = [[words(one) for one in group] for name, group in references.items() if name not in captions]
    cider = Score.mean(list(captions), cider_d(written, wanted, others), failed=failed)
    values = {f"coco.bleu_{n}{ending}": value for n, value in zip(ORDERS, bleu(written, wanted), strict=True)}
    return {f"coco.cider_d{ending}": cider}, values


def describe(config: CocoCaptions, pictures: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The model's caption of each picture; and why there is none of the others."""
    model = config.model.load()
    instruction = [Part("text", text=config.instruction)] if config.instruction else []
    asked = {name: [Part("image", path=Path(config.images) / file), *instruction] for name, file in pictures.items()}
    captions, failed = {}, {}
    with JobProgress(Path(config.out), {"captions": len(asked)}) as progress:
        for name, part in ask(model, asked, "text", config.model, progress, "captions"):
            if isinstance(part, AnyglotError):
                failed[name] = str(part)
            else:
                captions[name] = (part.text or "").strip()
    return captions, failed


def read_annotations(path: str | Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Image id -> file name, and image id -> captions, of pictures that have one. Raises AnyglotError."""
    found = read_json(path)
    try:
        pictures = {str(int(one["id"])): str(one["file_name"]) for one in found["images"]}
        references: dict[str, list[str]] = {}
        for one in found["annotations"]:
            references.setdefault(str(int(one["image_id"])), []).append(str(one["caption"]))
    except (KeyError, TypeError, ValueError) as error:
        raise AnyglotError(f"{path}: not COCO's file of captions ({error!r})") from error
    if not references or not references.keys() <= pictures.keys():
        raise AnyglotError(f"{path}: no captions, or captions of pictures that it does not list")
    return pictures, references


def read_results(path: str | Path, known: set[str]) -> dict[str, str]:
    """Image id -> caption. Raises AnyglotError: a picture twice, or one that the annotations lack."""
    captions: dict[str, str] = {}
    try:
        lines = [(str(int(one["image_id"])), str(one["caption"])) for one in read_json(path)]
    except (KeyError, TypeError, ValueError) as error:
        raise AnyglotError(f"{path}: not a list of image_id and caption ({error!r})") from error
    for name, caption in lines:
        if name in captions or name not in known:
            raise AnyglotError(f"{path}: picture {name} is there twice, or not in the annotations")
        captions[name] = caption
    return captions
