"""Weighted mixtures of token stores: which row comes i-th is a pure function of the stores, the ratios and the seed."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from anyglot.data.packing import PackPlan, pack_plan
from anyglot.data.shards import TokenStore
from anyglot.errors import ConfigError
from anyglot.lm.vocabulary import Vocabulary

if TYPE_CHECKING:
    from rich.tree import Tree


@dataclass
class Share:
    """One source of a mixture."""

    path: str
    """Folder of a token store."""
    ratio: float = 0.0
    """Share of all tokens, in any unit: ratios are taken relative to each other. Set for all sources or for none;
    with none, each source comes in proportion to its tokens."""
    max_repetition: float = 0.0
    """How often its documents may be seen at most; 0 is any number of times."""
    epochs: float = 0.0
    """Instead of a ratio: passes over it in the whole run, which then ends when they are done. Set for all sources or
    for none."""


class Mixture:
    """Rows of several stores, mixed by their share of tokens.

    Each source is shuffled anew in every pass over it, and every row of it comes once in each pass. Ratios are kept
    to within 1 % of each other.
    """

    def __init__(
        self,
        shares: Mapping[str, Share],
        length: int,
        seed: int = 0,
        vocabulary: Vocabulary | None = None,
        packing: Callable[[TokenStore, int, int], PackPlan] = pack_plan,
    ) -> None:
        """Open and pack the stores.

        Args:
            shares: name -> source. length: of a row, in tokens. seed: of packing and order.
            vocabulary: the one all stores must be of, or an extension of theirs; None: the longest of theirs.
            packing: what puts the documents of a store into rows.
        Raises:
            ConfigError: no source, a negative number, ratios or epochs for some sources only, or both.
            MismatchError: stores of different vocabularies.
        """
        _check(shares)
        self.length, self.seed = length, seed
        self.shares = dict(shares)
        if vocabulary is None:
            own = [TokenStore(share.path).vocabulary for share in shares.values()]
            vocabulary = max(own, key=lambda found: len(found.modalities))
        self.vocabulary = vocabulary
        self.stores = [TokenStore(share.path, vocabulary) for share in shares.values()]
        self.plans: list[PackPlan] = [packing(store, length, seed) for store in self.stores]
        ratios, epochs = (np.array([getattr(share, key) for share in shares.values()]) for key in ("ratio", "epochs"))
        rows = np.array([float(plan.rows) for plan in self.plans])
        per_row = np.array([plan.tokens / plan.rows for plan in self.plans])
        self.rows = round(float(epochs @ rows))
        """Rows that all epochs are together; 0 where no epochs are given."""
        weights = ratios / per_row if ratios.any() else epochs * rows if epochs.any() else rows
        self.proportions: np.ndarray = weights / weights.sum()
        self._rows = self._mixed()

    def row(self, index: int) -> tuple[int, int]:
        """(source, row of its plan) of the index-th row of the mixture, for any index from 0."""
        source, row = self._rows[index]
        return source, row

    def require(self, rows: int) -> None:
        """Raise ConfigError, naming the source, if the first `rows` rows would repeat a source more than it allows."""
        for (name, share), plan, part in zip(self.shares.items(), self.plans, self.proportions, strict=True):
            times = rows * part / plan.rows
            if share.max_repetition and times > share.max_repetition * (1 + 1e-9):
                have, need = plan.tokens, times * plan.tokens
                raise ConfigError(
                    f"source {name!r} has {have:,} tokens, but {need:,.0f} are asked of it: {times:.2f} passes, and "
                    f"max_repetition is {share.max_repetition:g}; lower its ratio, train fewer steps, or allow more"
                )

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides which row comes when."""
        parts = [(store.fingerprint, part) for store, part in zip(self.stores, self.proportions.tolist(), strict=True)]
        return hashlib.sha256(json.dumps([parts, self.length, self.seed]).encode()).hexdigest()[:16]

    def tree(self, rows: int = 0) -> "Tree":
        """A printable tree: tokens, documents, rows, padding of each source; with `rows` also how often it is seen."""
        from rich.tree import Tree

        shares = self.proportions * [plan.tokens / plan.rows for plan in self.plans]
        shares = shares / shares.sum()
        total = sum(plan.tokens for plan in self.plans)
        tree = Tree(f"mixture: {total:,} tokens in rows of {self.length}" + (f", {rows:,} rows asked" if rows else ""))
        for name, store, plan, share, part in zip(
            self.shares, self.stores, self.plans, shares, self.proportions, strict=True
        ):
            line = f"{name}: {100 * share:.1f} % of tokens, {plan.tokens:,} in {len(store):,} documents, "
            line += f"{plan.rows:,} rows, {100 * plan.padding:.2f} % padding"
            line += f", seen {rows * part / plan.rows:.2f} times" if rows else ""
            line += (
                f", {len(plan.dropped):,} documents left out: a span is longer than a row" if len(plan.dropped) else ""
            )
            branch = tree.add(line)
            for modality, counts in store.statistics().items():
                if counts["spans"]:
                    branch.add(f"{modality}: {counts['tokens']:,} tokens in {counts['documents']:,} documents")
        return tree

    def _mixed(self) -> Any:
        grain = _grain()
        sources = []
        for number, plan in enumerate(self.plans):
            seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
            rows = grain.MapDataset.source(_Rows(number, plan.rows))
            sources.append(rows.shuffle(seed=seed).repeat())
        return grain.MapDataset.mix(sources, self.proportions.tolist())


class _Rows:
    """The rows of one source as grain's random access source."""

    def __init__(self, source: int, rows: int) -> None:
        self.source, self.rows = source, rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: Any) -> tuple[int, int]:
        return self.source, int(index)


def _check(shares: Mapping[str, Share]) -> None:
    if not shares:
        raise ConfigError("a mixture needs at least one source")
    for name, share in shares.items():
        if min(share.ratio, share.epochs, share.max_repetition) < 0:
            raise ConfigError(f"source {name!r}: ratio, epochs and max_repetition must not be negative")
        if share.ratio and share.epochs:
            raise ConfigError(f"source {name!r}: ratio and epochs both say how often it is seen; set one of them")
    for key in ("ratio", "epochs"):
        without = [name for name, share in shares.items() if not getattr(share, key)]
        if without and len(without) < len(shares):
            raise ConfigError(
                f"source {without[0]!r} has no {key}, but others have; set it for all sources or for none"
            )


def _grain() -> Any:
    """grain, without its warning that jax is not there."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        import grain
    finally:
        logging.set_verbosity(before)
    return grain
