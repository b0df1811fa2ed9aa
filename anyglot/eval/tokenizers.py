"""How well tokenizers give back held-out media. Each modality's metrics are in `anyglot/eval/<modality>.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from anyglot.config import typed
from anyglot.data.documents import Document
from anyglot.errors import AnyglotError, ConfigError
from anyglot.eval.documents import load_documents, parts_of, spread, text_of
from anyglot.files import write_json
from anyglot.inference.anyglot import media_of
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

    def __post_init__(self) -> None:
        for modality in self.tokenizers:
            if modality not in self.files:
                raise ConfigError(f"files.{modality} is not set; name documents to measure tokenizers.{modality} on")


@dataclass
class Item:
    """A medium, and what it shows or says."""

    media: Any
    text: str


def run(mapping: dict[str, Any], where: str) -> dict[str, float]:
    """Measure as a config says; write and return the figures, named `<modality>.<figure>`."""
    config = typed(TokenizersEval, mapping, where)
    out = Path(config.out)
    metrics: dict[str, float] = {}
    samples: dict[str, list[dict[str, str]]] = {}
    for modality, directory in config.tokenizers.items():
        tokenizer = load_tokenizer(directory)
        if tokenizer.modality != modality:
            raise ConfigError(f"tokenizers.{modality}: {directory} holds a tokenizer of {tokenizer.modality}")
        documents = load_documents(config.files[modality])
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


def _items(tokenizer: ModalityTokenizer, documents: Sequence[Document], limit: int) -> list[Item]:
    """The documents' media of the tokenizer's modality, `limit` of them (0: all), evenly spaced."""
    found = [(d, part) for d in documents for part in parts_of(d) if part.type == tokenizer.modality]
    chosen = spread(found, limit)
    return [Item(media_of(tokenizer, part), text_of(document) or document.id) for document, part in chosen]


def _write_pairs(tokenizer: ModalityTokenizer, items: Sequence[Item], out: Path) -> list[dict[str, str]]:
    """Write media and what their codes give back to `out/media`; return the files' names, relative to `out`."""
    decoded = tokenizer.decode(tokenizer.encode([item.media for item in items]))
    pairs = []
    (out / "media").mkdir(parents=True, exist_ok=True)
    for number, (item, again) in enumerate(zip(items, decoded, strict=True)):
        names = {
            kind: f"media/{tokenizer.modality}-{number}-{kind}{tokenizer.preview_suffix}"
            for kind in ("original", "decoded")
        }
        tokenizer.preview(item.media, out / names["original"])
        if isinstance(again, np.ndarray):  # tokenizers pad at the end of an axis
            again = again[tuple(slice(length) for length in item.media.shape)]
        tokenizer.preview(again, out / names["decoded"])
        pairs.append({"label": item.text, **names})
    return pairs
