"""Packed batches: global batch k is a pure function of (stores, length, ratios, seed, k), for any number of ranks."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from anyglot.data.mixture import Mixture, Share, _grain
from anyglot.data.packing import PackPlan, pack_plan
from anyglot.data.shards import TokenStore
from anyglot.errors import ConfigError
from anyglot.lm.vocabulary import Vocabulary

IGNORED = -100  # the label of a place that has no next token


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Several documents per row, arrays `[rows, length]`.

    input_ids: int64, the padding id behind the last document. labels: int64, the next token of the same document, -100
    where there is none. position_ids: int64, from 0 in every document. document_ids: int32, 0, 1, ... within the row,
    -1 for padding: tokens may see each other only where these are equal. weights: float32, of the labels: 1 where the
    label bears loss, else 0. modalities: int8, of the labels: index into `Vocabulary.modality_names` (0 is text) for
    text, codes, openers and closers; -1 for special and size ids and where there is no label.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    position_ids: np.ndarray
    document_ids: np.ndarray
    weights: np.ndarray
    modalities: np.ndarray

    @property
    def tokens(self) -> int:
        """Places that hold a token."""
        return int((self.document_ids >= 0).sum())

    @property
    def padding(self) -> float:
        """Share of places that hold none."""
        return 1.0 - self.tokens / self.input_ids.size


@dataclass
class BatchesConfig:
    """What a language model is trained on."""

    stores: dict[str, Share]
    """Name -> token store and its share."""
    length: int = 1024
    """Tokens in a row."""
    rows: int = 16
    """Rows in a global batch."""
    seed: int = 0
    """Of packing and order."""
    prefetch: int = 4
    """Batches made ahead of the one in use, in the background."""

    def __post_init__(self) -> None:
        for name in ("length", "rows", "prefetch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass
class Batches:
    """Global batches of a mixture, and each rank's part of them. The state to resume from is one integer: k."""

    mixture: Mixture
    rows: int
    prefetch: int = 4
    fingerprint: str = field(init=False)
    """A hash of everything that decides what batch k is: a run resumed under another one is another run."""

    def __post_init__(self) -> None:
        self.fingerprint = hashlib.sha256(f"{self.mixture.fingerprint} {self.rows}".encode()).hexdigest()[:16]

    def local(self, k: int, rank: int = 0, world: int = 1) -> PackedBatch:
        """The rows of global batch k that belong to a rank, `[ceil(rows / world), length]`.

        All ranks get the same number of rows, so that none waits for another; what does not divide is filled up with
        rows of padding, which bear no loss.
        """
        pieces = [
            pieces_of(self.mixture.stores[source], self.mixture.plans[source], row)
            for source, row in self.drawn(k, rank, world)
        ]
        return pack(pieces, -(-self.rows // world), self.mixture.length, self.mixture.vocabulary)

    def drawn(self, k: int, rank: int = 0, world: int = 1) -> list[tuple[int, int]]:
        """(source, row of its plan) of the rows of global batch k that belong to a rank."""
        indices = range(k * self.rows, (k + 1) * self.rows)
        return [self.mixture.row(index) for index in _share(indices, rank, world)]

    @property
    def steps(self) -> int:
        """Batches that all epochs take, the last one filled up with rows of a next pass; 0 where none are given."""
        return -(-self.mixture.rows // self.rows)

    def iterate(self, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[PackedBatch]:
        """Batches start, start + 1, ... without end, made in the background; at most `prefetch` wait at a time."""
        grain = _grain()
        dataset = grain.MapDataset.source(_Local(self, rank, world))[start:]
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=self.prefetch)
        return cast(Iterator[PackedBatch], iter(dataset.to_iter_dataset(options)))


def open_batches(config: BatchesConfig, vocabulary: Vocabulary | None = None) -> Batches:
    """Open the stores of a config, pack them and mix them. See `Mixture` for what it raises."""
    return Batches(Mixture(config.stores, config.length, config.seed, vocabulary), config.rows, config.prefetch)


def single_pass(
    store: TokenStore, length: int, rows: int, rank: int = 0, world: int = 1, limit: int = 0
) -> Iterator[PackedBatch]:
    """Every document of a store exactly once, for evaluation: batches of `rows` rows over all ranks, then it ends.

    The last batch is filled up with rows of padding. limit: end after so many batches; 0 is no limit.
    """
    plan = pack_plan(store, length)
    for mine in shared_rows(plan.rows, rows, rank, world, limit):
        yield pack([pieces_of(store, plan, row) for row in mine], -(-rows // world), length, store.vocabulary)


def shared_rows(number: int, rows: int, rank: int, world: int, limit: int = 0) -> Iterator[range]:
    """A rank's part of the rows 0 .. `number` - 1 in batches of `rows`, at most `limit` batches (0: no limit)."""
    batches = -(-number // rows)
    for k in range(min(batches, limit) if limit else batches):
        yield _share(range(k * rows, min((k + 1) * rows, number)), rank, world, rows)


Piece = tuple[TokenStore, int, int, int]  # store, document, and the tokens [start, stop) of it


def pack(rows: Sequence[Sequence[Piece]], number: int, length: int, vocabulary: Vocabulary) -> PackedBatch:
    """Fill arrays `[number, length]` with rows of pieces; rows that are not given are padding."""
    shape = (number, length)
    input_ids = np.full(shape, vocabulary.pad, dtype=np.int64)
    labels = np.full(shape, IGNORED, dtype=np.int64)
    position_ids = np.zeros(shape, dtype=np.int64)
    document_ids = np.full(shape, -1, dtype=np.int32)
    weights = np.zeros(shape, dtype=np.float32)
    for row, pieces in enumerate(rows):
        at = 0
        for number_in_row, (store, document, start, stop) in enumerate(pieces):
            ids, loss = store.ids(document), store.loss(document)
            end, following = at + stop - start, slice(start + 1, stop + 1)
            input_ids[row, at:end] = ids[start:stop]
            position_ids[row, at:end] = np.arange(stop - start)
            document_ids[row, at:end] = number_in_row
            labelled = at + len(ids[following])  # one less than the piece where the document ends with it
            labels[row, at:labelled] = ids[following]
            weights[row, at:labelled] = loss[following]
            at = end
    modalities = np.where(labels == IGNORED, -1, vocabulary.lookup.modality[labels.clip(0)]).astype(np.int8)
    return PackedBatch(input_ids, labels, position_ids, document_ids, weights, modalities)


def pieces_of(store: TokenStore, plan: PackPlan, row: int) -> list[Piece]:
    """What a row of a plan holds."""
    where = slice(int(plan.offsets[row]), int(plan.offsets[row + 1]))
    columns = (plan.documents[where].tolist(), plan.starts[where].tolist(), plan.stops[where].tolist())
    return [(store, document, start, stop) for document, start, stop in zip(*columns, strict=True)]


def _share(indices: range, rank: int, world: int, rows: int = 0) -> range:
    """A rank's contiguous part of the rows of a batch of `rows` (0: as many as there are indices)."""
    if not 0 <= rank < world:
        raise ConfigError(f"rank {rank} is not one of {world}")
    each = -(-(rows or len(indices)) // world)
    return indices[rank * each : (rank + 1) * each]


class _Local:
    """A rank's batches as grain's random access source."""

    def __init__(self, batches: Batches, rank: int, world: int) -> None:
        self.batches, self.rank, self.world = batches, rank, world

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: Any) -> PackedBatch:
        return self.batches.local(int(index), self.rank, self.world)
