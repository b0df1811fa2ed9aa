"""Token shards: Arrow files of tokenised documents, memory-mapped, and the store that reads a folder of them.

A shard is one record batch with a row per document: `id`, `ids` (list<int32>), `loss` (run lengths, beginning with
tokens that do not bear loss), and its spans in three lists (`span_modality`, an index into the vocabulary's
modality names; `span_start`; `span_length`). The schema's metadata, JSON under "anyglot", says where it comes from.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from anyglot.errors import AnyglotError, MismatchError
from anyglot.files import atomic_path
from anyglot.lm.spans import Serialised, SpanRange
from anyglot.lm.vocabulary import ROLES, TEXT, Vocabulary

FORMAT = 1
METADATA_KEY = b"anyglot"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("ids", pa.list_(pa.int32())),
        ("loss", pa.list_(pa.int32())),
        ("span_modality", pa.list_(pa.int8())),
        ("span_start", pa.list_(pa.int32())),
        ("span_length", pa.list_(pa.int32())),
    ]
)


@dataclass
class ShardInfo:
    """Where a shard comes from and what it holds.

    job: hash of all that decides its content (source slice, options, vocabulary, tokenizers).
    vocabulary: fingerprint. tokenizers: "text" or modality -> fingerprint. source: file and records it was made from.
    modalities: names that `span_modality` indexes. documents, tokens: counts; `by_modality`: of tokens within spans.
    skipped: problems by kind; problems: each as {where, kind, reason}.
    content: hash of the token data.
    """

    job: str
    vocabulary: str
    tokenizers: dict[str, str]
    source: dict[str, Any]
    modalities: list[str]
    documents: int = 0
    tokens: int = 0
    by_modality: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    problems: list[dict[str, str]] = field(default_factory=list)
    content: str = ""
    format: int = FORMAT


class StoredDocument(NamedTuple):
    """A document as it lies in a shard.

    ids: int32 `[n]`, a view of the file. loss: bool `[n]`. spans: as the grammar laid them out.
    """

    ids: np.ndarray
    loss: np.ndarray
    spans: list[SpanRange]


def write_shard(path: str | Path, documents: Sequence[tuple[str, Serialised]], info: ShardInfo) -> ShardInfo:
    """Write documents, as (id, tokens), to a shard, atomically. Returns `info` with its counts filled in."""
    index = {name: number for number, name in enumerate(info.modalities)}
    tokens = [serialised for _, serialised in documents]
    columns = [
        pa.array([name for name, _ in documents], pa.string()),
        _lists([t.ids for t in tokens], np.int32),
        _lists([run_lengths(t.loss) for t in tokens], np.int32),
        _lists([np.array([index[span.modality] for span in t.spans]) for t in tokens], np.int8),
        _lists([np.array([span.start for span in t.spans]) for t in tokens], np.int32),
        _lists([np.array([span.length for span in t.spans]) for t in tokens], np.int32),
    ]
    info.documents, info.tokens = len(tokens), sum(len(t.ids) for t in tokens)
    info.by_modality = dict.fromkeys(info.modalities, 0)
    for span in (span for t in tokens for span in t.spans):
        info.by_modality[span.modality] += span.length
    info.content = _content_hash(columns)
    schema = SCHEMA.with_metadata({METADATA_KEY: json.dumps(asdict(info))})
    batch = pa.record_batch(columns, schema=schema)
    with atomic_path(path) as temporary, pa.ipc.new_file(str(temporary), schema) as writer:
        writer.write_batch(batch)
    return info


def open_arrow(path: str | Path) -> pa.RecordBatch:
    """The one record batch of an Arrow file, memory-mapped. Raises AnyglotError naming the file if it is damaged."""
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            if reader.num_record_batches != 1:
                raise pa.ArrowInvalid(f"{reader.num_record_batches} record batches instead of 1")
            batch = reader.get_batch(0)
            batch.validate()
            return batch
    except (pa.ArrowException, OSError) as error:
        message = " ".join(str(error).split())[:200]
        raise AnyglotError(
            f"{path}: damaged or no Arrow file ({message}); delete it and run the step that made it"
        ) from error


def read_shard(path: str | Path) -> tuple[ShardInfo, pa.RecordBatch]:
    """A shard's provenance and its memory-mapped rows. Raises AnyglotError naming the file if it is no whole shard."""
    batch = open_arrow(path)
    try:
        described = json.loads((batch.schema.metadata or {})[METADATA_KEY])
        if described.get("format") != FORMAT:
            raise MismatchError(
                f"{path}: shard format {described.get('format')}, this version reads {FORMAT}; tokenize again"
            )
        info = ShardInfo(**described)
    except (KeyError, ValueError, TypeError) as error:
        raise AnyglotError(f"{path}: an Arrow file, but no token shard; check the path") from error
    if not batch.schema.equals(SCHEMA) or batch.num_rows != info.documents:
        raise AnyglotError(
            f"{path}: its columns or row count are not those of its description; delete it and tokenize again"
        )
    return info, batch


class TokenStore:
    """Random access to the documents of a folder of shards. `store[i]` copies no tokens.

    directory: of one source, as `anyglot tokenize` writes it. vocabulary: the one that the ids must belong to, or an
    extension of it; None reads `vocabulary.json` from the folder or the one above.
    Raises AnyglotError if there is no shard or one is damaged, MismatchError if one is of another vocabulary.
    """

    def __init__(self, directory: str | Path, vocabulary: Vocabulary | None = None) -> None:
        self.directory = Path(directory)
        paths = sorted(self.directory.glob("[0-9]*.arrow"))
        if not paths:
            raise AnyglotError(f"{directory}: no token shards here; run `anyglot tokenize` or check the path")
        if vocabulary is None:
            beside = (self.directory / "vocabulary.json").is_file()
            vocabulary = Vocabulary.load(self.directory if beside else self.directory.parent)
        self.vocabulary = vocabulary
        self.shards: list[ShardInfo] = []
        self._shards: list[_Columns] = []
        for path in paths:
            info, batch = read_shard(path)
            older = vocabulary.first(len(info.modalities) - 1)
            if info.vocabulary != older.fingerprint:
                vocabulary.require(info.vocabulary, f"shard {path}")
            if info.modalities != list(older.modality_names):
                raise MismatchError(f"{path}: modalities {info.modalities} are not the vocabulary's; tokenize again")
            self.shards.append(info)
            self._shards.append(_Columns(batch, path))
        self._first = np.cumsum([0] + [info.documents for info in self.shards])

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> StoredDocument:
        shard, row = self._locate(index)
        ids = shard.ids(row)
        names = self.vocabulary.modality_names
        spans = [SpanRange(names[m], int(s), int(n)) for m, s, n in zip(*shard.spans(row), strict=True)]
        return StoredDocument(ids, shard.loss(row), spans)

    def __iter__(self) -> Iterator[StoredDocument]:
        return (self[index] for index in range(len(self)))

    def ids(self, index: int) -> np.ndarray:
        """The tokens of a document, int32 `[n]`, a view of the file."""
        shard, row = self._locate(index)
        return shard.ids(row)

    def loss(self, index: int) -> np.ndarray:
        """Which tokens of a document bear loss, bool `[n]`."""
        shard, row = self._locate(index)
        return shard.loss(row)

    def name(self, index: int) -> str:
        """The id that a document was given in its source."""
        shard, row = self._locate(index)
        return str(shard.batch.column("id")[row].as_py())

    @cached_property
    def names(self) -> list[str]:
        """The ids of all documents, in their order."""
        return [str(name) for shard in self._shards for name in shard.batch.column("id").to_pylist()]

    def whole_spans(self, index: int) -> list[tuple[int, int]]:
        """(start, length) of what packing must not cut: media, and in a chat what is asked with its learned answer."""
        ids, vocabulary = self.ids(index), self.vocabulary
        turns = np.flatnonzero(np.isin(ids, [vocabulary.special(role) for role in ROLES]))
        if not len(turns):
            return self.media_spans(index)
        answered = np.flatnonzero((ids == vocabulary.end_of_turn) & self.loss(index))
        following = np.searchsorted(turns, answered)  # the turn after each answer
        borders = [0, *turns[following[following < len(turns)]].tolist(), len(ids)]
        return [(start, stop - start) for start, stop in pairwise(borders)]

    def media_spans(self, index: int) -> list[tuple[int, int]]:
        """(start, length) of the spans of a document that are not text."""
        shard, row = self._locate(index)
        text = self.vocabulary.modality_names.index(TEXT)
        return [(int(start), int(length)) for m, start, length in zip(*shard.spans(row), strict=True) if m != text]

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of every document, int64 `[documents]`."""
        return np.concatenate([np.diff(shard.id_offsets).astype(np.int64) for shard in self._shards])

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the tokens of all documents, in their order."""
        text = self.vocabulary.fingerprint + "".join(info.content for info in self.shards)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def tokens(self) -> int:
        """Tokens of all documents."""
        return sum(info.tokens for info in self.shards)

    def unigram(self) -> np.ndarray:
        """How often each id occurs, int64 `[vocabulary.size]`."""
        counts = np.zeros(self.vocabulary.size, dtype=np.int64)
        for shard in self._shards:
            counts += np.bincount(shard.all_ids, minlength=len(counts))
        return counts

    def unigram_by_block(self) -> dict[str, np.ndarray]:
        """How often each code occurs, by the name of its block of the vocabulary: int64 `[block.size]` each."""
        counts = self.unigram()
        return {block.name: counts[block.start : block.end] for block in self.vocabulary.blocks}

    def statistics(self) -> dict[str, dict[str, int]]:
        """Per modality: `tokens` within its spans, `spans`, and `documents` that have at least one."""
        found = {name: {"tokens": 0, "spans": 0, "documents": 0} for name in self.vocabulary.modality_names}
        for info, shard in zip(self.shards, self._shards, strict=True):
            document = np.repeat(np.arange(info.documents), np.diff(shard.span_offsets))
            for number, name in enumerate(self.vocabulary.modality_names):
                of_this = shard.span_modality == number
                found[name]["tokens"] += info.by_modality.get(name, 0)
                found[name]["spans"] += int(of_this.sum())
                found[name]["documents"] += len(np.unique(document[of_this]))
        return found

    def verify(self) -> None:
        """Compare every shard's tokens with their hash. Raises AnyglotError naming a file that was altered."""
        for info, shard in zip(self.shards, self._shards, strict=True):
            if _content_hash(shard.batch.columns) != info.content:
                raise AnyglotError(
                    f"{shard.path}: its content was altered since it was written; delete it and tokenize again"
                )

    def _locate(self, index: int) -> tuple["_Columns", int]:
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        return self._shards[number], index - int(self._first[number])


class _Columns:
    """One shard's columns as NumPy views of the memory-mapped file."""

    def __init__(self, batch: pa.RecordBatch, path: Path) -> None:
        self.batch, self.path = batch, path
        self.all_ids, self.id_offsets = _views(batch.column("ids"))
        self.runs, self.run_offsets = _views(batch.column("loss"))
        self.span_modality, self.span_offsets = _views(batch.column("span_modality"))
        self.span_start, _ = _views(batch.column("span_start"))
        self.span_length, _ = _views(batch.column("span_length"))

    def ids(self, row: int) -> np.ndarray:
        return self.all_ids[self.id_offsets[row] : self.id_offsets[row + 1]]

    def loss(self, row: int) -> np.ndarray:
        runs = self.runs[self.run_offsets[row] : self.run_offsets[row + 1]]
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs)

    def spans(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        where = slice(self.span_offsets[row], self.span_offsets[row + 1])
        return self.span_modality[where], self.span_start[where], self.span_length[where]


def run_lengths(flags: np.ndarray) -> np.ndarray:
    """Lengths of the runs of a bool array, int `[runs]`, beginning with those of False (0 if it begins with True)."""
    if not len(flags):
        return np.zeros(0, dtype=np.int32)
    borders = np.flatnonzero(np.diff(flags.astype(np.int8))) + 1
    runs = np.diff(np.concatenate([[0], borders, [len(flags)]]))
    return np.concatenate([[0], runs]) if flags[0] else runs


def _views(column: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    return column.values.to_numpy(zero_copy_only=True), column.offsets.to_numpy(zero_copy_only=True)


def _lists(arrays: Sequence[np.ndarray], dtype: type) -> pa.ListArray:
    offsets = np.cumsum([0] + [len(array) for array in arrays])
    if offsets[-1] >= 2**31:
        raise AnyglotError("a shard holds at most 2^31 tokens; lower `documents_per_shard`")
    values: np.ndarray = np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))


def _content_hash(columns: Sequence[pa.Array]) -> str:
    digest = hashlib.sha256()
    for column in columns[1:]:  # ids are tokens; the first column holds names
        for view in _views(column):
            digest.update(np.ascontiguousarray(view).data)
    return digest.hexdigest()[:16]
