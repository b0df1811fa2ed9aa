"""Which documents share a row: a best-fit-decreasing plan over their lengths, made once and cached.

A plan places every piece of every document exactly once. A document no longer than a row is one piece; a longer one
is cut at text positions, never inside a span of another modality, and a chat only behind an answer.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anyglot.data.shards import TokenStore, open_arrow
from anyglot.errors import AnyglotError
from anyglot.files import atomic_path

VERSION = 2  # of the plan: raise it whenever the same store, length and seed would give other rows


@dataclass(frozen=True, eq=False)
class PackPlan:
    """Rows of pieces: row r holds the pieces `[offsets[r], offsets[r + 1])`.

    documents, starts, stops: of each piece, int64 `[pieces]`: tokens `[start, stop)` of a document of the store.
    offsets: int64 `[rows + 1]`. dropped: documents with what must not be cut longer than a row, which are in no row.
    """

    length: int
    documents: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    offsets: np.ndarray
    dropped: np.ndarray

    @property
    def rows(self) -> int:
        """How many rows one pass over the documents takes."""
        return len(self.offsets) - 1

    @property
    def tokens(self) -> int:
        """Tokens in all rows, without padding."""
        return int((self.stops - self.starts).sum())

    @property
    def padding(self) -> float:
        """The share of all places in rows that hold no token."""
        return 1.0 - self.tokens / (self.rows * self.length) if self.rows else 0.0


def best_fit_decreasing(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """Put items into bins: longest first, each into the fullest bin that still takes it.

    Items of one length are placed at a time, whole bins at a time, which gives the same fill as one by one: after a bin
    with the least sufficient space takes an item, it is the least again for as long as it can take one more.

    Args:
        lengths: int `[items]`, 1..capacity. Among equal lengths, earlier items go to fuller bins.
    Returns:
        The bin of each item, int64 `[items]`, and the number of bins.
    """
    bins = np.empty(len(lengths), dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    first = np.flatnonzero(np.diff(lengths[order], prepend=0))  # where each group of equal lengths begins
    groups = zip(lengths[order][first], first, np.append(first, len(order))[1:], strict=True)
    with_space: list[list[int]] = [[] for _ in range(capacity + 1)]  # bins by the space they have left
    number = np.zeros(capacity + 1, dtype=np.int64)  # len of each list above
    made = 0
    for length, start, stop in groups:
        length, placed = int(length), int(start)
        for space in (length + np.flatnonzero(number[length:])).tolist():
            if placed == stop:
                break
            each = space // length
            taken = with_space[space][: -(-(int(stop) - placed) // each)]
            del with_space[space][: len(taken)]
            number[space] -= len(taken)
            placed = _place(bins, order, taken, each, placed, int(stop), space, length, with_space, number)
        each = capacity // length
        fresh = list(range(made, made + -(-(int(stop) - placed) // each)))
        made += len(fresh)
        _place(bins, order, fresh, each, placed, int(stop), capacity, length, with_space, number)
    return bins, made


def _place(
    bins: np.ndarray,
    order: np.ndarray,
    taken: list[int],
    each: int,
    placed: int,
    stop: int,
    space: int,
    length: int,
    with_space: list[list[int]],
    number: np.ndarray,
) -> int:
    """Put the items order[placed:stop] into `taken`, `each` to a bin but the last; return the new `placed`."""
    if not taken:
        return placed
    count = min(stop - placed, len(taken) * each)
    bins[order[placed : placed + count]] = np.repeat(np.array(taken, dtype=np.int64), each)[:count]
    in_last = count - (len(taken) - 1) * each
    for group, items in ((taken[:-1], each), (taken[-1:], in_last)):
        with_space[space - items * length].extend(group)
        number[space - items * length] += len(group)
    return placed + count


def cut(length: int, spans: Sequence[tuple[int, int]], row: int) -> list[tuple[int, int]] | None:
    """Pieces of a document that is longer than a row, each as long as can be.

    Args:
        length: of the document. spans: (start, length) of what must stay whole, in order. row: length of a row.
    Returns:
        `[start, stop)` of each piece, or None if a span is longer than a row.
    """
    if any(size > row for _, size in spans):
        return None
    pieces, start, next_span = [], 0, 0
    while length - start > row:
        stop = start + row
        while next_span < len(spans) and spans[next_span][0] + spans[next_span][1] <= stop:
            next_span += 1
        if next_span < len(spans) and spans[next_span][0] < stop:
            stop = spans[next_span][0]
        pieces.append((start, stop))
        start = stop
    return [*pieces, (start, length)]


def make_plan(
    lengths: np.ndarray, spans_of: Callable[[int], Sequence[tuple[int, int]]], length: int, seed: int
) -> PackPlan:
    """Plan the rows of documents.

    Args:
        lengths: int `[documents]`. length: of a row, in tokens.
        spans_of: a document's index -> (start, length) of its spans to keep whole; only asked for long ones.
        seed: which of equally long documents share a row.
    """
    whole = np.flatnonzero((lengths <= length) & (lengths > 0))
    documents, starts, stops = [whole], [np.zeros_like(whole)], [lengths[whole].astype(np.int64)]
    dropped = []
    for document in np.flatnonzero(lengths > length).tolist():
        pieces = cut(int(lengths[document]), spans_of(document), length)
        if pieces is None:
            dropped.append(document)
            continue
        borders = np.array(pieces, dtype=np.int64)
        documents.append(np.full(len(pieces), document))
        starts.append(borders[:, 0])
        stops.append(borders[:, 1])
    pieces_of = np.stack([np.concatenate(column) for column in (documents, starts, stops)]).astype(np.int64)
    pieces_of = np.random.default_rng(seed).permutation(pieces_of, axis=1)
    row, rows = best_fit_decreasing(pieces_of[2] - pieces_of[1], length)
    by_row = pieces_of[:, np.argsort(row, kind="stable")]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))]).astype(np.int64)
    return PackPlan(length, by_row[0], by_row[1], by_row[2], offsets, np.array(dropped, dtype=np.int64))


def pack_plan(store: TokenStore, length: int, seed: int = 0) -> PackPlan:
    """The plan of a store, from its cache in `<store>/plans` where that is there and whole.

    Raises AnyglotError if no document fits into rows of this length.
    """
    identity = hashlib.sha256(f"{VERSION} {store.fingerprint} {length} {seed}".encode()).hexdigest()[:16]
    path = store.directory / "plans" / f"{identity}.arrow"
    if path.is_file():
        try:
            return _load(path, length)
        except AnyglotError as error:
            logging.getLogger(__name__).warning("%s; made again", error)
    plan = make_plan(store.lengths, store.whole_spans, length, seed)
    if not plan.rows:
        raise AnyglotError(f"{store.directory}: no document fits into rows of {length} tokens; raise the length")
    try:
        _save(plan, path)
    except OSError as error:  # a read-only store is no reason to stop: making the plan takes seconds
        logging.getLogger(__name__).warning("%s: the pack plan is not cached (%s)", path.parent, error.strerror)
    return plan


def _save(plan: PackPlan, path: Path) -> None:
    import pyarrow as pa

    columns = {name: pa.array([getattr(plan, name)]) for name in ("documents", "starts", "stops", "offsets", "dropped")}
    table = pa.table(columns)
    with atomic_path(path) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        writer.write_table(table)


def _load(path: Path, length: int) -> PackPlan:
    batch = open_arrow(path)
    names = ("documents", "starts", "stops", "offsets", "dropped")
    return PackPlan(length, *(batch.column(name).values.to_numpy() for name in names))
