"""Word error rate on folders laid out as LibriSpeech: `*.trans.txt` with lines of an id and its words, `<id>.flac`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyglot.config import to_mapping, typed
from anyglot.data.documents import Part
from anyglot.data.progress import JobProgress
from anyglot.errors import AnyglotError, ConfigError
from anyglot.eval.benchmarks.asking import AskedModel, ask
from anyglot.eval.benchmarks.files import read_text
from anyglot.eval.documents import spread
from anyglot.eval.records import Records, fingerprint_of
from anyglot.eval.samples import Asked, write_cases
from anyglot.eval.scores import Score
from anyglot.eval.speech import normalise_text, word_errors
from anyglot.files import write_text


@dataclass
class LibriSpeech:
    """data: a folder such as `LibriSpeech/test-clean`. model: what writes the words down; or transcripts: a file of
    such lines to score. limit: sounds, evenly spaced, 0 for all. instruction: words after the sound."""

    kind: str
    out: str
    data: str
    transcripts: str = ""
    limit: int = 0
    instruction: str = ""
    model: AskedModel = field(default_factory=AskedModel)

    def __post_init__(self) -> None:
        if bool(self.transcripts) == bool(self.model.checkpoint):
            raise ConfigError("give model.checkpoint to write the words down, or transcripts to score; not both")
        if self.limit < 0:
            raise ConfigError(f"limit is {self.limit}; it must be 0 or more")


def run(mapping: dict[str, Any], where: str) -> dict[str, float]:
    """Have the sounds written down, or read what was; write and return `librispeech.wer`, 0 to 1 and more."""
    config = typed(LibriSpeech, mapping, where)
    files = sorted(Path(config.data).rglob("*.trans.txt"))
    if not files:
        raise AnyglotError(
            f"{config.data}: no *.trans.txt in it or below; give a folder such as LibriSpeech/test-clean"
        )
    spoken = {name: (file.parent / f"{name}.flac", words) for file in files for name, words in read_lines(file).items()}
    asked = {name: spoken[name] for name in spread(sorted(spoken), config.limit)}
    records = Records(to_mapping(config), config.model.fingerprints() | {"data": fingerprint_of(files)})
    failed: dict[str, str] = {}
    if config.transcripts:
        heard = read_lines(Path(config.transcripts))
        records.fingerprints["transcripts"] = fingerprint_of([config.transcripts])
        if unknown := sorted(heard.keys() - spoken.keys()):
            raise AnyglotError(f"{config.transcripts}: {unknown[0]} is no sound of {config.data}")
    else:
        heard, failed = transcribe(config, {name: file for name, (file, _) in asked.items()})
        lines = [f"{name} {' '.join(words.split())}".strip() for name, words in sorted(heard.items())]
        write_text(Path(config.out) / "transcripts.txt", "".join(f"{line}\n" for line in lines))
    records.scores = {"librispeech.wer": score({name: words for name, (_, words) in asked.items()}, heard, failed)}
    cases: dict[str, Asked] = {
        name: (Part("speech", path=file), _text(heard.get(name)), _text(words)) for name, (file, words) in asked.items()
    }
    write_cases(Path(config.out), {"librispeech": cases}, records.scores)
    records.save(config.out)
    return records.metrics


def score(wanted: Mapping[str, str], heard: Mapping[str, str], failed: Mapping[str, str]) -> Score:
    """Edits over all sounds by words of all references, after `normalise_text`. Sounds of which nothing was heard, not
    even silence, are `failed`, and so are references without words."""
    reasons = dict(failed) | {name: "no transcript" for name in wanted if name not in heard and name not in failed}
    reasons |= {name: "a reference without words" for name, words in wanted.items() if not normalise_text(words)}
    names = [name for name in wanted if name not in reasons]
    found = word_errors(names, [wanted[name] for name in names], [heard[name] for name in names])
    found.failed = reasons
    return found


def transcribe(config: LibriSpeech, files: Mapping[str, Path]) -> tuple[dict[str, str], dict[str, str]]:
    """The words that the model hears in each file; and why there are none of the others."""
    model = config.model.load()
    instruction = [Part("text", text=config.instruction)] if config.instruction else []
    asked = {name: [Part("speech", path=file), *instruction] for name, file in files.items()}
    heard, failed = {}, {}
    with JobProgress(Path(config.out), {"sounds": len(asked)}) as progress:
        for name, part in ask(model, asked, "text", config.model, progress, "sounds"):
            if isinstance(part, AnyglotError):
                failed[name] = str(part)
            else:
                heard[name] = part.text or ""
    return heard, failed


def _text(words: str | None) -> Part | None:
    return None if words is None else Part("text", text=words)


def read_lines(path: Path) -> dict[str, str]:
    """Id -> words. Raises AnyglotError for an id that is there twice."""
    found: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        name, _, words = line.strip().partition(" ")
        if name in found:
            raise AnyglotError(f"{path}:{number}: {name} is there twice")
        if name:
            found[name] = words
    return found
