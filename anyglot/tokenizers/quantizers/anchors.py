"""Codes of the entities of a knowledge graph: a few tokens each, out of a vocabulary that does not grow with the graph.

NodePiece (Galkin et al. 2022, arXiv:2106.12144): an entity is written as its nearest anchors, how many hops away they
are, and a sample of the relations that leave it (inverses too). Random entity quantization (Li et al. 2023,
arXiv:2310.15797) draws anchors and relations at random instead. One vocabulary holds it all, in this order:

    NONE | anchors | hop distances 0 .. hops, DISCONNECTED | relations and their inverses

All is found in the triples of the graph that is given: give training triples. Nothing depends on how entities are
numbered: what is drawn at random is drawn by names.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anyglot.config import to_mapping, typed
from anyglot.errors import AnyglotError, ConfigError, MismatchError
from anyglot.files import write_json
from anyglot.tokenizers.knowledge_graph import (
    UNREACHED,
    Floats,
    Ints,
    KnowledgeGraph,
    hop_distances,
    mix,
    name_keys,
    pagerank,
)

NONE = 0  # the token of a place that nothing fills
FORMAT = 1
ASSIGNMENTS = ("matched", "random")
BLOCK = 64  # anchors searched from at once


@dataclass
class AnchorConfig:
    """anchors: how many. nearest: of them that an entity names. relations: that it names at most. hops: distances that
    are told apart (farther counts as `hops`); 0: distances are left out. assignment: "matched" or "random" codes.
    by_degree, by_pagerank: share of the anchors with the highest degree, and PageRank; the rest are random ones.
    """

    anchors: int = 20
    nearest: int = 6
    relations: int = 12
    hops: int = 4
    assignment: str = "matched"
    by_degree: float = 0.4
    by_pagerank: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.assignment not in ASSIGNMENTS:
            raise ConfigError(f"assignment {self.assignment!r} is unknown; valid: {', '.join(ASSIGNMENTS)}")
        if not 0 <= self.nearest <= self.anchors or self.relations < 0 or self.hops < 0 or self.seed < 0:
            raise ConfigError(
                "anchors must be at least nearest, and anchors, nearest, relations, hops, seed at least 0"
            )
        if self.nearest + self.relations == 0:
            raise ConfigError("nearest and relations are both 0: an entity would have no tokens; set one of them")
        if min(self.by_degree, self.by_pagerank) < 0 or self.by_degree + self.by_pagerank > 1:
            raise ConfigError("by_degree and by_pagerank are shares of the anchors: at least 0, together at most 1")
        if self.assignment == "random" and self.hops:
            raise ConfigError("random codes have no distances: set hops: 0")


class AnchorTokens:
    """A vocabulary, and the codes of entities in it.

    anchors, relations: names; an anchor's place in `anchors` is its number. Make one with `choose`.
    """

    def __init__(self, config: AnchorConfig, anchors: tuple[str, ...], relations: tuple[str, ...]) -> None:
        self.config, self.anchors, self.relations = config, anchors, relations
        self.first_hop = 1 + len(anchors)
        self.first_relation = self.first_hop + (config.hops + 2 if config.hops else 0)
        self.size = self.first_relation + 2 * len(relations)

    @classmethod
    def choose(cls, graph: KnowledgeGraph, config: AnchorConfig) -> "AnchorTokens":
        """The vocabulary of a graph. Raises ConfigError if it has fewer entities than anchors are asked for."""
        chosen = choose_anchors(graph, config.anchors, config.by_degree, config.by_pagerank, config.seed)
        return cls(config, tuple(graph.entities[index] for index in chosen), graph.relations)

    @property
    def disconnected(self) -> int:
        """The token of the distance to an anchor that cannot be reached."""
        return self.first_relation - 1

    @property
    def places(self) -> int:
        """Tokens of a code."""
        return self.config.nearest * (2 if self.config.hops else 1) + self.config.relations

    def encode(self, graph: KnowledgeGraph) -> Ints:
        """Codes int64 [entities, places]: nearest anchors, their distances in the same order, relations.

        A graph other than the one the vocabulary was chosen from must have its relations; anchors are recognised by
        name, and those that the graph lacks are out of reach.
        """
        if graph.relations != self.relations:
            raise MismatchError("the graph has other relations than the vocabulary; read it with the vocabulary's")
        if self.config.assignment == "random":
            return self._random(graph)
        of_name = {name: index for index, name in enumerate(graph.entities)}
        there = [number for number, name in enumerate(self.anchors) if name in of_name]
        anchors = np.array([of_name[self.anchors[number]] for number in there], np.int64)
        nearest, hops = nearest_anchors(graph, anchors, self.config.nearest)
        tokens = np.array([*(1 + number for number in there), NONE], np.int64)
        parts = [tokens[np.where(nearest == UNREACHED, len(there), nearest)]]
        if self.config.hops:
            near = self.first_hop + np.minimum(hops, self.config.hops)
            parts.append(np.where(nearest == UNREACHED, self.disconnected, near))
        relations = sample_relations(graph, self.config.relations, self.config.seed)
        parts.append(np.where(relations < 0, NONE, self.first_relation + relations))
        return np.concatenate(parts, axis=1)

    def _random(self, graph: KnowledgeGraph) -> Ints:
        """Different anchors and different relations for each entity, drawn by its name."""
        parts = []
        pools = ((self.config.nearest, 1, self.first_hop), (self.config.relations, self.first_relation, self.size))
        for count, first, end in pools:
            pool = np.arange(first, end)
            chosen = np.full((len(graph), count), NONE)
            for row, key in enumerate(graph.keys):
                drawn = np.argsort(mix(key, pool.astype(np.uint64), self.config.seed))[:count]
                chosen[row, : len(drawn)] = np.sort(pool[drawn])
            parts.append(chosen)
        return np.concatenate(parts, axis=1)

    def describe(self, code: Ints) -> list[str]:
        """A code in words, e.g. `["near: virus", "hops: 1", "causes", "inverse of causes"]`."""
        words = []
        for token in code.tolist():
            if token == NONE:
                words.append("none")
            elif token < self.first_hop:
                words.append(f"near: {self.anchors[token - 1]}")
            elif token < self.first_relation:
                words.append("hops: " + ("disconnected" if token == self.disconnected else str(token - self.first_hop)))
            else:
                inverse, relation = divmod(token - self.first_relation, len(self.relations))
                words.append(("inverse of " if inverse else "") + self.relations[relation])
        return words

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as JSON."""
        described = {"anchors": list(self.anchors), "relations": list(self.relations)}
        write_json(path, {"format": FORMAT, "config": to_mapping(self.config), **described})

    @classmethod
    def load(cls, path: str | Path) -> "AnchorTokens":
        """Read what `save` wrote. Raises AnyglotError if it is missing, damaged or of another format."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise MismatchError(f"{path}: format {found['format']}, this version reads {FORMAT}; make it again")
            config = typed(AnchorConfig, found["config"], str(path))
            return cls(config, tuple(found["anchors"]), tuple(found["relations"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AnyglotError(f"{path}: not a vocabulary of anchors ({error}); make it again") from error


def choose_anchors(graph: KnowledgeGraph, count: int, by_degree: float, by_pagerank: float, seed: int = 0) -> Ints:
    """Entities that others are described by, int64 [count], the most connected first.

    A share of them are those of highest degree, a share the next of highest PageRank (walks start again anywhere), the
    rest random. Raises ConfigError if the graph has fewer than `count` entities.
    """
    if count > len(graph):
        raise ConfigError(f"anchors: {count} were asked for, the graph has {len(graph)} entities; ask for fewer")
    rank = pagerank(graph, np.full(len(graph), 1 / len(graph))).round(9)  # rounded: what is equal must tie
    chosen: list[int] = []
    for score, share in ((-graph.degrees.astype(float), by_degree), (-rank, by_pagerank), (None, None)):
        tie = mix(graph.keys, seed)
        order = np.argsort(tie) if score is None else np.lexsort((tie, score))
        fresh = order[~np.isin(order, chosen)]
        left = count - len(chosen)
        chosen += fresh[: left if share is None else min(left, round(share * count))].tolist()
    return np.array(chosen, np.int64)


def nearest_anchors(graph: KnowledgeGraph, anchors: Ints, count: int) -> tuple[Ints, Ints]:
    """Which anchors are nearest to each entity, and how many hops away: two int64 [entities, count].

    Numbers are places in `anchors`, nearest first, of equally near ones the first. Both are UNREACHED (-1) where fewer
    can be reached. Only `BLOCK` anchors' distances are held at once.
    """
    far = np.iinfo(np.int64).max
    best = np.full((len(graph), count), far)  # distance * number of anchors + number: sorted by both
    for first in range(0, len(anchors), BLOCK):
        hops = hop_distances(graph, anchors[first : first + BLOCK]).T
        numbered = hops * len(anchors) + np.arange(first, first + hops.shape[1])
        best = np.concatenate([best, np.where(hops == UNREACHED, far, numbered)], axis=1)
        if count < best.shape[1]:
            best = np.partition(best, count, axis=1)[:, :count]
    best = np.sort(best, axis=1)
    hops, nearest = np.divmod(best, max(len(anchors), 1))
    unreached = best == far
    return np.where(unreached, UNREACHED, nearest), np.where(unreached, UNREACHED, hops)


def sample_relations(graph: KnowledgeGraph, count: int, seed: int = 0) -> Ints:
    """Different relations that leave each entity, int64 [entities, count], in order; -1 where it has fewer.

    Relation r + R is the inverse of r. An entity that has more than `count` keeps those that its name draws.
    """
    source, relation, _ = graph.edges
    source, relation = np.divmod(np.unique(source * 2 * len(graph.relations) + relation), 2 * len(graph.relations))
    keys = name_keys(graph.relations)
    draws = mix(graph.keys[source], np.r_[keys, ~keys][relation], seed)
    order = np.lexsort((draws, source))
    place = np.arange(len(source)) - np.searchsorted(source, source)  # among those of the same entity
    kept = place < count
    found = np.full((len(graph), count), 2 * len(graph.relations))
    found[source[kept], place[kept]] = relation[order][kept]
    found.sort(axis=1)
    return np.where(found == 2 * len(graph.relations), -1, found)


@dataclass(frozen=True)
class CodeReport:
    """entities, distinct: how many, and how many different codes they have. collisions: entities that share theirs.
    entropy: bits of the code of a random entity (at most log2 of entities). token_entropy: bits of a random token.
    distance, nearest_distance: mean Jaccard distance (0 to 1) between the token sets of two entities, and from an
    entity to the most similar other one; over at most 2,048 entities.
    """

    entities: int
    distinct: int
    collisions: int
    entropy: float
    token_entropy: float
    distance: float
    nearest_distance: float


def report(codes: Ints) -> CodeReport:
    """How well codes [entities, places] tell entities apart."""
    counts = np.unique(codes, axis=0, return_counts=True)[1]
    shown = codes[np.unique(np.linspace(0, len(codes) - 1, min(len(codes), 2048)).astype(np.int64))]
    holds = np.zeros((len(shown), int(codes.max()) + 1), np.float32)
    np.put_along_axis(holds, shown, 1.0, axis=1)
    common = holds @ holds.T
    sizes = holds.sum(1)
    distances = 1 - common / (sizes[:, None] + sizes - common)
    others = ~np.eye(len(shown), dtype=bool)
    mean = float(distances[others].mean()) if len(shown) > 1 else 0.0
    nearest = float(np.where(others, distances, np.inf).min(1).mean()) if len(shown) > 1 else 0.0
    shared = int(counts[counts > 1].sum())
    tokens = np.unique(codes, return_counts=True)[1]
    return CodeReport(len(codes), len(counts), shared, _entropy(counts), _entropy(tokens), mean, nearest)


def _entropy(counts: Ints) -> float:
    share: Floats = counts / counts.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0
