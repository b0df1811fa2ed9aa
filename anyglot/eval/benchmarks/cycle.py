"""Cycle consistency: a text is made into a medium and that into a text again, by the same model.

A model that agrees with itself is not therefore right: this is no substitute for judging the medium.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyglot.config import to_mapping, typed
from anyglot.data.documents import Part
from anyglot.data.progress import JobProgress
from anyglot.errors import AnyglotError, ConfigError
from anyglot.eval.benchmarks.asking import AskedModel, ask
from anyglot.eval.documents import load_documents, spread, text_of
from anyglot.eval.records import Records, fingerprint_of
from anyglot.eval.samples import Asked, write_cases
from anyglot.eval.scores import Score
from anyglot.eval.speech import word_errors
from anyglot.files import write_json
from anyglot.inference.anyglot import Anyglot
from anyglot.lm.vocabulary import TEXT


@dataclass
class Cycle:
    """documents: JSON lines whose texts are sent round, those of `split` ("" for all). through: modalities.
    limit: texts, evenly spaced, 0 for all."""

    kind: str
    out: str
    documents: list[str]
    through: list[str]
    model: AskedModel
    split: str = "heldout"
    limit: int = 0

    def __post_init__(self) -> None:
        if not self.model.checkpoint or not self.through or TEXT in self.through or self.limit < 0:
            raise ConfigError("model.checkpoint and media to go through are needed, and a limit of 0 or more")


def run(mapping: dict[str, Any], where: str) -> dict[str, float]:
    """Send every text through every modality; write and return the figures, and `texts.json` with what came back."""
    config = typed(Cycle, mapping, where)
    found = load_documents(config.documents)
    texts = {
        f"{place} {document.id}": text_of(document).strip()
        for place, document in enumerate(found)
        if not config.split or document.split == config.split
    }
    chosen = spread([name for name, text in texts.items() if text], config.limit)
    if not chosen:
        raise AnyglotError(f"no text among documents of split {config.split!r} in {', '.join(config.documents)}")
    wanted = {name: texts[name] for name in chosen}
    records = Records(to_mapping(config), config.model.fingerprints() | {"documents": fingerprint_of(config.documents)})
    model = config.model.load()
    for modality in config.through:
        model.check_target(modality)  # before the first is written
    totals = {f"{way} {modality}": len(wanted) for modality in config.through for way in ("text to", "back from")}
    told: dict[str, dict[str, str]] = {}
    with JobProgress(Path(config.out), totals) as progress:
        for modality in config.through:
            told[modality], lost = there_and_back(model, wanted, modality, config.model, progress)
            scores = compare(wanted, told[modality], lost)
            records.scores |= {f"cycle.text_{modality}_text.{name}": score for name, score in scores.items()}
    write_json(Path(config.out) / "texts.json", {"wanted": wanted, "told": told})
    cases = {f"cycle.text_{modality}_text": cases_of(wanted, returned) for modality, returned in told.items()}
    write_cases(Path(config.out), cases, records.scores)
    records.save(config.out)
    return records.metrics


def cases_of(wanted: dict[str, str], told: dict[str, str]) -> dict[str, Asked]:
    """Each text, and what came back of it."""
    back = {name: Part(TEXT, text=text) for name, text in told.items()}
    return {name: (Part(TEXT, text=text), back.get(name), None) for name, text in wanted.items()}


def there_and_back(
    model: Anyglot, texts: dict[str, str], modality: str, config: AskedModel, progress: JobProgress
) -> tuple[dict[str, str], dict[str, str]]:
    """The texts that came back, and why others did not."""
    media, told, lost = {}, {}, {}
    asked = {name: [Part(TEXT, text=text)] for name, text in texts.items()}
    for name, part in ask(model, asked, modality, config, progress, f"text to {modality}"):
        if isinstance(part, AnyglotError):
            lost[name] = str(part)
        else:
            media[name] = [Part(modality, data=part.data)]  # the medium, not the codes it was written in
    back = {name: media[name] for name in texts if name in media}
    for name, part in ask(model, back, TEXT, config, progress, f"back from {modality}"):
        if isinstance(part, AnyglotError):
            lost[name] = str(part)
        else:
            told[name] = (part.text or "").strip()
    return told, lost


def compare(wanted: dict[str, str], told: dict[str, str], lost: dict[str, str]) -> dict[str, Score]:
    """exact: share of texts that come back as they were. wer: word errors of all. exact_to_another, wer_to_another: the
    baseline, each text that came back held against the next one's original; of a single text there is none."""
    names = [name for name in wanted if name in told]
    found = {}
    for ending, of in (("", names), ("_to_another", [*names[1:], *names[:1]] if len(names) > 1 else [])):
        held = names if of else []
        originals, returned = [wanted[name] for name in of], [told[name] for name in held]
        same = [a == b for a, b in zip(originals, returned, strict=True)]
        found[f"exact{ending}"] = Score.mean(held, same, failed=lost)
        found[f"wer{ending}"] = word_errors(held, originals, returned)
        found[f"wer{ending}"].failed = dict(lost)
    return found
