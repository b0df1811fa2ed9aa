"""How well a language model over semantic IDs recommends: the next item of each history, among all items.

Leave-one-out: a history's document ends with the item that is asked for. Items are ranked by beams over the catalogue,
all of it. Where several items share an ID, each is taken to stand at any of their ranks with equal chance.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anyglot.config import typed
from anyglot.data.documents import Document, Message, Part
from anyglot.data.progress import JobProgress
from anyglot.errors import AnyglotError, ConfigError, MismatchError
from anyglot.eval.documents import load_documents, parts_of
from anyglot.files import write_json
from anyglot.inference.anyglot import Anyglot, media_of
from anyglot.inference.beams import beam_search
from anyglot.inference.trie import Trie
from anyglot.tokenizers.item import Item, ItemTokenizer

MODALITY = "item"
NOWHERE = 10**9  # the rank of an item that no beam reached


@dataclass
class RecommendationEval:
    """checkpoint: a model directory. catalogue: documents of items that may be recommended besides
    those the tokenizer learned from; new ones get IDs.
    documents: of histories, of which those of `split` are asked about.
    recent: so many items of a history are read, the last ones, 0: all. beams: items looked for. exclude_seen: never
    recommend what the history holds already. users: at most so many, 0: all. batch: histories at once."""

    kind: str
    out: str
    checkpoint: str
    catalogue: list[str]
    documents: list[str]
    split: str = "test"
    recent: int = 0
    beams: int = 50
    exclude_seen: bool = True
    cutoffs: list[int] = field(default_factory=lambda: [5, 10, 20])
    users: int = 0
    batch: int = 64

    def __post_init__(self) -> None:
        if not self.cutoffs or min(*self.cutoffs, self.beams, self.batch) < 1 or min(self.recent, self.users) < 0:
            raise ConfigError("cutoffs, beams and batch must be 1 or more, recent and users 0 or more")
        if self.beams < max(self.cutoffs):
            raise ConfigError(f"beams {self.beams} find too few items for a cutoff of {max(self.cutoffs)}; raise them")


@dataclass
class Ranks:
    """Of each history's next item, int [n]: how many items stand before it, and with how many it shares its place,
    itself included."""

    before: np.ndarray
    tied: np.ndarray

    def figures(self, cutoffs: Sequence[int] = (5, 10, 20)) -> dict[str, float]:
        """Expected recall@k and ndcg@k (one right item: 1 / log2(1 + rank)), means over histories."""
        gains = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, max(cutoffs) + 2)))])
        found = {}
        for k in cutoffs:
            first, last = np.minimum(self.before, k), np.minimum(self.before + self.tied, k)
            found[f"recall@{k}"] = float(((last - first) / self.tied).mean())
            found[f"ndcg@{k}"] = float(((gains[last] - gains[first]) / self.tied).mean())
        return found


def run(mapping: dict[str, object], where: str) -> dict[str, float]:
    """Measure as a config says; write and return the figures.

    Returns:
        recall@k, ndcg@k; invalid_ids: share of the written IDs that no item has; coverage@k: share of the catalogue
        that is among the first k (the largest cutoff) for someone; users; items: in the catalogue.
    """
    config = typed(RecommendationEval, mapping, where)
    model = Anyglot.load(config.checkpoint)
    tokenizer = model.tokenizers.get(MODALITY)
    if not isinstance(tokenizer, ItemTokenizer):
        raise MismatchError(f"{config.checkpoint}: this model writes no items; it knows: {', '.join(model.tokenizers)}")
    take_new_items(tokenizer, load_documents(config.catalogue))
    asked = [document for document in load_documents(config.documents) if document.split == config.split]
    if not asked:
        raise AnyglotError(f"no history of split {config.split!r} in {', '.join(config.documents)}; check `documents`")
    asked = asked[: config.users] if config.users else asked
    histories = [[media_of(tokenizer, part) for part in parts_of(d) if part.type == MODALITY] for d in asked]
    if short := [document.where for document, history in zip(asked, histories, strict=True) if len(history) < 2]:
        raise AnyglotError(f"{short[0]}: a history needs an item before the one that is asked for")
    for document, history in zip(asked, histories, strict=True):
        if tokenizer.place(history[-1].id) is None:  # it could only ever be missed
            raise AnyglotError(
                f"{document.where}: item {history[-1].id!r} is asked for, but no document of `catalogue` has it"
            )

    befores, ties, written, invalid = [], [], 0, 0
    shown: set[str] = set()
    with JobProgress(Path(config.out), {"histories": len(histories)}) as progress:
        for history, beams in zip(histories, recommend(model, [h[:-1] for h in histories], config), strict=True):
            seen = {item.id for item in history[:-1]} if config.exclude_seen else set[str]()
            groups = [[item for item in tokenizer.items_of(codes) if item.id not in seen] for codes in beams]
            before, tied, place = NOWHERE, 1, 0
            for group in groups:
                written, invalid = written + 1, invalid + (not group)
                if history[-1] in group:
                    before, tied = place, len(group)
                if place < max(config.cutoffs):
                    shown |= {item.id for item in group}
                place += len(group)
            befores.append(before)
            ties.append(tied)
            progress.advance("histories", 1)
    metrics = {
        **Ranks(np.array(befores), np.array(ties)).figures(config.cutoffs),
        "invalid_ids": invalid / max(written, 1),
        f"coverage@{max(config.cutoffs)}": len(shown) / len(tokenizer.catalogue),
        "users": float(len(histories)),
        "items": float(len(tokenizer.catalogue)),
    }
    write_json(Path(config.out) / "metrics.json", metrics)
    return metrics


def take_new_items(tokenizer: ItemTokenizer, documents: Sequence[Document]) -> None:
    """Add the items of documents that the tokenizer does not know to its catalogue, in memory.

    Raises MediaError for an id that has another text in the catalogue, as in documents of other data.
    """
    parts = [part for document in documents for part in parts_of(document) if part.type == MODALITY]
    items = list(dict.fromkeys(media_of(tokenizer, part) for part in parts))
    tokenizer.encode([item for item in items if tokenizer.place(item.id) is not None])  # refuses other texts
    tokenizer.add([item for item in items if tokenizer.place(item.id) is None])


def recommend(
    model: Anyglot, histories: Sequence[Sequence[Item]], config: RecommendationEval
) -> Iterator[list[tuple[int, ...]]]:
    """The likeliest IDs after each history, best first, of items that may be recommended."""
    tokenizer = model.tokenizers[MODALITY]
    assert isinstance(tokenizer, ItemTokenizer)
    whole = Trie(tokenizer.table.cpu().numpy())
    for start in range(0, len(histories), config.batch):
        batch = histories[start : start + config.batch]
        read = [history[-config.recent :] for history in batch]
        prompts = [model.prompt([Message(None, [Part(MODALITY, data=item) for item in items])]) for items in read]
        allowed = [whole.without(_used_up(tokenizer, history)) for history in batch] if config.exclude_seen else None
        for beams in beam_search(model.decoder, prompts, MODALITY, whole, config.beams, allowed):
            yield [beam.codes for beam in beams]


def _used_up(tokenizer: ItemTokenizer, history: Sequence[Item]) -> np.ndarray:
    """The codes `[n, levels]` of which no item is left that the history does not hold."""
    seen = {item.id for item in history}
    codes = {tuple(code.tolist()) for code in tokenizer.encode(history)}
    gone = [code for code in codes if all(item.id in seen for item in tokenizer.items_of(code))]
    return np.array(gone, dtype=np.int64).reshape(len(gone), len(tokenizer.spec.levels))


def ranks_of_scores(scores: np.ndarray, targets: np.ndarray, seen: Sequence[np.ndarray]) -> Ranks:
    """Ranks of targets int [n] by scores [n, items]; `seen` (indices, for each) are no candidates. Equal ones tie."""
    scores = np.array(scores, dtype=np.float64)
    for row, found in enumerate(seen):
        scores[row, found] = -np.inf
    own = scores[np.arange(len(targets)), targets][:, None]
    return Ranks((scores > own).sum(1), (scores == own).sum(1))
