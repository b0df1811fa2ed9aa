"""Ranks of true triples among all entities: filtered, both directions, ties at their average.

For a triple (h, r, t), every entity is scored as the tail of (h, r, ?) and of (t, inverse of r, ?). The rank of the
true one is its place among entities that are not known to be true as well. An entity with the same score counts as half
before it ("realistic" rank, Berrendorf et al. 2020, arXiv:2002.06914), so that a constant score gains nothing.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from anyglot.errors import AnyglotError

HITS = (1, 3, 10)
Score = Callable[[Tensor, Tensor], Tensor]  # heads [n], relations [n] -> scores [n, entities]


def with_inverses(triples: Tensor, relations: int) -> Tensor:
    """Triples int64 [n, 3] and then their inverses (tail, relation + relations, head), [2n, 3]."""
    head, relation, tail = triples.unbind(1)
    return torch.cat([triples, torch.stack([tail, relation + relations, head], dim=1)])


class KnownTails:
    """Which entities are true tails of (head, relation), from triples int64 [n, 3], inverses included."""

    def __init__(self, triples: Tensor, relations: int) -> None:
        self.relations = relations
        directed = torch.unique(with_inverses(triples, relations), dim=0)  # sorted by head, relation, tail
        self._queries, self._tails = self._query(directed[:, 0], directed[:, 1]), directed[:, 2].contiguous()

    def _query(self, heads: Tensor, relations: Tensor) -> Tensor:
        return heads * (2 * self.relations) + relations

    def of(self, heads: Tensor, relations: Tensor) -> tuple[Tensor, Tensor]:
        """All true tails of queries [n]: pairs (place of the query, tail), one after the other."""
        queries = self._query(heads, relations)
        first = torch.searchsorted(self._queries, queries)
        count = torch.searchsorted(self._queries, queries, right=True) - first
        rows = torch.repeat_interleave(torch.arange(len(queries), device=queries.device), count)
        before = torch.cumsum(count, 0) - count
        within = torch.arange(len(rows), device=queries.device) - before[rows]
        return rows, self._tails[first[rows] + within]


@torch.no_grad()
def filtered_ranks(score: Score, triples: Tensor, known: KnownTails, batch: int = 64) -> Tensor:
    """Ranks float64 [2n] of triples int64 [n, 3]: of their tails, then of their heads; 1 is best.

    known: of training, validation and test triples together. batch: queries scored at once.
    Raises AnyglotError if a score is NaN: no order is right then.
    """
    ranks = []
    for part in torch.split(with_inverses(triples, known.relations), batch):
        heads, relations, tails = part.unbind(1)
        scores = score(heads, relations)
        if bool(scores.isnan().any()):
            raise AnyglotError("a triple's score is NaN: the model has diverged; lower lr and train again")
        own = scores.gather(1, tails[:, None])
        others = torch.ones_like(scores, dtype=torch.bool)
        others[known.of(heads, relations)] = False
        others.scatter_(1, tails[:, None], False)
        better, equal = ((scores > own) & others).sum(1), ((scores == own) & others).sum(1)
        ranks.append(1 + better + equal.double() / 2)
    return torch.cat(ranks)


def chance(triples: Tensor, known: KnownTails, entities: int) -> dict[str, float]:
    """The figures to expect of a random order of entities, for triples ranked as `filtered_ranks` does.

    A rank is then uniform in 1 .. n, n being the entities that are left, and 1 / rank is (1 + 1/2 + ... + 1/n) / n on
    average: more than the 2 / (n + 1) of a constant score.
    """
    heads, relations, tails = with_inverses(triples, known.relations).unbind(1)
    rows, true = known.of(heads, relations)
    left = entities - torch.bincount(rows[true != tails[rows]], minlength=len(heads))
    harmonic = torch.arange(1, entities + 1, dtype=torch.float64).reciprocal().cumsum(0)
    found = {f"hits@{k}": float((k / left.double()).clamp(max=1).mean()) for k in HITS}
    return {"mrr": float((harmonic[left - 1] / left).mean()), **found}


def figures(ranks: Tensor) -> dict[str, float]:
    """Mean reciprocal rank, "mrr", and the share of ranks up to k, "hits@k"."""
    hits = {f"hits@{k}": float((ranks <= k).double().mean()) for k in HITS}
    return {"mrr": float(ranks.reciprocal().mean()), **hits}
