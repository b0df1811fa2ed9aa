"""How well tokenizers give back held-out media. Each modality's metrics are in `anyglot/eval/<modality>.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from anyglot.config import typed
from anyglot.data.documents import Document, Part
from anyglot.data.readers import read, slices
from anyglot.errors import AnyglotError
from anyglot.files import write_json
from anyglot.tokenizers.base import ModalityTokenizer, load_tokenizer


@dataclass
class TokenizersEval:
    """What to measure.

    tokenizers: modality -> directory. files: modality -> documents; where a metric needs to know what a medium shows
    or says, it is the document's text. out: folder of metrics.json, samples.json and media. split: of the documents
    measured; codebook usage is counted over `usage_items` of the others. items: media measured, 0 for all. keep: pairs
    of original and decoded written as files.
    """

    kind: str
    out: str
    tokenizers: dict[str, str]
    files: dict[str, list[str]]
    split: str = "heldout"
    items: int = 0
    usage_items: int = 1000
    keep: int = 8


@dataclass
class Item:
    """A medium, and what it shows or says."""

    media: np.ndarray
    text: str


def run(mapping: dict[str, Any], where: str) -> dict[str, float]:
    """Measure as a config says; write and return the figures, named `<modality>.<figure>`."""
    config = typed(TokenizersEval, mapping, where)
    out = Path(config.out)
    metrics: dict[str, float] = {}
    samples: dict[str, list[dict[str, str]]] = {}
    for modality, directory in config.tokenizers.items():
        tokenizer = load_tokenizer(directory)
        documents = [d for path in config.files[modality] for d in _documents(path)]
        measured = _items(tokenizer, [d for d in documents if d.split == config.split], config.items)
        others = _items(tokenizer, [d for d in documents if d.split != config.split], config.usage_items)
        if not measured:
            raise AnyglotError(f"no {modality} in split {config.split!r} of {', '.join(config.files[modality])}")
        figures = import_module(f"anyglot.eval.{modality}").evaluate(
            tokenizer, [i.media for i in measured], [i.text for i in measured], [i.media for i in others]
        )
        metrics |= {f"{modality}.{name}": value for name, value in figures.items()}
        samples[modality] = _write_pairs(tokenizer, measured[: config.keep], out)
    write_json(out / "samples.json", samples)
    write_json(out / "metrics.json", metrics)
    return metrics


def _documents(path: str) -> list[Document]:
    return [item for part in slices(path) for item in read(part) if isinstance(item, Document)]


def _items(tokenizer: ModalityTokenizer, documents: Sequence[Document], limit: int) -> list[Item]:
    """The documents' media of the tokenizer's modality, the first `limit` (0: all)."""
    items: list[Item] = []
    for document in documents:
        parts = [part for message in document.turns for part in message.parts]
        text = " ".join(part.text or "" for part in parts if part.type == "text")
        for part in parts:
            if part.type == tokenizer.modality and not (limit and len(items) >= limit):
                items.append(Item(_media(tokenizer, part), text or document.id))
    return items


def _media(tokenizer: ModalityTokenizer, part: Part) -> np.ndarray:
    if isinstance(part.data, np.ndarray):
        return part.data
    source = part.path if part.path is not None else part.data
    assert source is not None
    return tokenizer.read(source)


def _write_pairs(tokenizer: ModalityTokenizer, items: Sequence[Item], out: Path) -> list[dict[str, str]]:
    """Write media and what their codes give back to `out/media`; return the files' names, relative to `out`."""
    decoded = tokenizer.decode(tokenizer.encode([item.media for item in items]))
    pairs = []
    (out / "media").mkdir(parents=True, exist_ok=True)
    for number, (item, again) in enumerate(zip(items, decoded, strict=True)):
        names = {
            kind: f"media/{tokenizer.modality}-{number}-{kind}{tokenizer.suffix}" for kind in ("original", "decoded")
        }
        tokenizer.write(item.media, out / names["original"])
        tokenizer.write(again, out / names["decoded"])
        pairs.append({"label": item.text, **names})
    return pairs
