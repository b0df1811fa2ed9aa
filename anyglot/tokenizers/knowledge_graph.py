"""Knowledge graphs: triples (head, relation, tail), their inverses, and searches that see nothing but edges.

A graph has R relations; relation r + R is the inverse of r. Every triple is two directed edges, head -r-> tail and
tail -(r + R)-> head, so that what leaves an entity is all there is to know of it.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyglot.errors import AnyglotError
from anyglot.files import write_text

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Keys = NDArray[np.uint64]
UNREACHED = -1  # of `hop_distances` only; whoever makes codes of distances gives it a code of its own


@dataclass(frozen=True)
class KnowledgeGraph:
    """entities, relations: their names. triples: int64 [n, 3], (head, relation, tail), no two alike."""

    entities: tuple[str, ...]
    relations: tuple[str, ...]
    triples: Ints

    def __len__(self) -> int:
        return len(self.entities)

    @functools.cached_property
    def edges(self) -> tuple[Ints, Ints, Ints]:
        """Directed edges of triples and their inverses (source, relation below 2R, target), sorted by all three."""
        head, relation, tail = self.triples.T
        inverse = relation + len(self.relations)
        found = np.stack([np.r_[head, tail], np.r_[relation, inverse], np.r_[tail, head]])
        source, relation, target = found[:, np.lexsort(found[::-1])]
        return source, relation, target

    @functools.cached_property
    def neighbours(self) -> tuple[Ints, Ints]:
        """Pairs of adjacent entities (source, target), either way, each once, sorted; none is its own neighbour."""
        source, _, target = self.edges
        source, target = np.divmod(np.unique(source * len(self) + target), len(self))
        return source[source != target], target[source != target]

    @functools.cached_property
    def degrees(self) -> Ints:
        """How many edges leave each entity, int64 [entities]."""
        return np.bincount(self.edges[0], minlength=len(self))

    @functools.cached_property
    def keys(self) -> Keys:
        """A random number of each entity that depends on its name alone, uint64 [entities]."""
        return name_keys(self.entities)


def name_keys(names: Sequence[str]) -> Keys:
    """A random number for each name, the same in every graph, order and process, uint64 [names]."""
    digests = [blake2b(name.encode(), digest_size=8).digest() for name in names]
    return np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)


def mix(*keys: NDArray[np.uint64] | int) -> Keys:
    """A random number out of several, broadcast against each other (splitmix64's finalizer, Steele et al. 2014)."""
    state = np.zeros((), np.uint64)
    for key in keys:
        with np.errstate(over="ignore"):
            state = (state ^ np.asarray(key, np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def read_triples(path: str | Path) -> list[tuple[str, str, str]]:
    """Lines `head TAB relation TAB tail` of a file. Raises AnyglotError that names the line that is not one."""
    path = Path(path)
    if not path.is_file():
        raise AnyglotError(f"{path}: no such file; `anyglot fetch graphs --out runs/graphs` makes graphs to try")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split("\t")
        if len(words) != 3 or not all(words):
            raise AnyglotError(f"{path}:{number}: expected `head<TAB>relation<TAB>tail`, got {line!r}")
        found.append((words[0], words[1], words[2]))
    if not found:
        raise AnyglotError(f"{path}: no triples in it")
    return found


def write_triples(path: str | Path, triples: Sequence[tuple[str, str, str]]) -> None:
    """Write a file that `read_triples` reads, atomically. Raises AnyglotError for names that a line cannot hold."""
    for triple in triples:
        if len(triple) != 3 or any(not name or set(name) & set("\t\n\r") for name in triple):
            raise AnyglotError(f"{path}: {triple!r} is no triple of names without tabs and line ends")
    write_text(path, "".join("\t".join(triple) + "\n" for triple in triples))


def index_triples(
    triples: Sequence[tuple[str, str, str]], entities: Sequence[str], relations: Sequence[str], where: str
) -> Ints:
    """Triples of names as numbers, int64 [n, 3], without repetitions. Raises AnyglotError for a name not listed."""
    of_entity = {name: index for index, name in enumerate(entities)}
    of_relation = {name: index for index, name in enumerate(relations)}
    try:
        rows = [(of_entity[head], of_relation[relation], of_entity[tail]) for head, relation, tail in triples]
    except KeyError as error:
        raise AnyglotError(f"{where}: {error.args[0]!r} is not among the names that are known there") from error
    return np.unique(np.array(rows, np.int64).reshape(-1, 3), axis=0)


def hop_distances(graph: KnowledgeGraph, sources: Ints) -> Ints:
    """Edges from each source to each entity whichever way they point, int64 [sources, entities]; or UNREACHED.

    Breadth first from 64 sources at a time: an entity holds one bit per source that has reached it, and a step is one
    `or` over its neighbours' bits.
    """
    distances = np.full((len(sources), len(graph)), UNREACHED, np.int64)
    distances[np.arange(len(sources)), sources] = 0
    source, target = graph.neighbours
    if not len(source):
        return distances
    connected, starts = np.unique(source, return_index=True)
    for first in range(0, len(sources), 64):
        own = sources[first : first + 64]
        bits = np.uint64(1) << np.arange(len(own), dtype=np.uint64)
        reached = np.zeros(len(graph), np.uint64)
        np.bitwise_or.at(reached, own, bits)
        hops = 0
        while True:
            hops += 1
            step = np.bitwise_or.reduceat(reached[target], starts) & ~reached[connected]
            if not step.any():
                break
            reached[connected] |= step
            row, column = np.nonzero(step[None] & bits[:, None])
            distances[first + row, connected[column]] = hops
    return distances


def pagerank(graph: KnowledgeGraph, restart: Floats, damping: float = 0.85, tolerance: float = 1e-12) -> Floats:
    """Personalised PageRank along edges whichever way they point (Page et al. 1999), float64 [entities], sum 1.

    restart: where a walk starts again, [entities], sum 1. From an entity without edges every step is a restart.
    """
    source, target = graph.edges[0], graph.edges[2]
    degrees = np.maximum(graph.degrees, 1)
    rank = restart
    while True:
        moved = np.bincount(target, weights=(rank / degrees)[source], minlength=len(graph))
        following = damping * moved + (1 - damping * moved.sum()) * restart
        if np.abs(following - rank).sum() < tolerance:
            return following
        rank = following


def relation_profile(graph: KnowledgeGraph) -> Floats:
    """How often each relation leaves each entity, float64 [entities, 2R]: outgoing relations, then incoming ones."""
    source, relation, _ = graph.edges
    profile = np.zeros((len(graph), 2 * len(graph.relations)))
    np.add.at(profile, (source, relation), 1.0)
    return profile
