"""The documents that an evaluation asks about, and their parts."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from anyglot.data.documents import Document, Part
from anyglot.data.readers import Problem, read, slices
from anyglot.lm.vocabulary import TEXT

T = TypeVar("T")
logger = logging.getLogger(__name__)


def load_documents(files: Iterable[str | Path]) -> list[Document]:
    """All documents of files, in order. Records that cannot be read are reported and left out."""
    found: list[Document] = []
    for file in files:
        for piece in slices(file):
            for item in read(piece):
                if isinstance(item, Problem):
                    logger.warning("left out of the evaluation: %s: %s", item.where, item.reason)
                else:
                    found.append(item)
    return found


def spread(items: Sequence[T], limit: int) -> list[T]:
    """`limit` of the items (0: all), evenly spaced: neighbours may be much alike."""
    number = min(limit or len(items), len(items))
    return [items[index * len(items) // number] for index in range(number)]


def parts_of(document: Document) -> list[Part]:
    """All parts of a document, in order."""
    return [part for message in document.turns for part in message.parts]


def part_of(document: Document, modality: str) -> Part | None:
    """The first part of a modality, if there is one."""
    return next((part for part in parts_of(document) if part.type == modality), None)


def text_of(document: Document) -> str:
    """What a document says in words: its texts, joined by blanks."""
    return " ".join(part.text or "" for part in parts_of(document) if part.type == TEXT)
