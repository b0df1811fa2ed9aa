"""Preferences in batches: a chosen and a rejected document, which always share a row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np

from anyglot.data.batches import Batches, PackedBatch, Piece, pack, pieces_of, shared_rows
from anyglot.data.mixture import Mixture, Share
from anyglot.data.packing import PackPlan, best_fit_decreasing
from anyglot.data.preferences import CHOSEN, REJECTED
from anyglot.data.shards import TokenStore
from anyglot.errors import AnyglotError
from anyglot.lm.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class PairBatch(PackedBatch):
    """A packed batch whose documents 0, 2, ... of a row are chosen and 1, 3, ... rejected, each with the one before.

    weights: float32, of the labels that bear loss: those of a pair are alike and together 1.
    documents: int64 `[rows, most]`, which document of its store each is, -1 where a row has no more. reference: float64
    `[rows, most]`, log-probability in nats of what bears loss in each, under the model that the run began from.
    """

    documents: np.ndarray
    reference: np.ndarray


@dataclass
class PairBatches(Batches):
    """Batches of pairs. reference: of every source, float64 `[documents]`; see `PairBatch`."""

    reference: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.most = max(_most(plan) for plan in self.mixture.plans)

    def local(self, k: int, rank: int = 0, world: int = 1) -> PairBatch:
        """The rows of global batch k that belong to a rank, as in `Batches.local`."""
        mixture = self.mixture
        rows = [
            (pieces_of(mixture.stores[source], mixture.plans[source], row), self.reference[source])
            for source, row in self.drawn(k, rank, world)
        ]
        return _packed(rows, (-(-self.rows // world), self.most), mixture.length, mixture.vocabulary)


def open_pairs(shares: Mapping[str, Share], length: int, seed: int, vocabulary: Vocabulary) -> Mixture:
    """A mixture of stores of preferences. Raises what `Mixture` and `pair_plan` raise."""
    return Mixture(shares, length, seed, vocabulary, pair_plan)


def pair_plan(store: TokenStore, length: int, seed: int = 0) -> PackPlan:
    """Rows of whole pairs; pairs longer than a row are in no row.

    Raises AnyglotError if the store holds anything but pairs, or none that fits.
    """
    for chosen, rejected in zip_longest(store.names[0::2], store.names[1::2], fillvalue=""):
        stem = chosen.removesuffix(CHOSEN)
        if (chosen, rejected) != (stem + CHOSEN, stem + REJECTED):
            raise AnyglotError(
                f"{store.directory}: document {chosen!r} is no half of a preference; "
                "tokenize records with the keys 'chosen' and 'rejected'"
            )
    pairs = store.lengths.reshape(-1, 2)
    fitting = np.random.default_rng(seed).permutation(np.flatnonzero(pairs.sum(1) <= length))
    if not len(fitting):
        raise AnyglotError(f"{store.directory}: no pair fits into rows of {length} tokens; raise the length")
    row, rows = best_fit_decreasing(pairs[fitting].sum(1), length)
    order = np.argsort(row, kind="stable")
    documents = (2 * fitting[order][:, None] + [0, 1]).reshape(-1)
    offsets = np.concatenate([[0], 2 * np.cumsum(np.bincount(row, minlength=rows))]).astype(np.int64)
    dropped = (2 * np.flatnonzero(pairs.sum(1) > length)[:, None] + [0, 1]).reshape(-1)
    return PackPlan(length, documents, np.zeros_like(documents), store.lengths[documents], offsets, dropped)


def pair_pass(
    store: TokenStore, reference: np.ndarray, length: int, rows: int, rank: int = 0, world: int = 1, limit: int = 0
) -> Iterator[PairBatch]:
    """Every pair of a store exactly once, as `single_pass` gives documents."""
    plan = pair_plan(store, length)
    shape = (-(-rows // world), _most(plan))
    for mine in shared_rows(plan.rows, rows, rank, world, limit):
        yield _packed([(pieces_of(store, plan, row), reference) for row in mine], shape, length, store.vocabulary)


def _most(plan: PackPlan) -> int:
    """The most documents that share a row."""
    return int(np.diff(plan.offsets).max())


def _packed(
    rows: Sequence[tuple[Sequence[Piece], np.ndarray]], shape: tuple[int, int], length: int, vocabulary: Vocabulary
) -> PairBatch:
    """rows: the pieces of each, and the reference's log-probabilities of their store's documents.

    shape: of `documents`, the same on all ranks.
    """
    batch = pack([pieces for pieces, _ in rows], shape[0], length, vocabulary)
    documents, reference = np.full(shape, -1, np.int64), np.zeros(shape)
    for row, (pieces, values) in enumerate(rows):
        documents[row, : len(pieces)] = [document for _, document, _, _ in pieces]
        reference[row, : len(pieces)] = values[documents[row, : len(pieces)]]
        pairs = batch.document_ids[row] // 2  # -1 for padding, whose weights are 0
        counted = np.bincount(pairs + 1, batch.weights[row], minlength=1)
        batch.weights[row] /= np.maximum(counted, 1)[pairs + 1]
    return PairBatch(**vars(batch), documents=documents, reference=reference)
