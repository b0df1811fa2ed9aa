"""The media that a tokenizer learns from: the parts of one modality in files of documents, read when needed."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np

from anyglot.data.documents import Part
from anyglot.data.readers import Problem, read, slices
from anyglot.errors import AnyglotError
from anyglot.tokenizers.base import Medium, ModalityTokenizer

logger = logging.getLogger(__name__)
OBJECT_BYTES = 2048  # what a medium that is no array is taken to need: molecules, items and such are small


class MediaCorpus(Sequence[Medium]):
    """A sequence of media, kept in memory up to `cache_bytes`, beyond that read from disk each time.

    A medium that cannot be read is reported once and the next one stands in for it, the same on every run.
    """

    def __init__(self, parts: Sequence[Part], tokenizer: ModalityTokenizer, cache_bytes: int) -> None:
        self.parts = parts
        self.tokenizer = tokenizer
        self.room = cache_bytes
        self._cache: dict[int, Medium] = {}
        self._bad: set[int] = set()

    def __len__(self) -> int:
        return len(self.parts)

    @overload
    def __getitem__(self, index: int) -> Medium: ...
    @overload
    def __getitem__(self, index: slice) -> list[Medium]: ...
    def __getitem__(self, index: int | slice) -> Medium | list[Medium]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        for candidate in range(index, index + len(self)):
            medium = self._read(candidate % len(self))
            if medium is not None:
                return medium
        raise AnyglotError(f"none of {len(self)} media can be read; the warnings above say why")

    def _read(self, index: int) -> Medium | None:
        if index in self._cache:
            return self._cache[index]
        if index in self._bad:
            return None
        part = self.parts[index]
        try:
            if part.in_memory:
                return part.data
            source = part.path if part.path is not None else part.data
            assert source is not None
            medium = self.tokenizer.read(source)
        except AnyglotError as error:
            self._bad.add(index)
            logger.warning("left out of training: %s", error)
            return None
        size = medium.nbytes if isinstance(medium, np.ndarray) else OBJECT_BYTES
        if size <= self.room:
            self.room -= size
            self._cache[index] = medium
        return medium


def find_parts(files: Sequence[str | Path], modality: str, split: str) -> list[Part]:
    """All distinct media of a modality in files of documents, in order.

    Documents that name a split are taken if it is `split`; those that name none are always taken. Records that cannot
    be read are reported and left out. Raises AnyglotError if nothing is found, saying where it looked.
    """
    found: dict[str, Part] = {}
    for file in files:
        for part_of_file in slices(file):
            for document in read(part_of_file):
                if isinstance(document, Problem):
                    logger.warning("%s: %s", document.where, document.reason)
                elif document.split in (None, split):
                    parts = [part for message in document.turns for part in message.parts]
                    found.update({p.key: p for p in parts if p.type == modality and p.codes is None})
    if not found:
        raise AnyglotError(f"no {modality} in split {split!r} of {', '.join(map(str, files))}; check `data`")
    return list(found.values())
