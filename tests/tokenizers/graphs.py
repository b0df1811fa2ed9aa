"""Small knowledge graphs for tests, by names, and the same graph with its entities numbered otherwise."""

import numpy as np

from anyglot.tokenizers.knowledge_graph import KnowledgeGraph, index_triples

# A path a - b - c - d, a pair e - f apart from it, and g, which has no edge at all.
PATH = [("a", "likes", "b"), ("b", "likes", "c"), ("c", "owns", "d"), ("e", "owns", "f")]
NAMES = ("a", "b", "c", "d", "e", "f", "g")


def graph_of(triples, entities=None, relations=None):
    """A graph of triples of names."""
    entities = tuple(entities or sorted({name for head, _, tail in triples for name in (head, tail)}))
    relations = tuple(relations or sorted({relation for _, relation, _ in triples}))
    return KnowledgeGraph(entities, relations, index_triples(triples, entities, relations, "test"))


def random_graph(entities=40, relations=3, edges=60, seed=0):
    """A sparse random graph: some entities are out of reach of others, some alone."""
    random = np.random.default_rng(seed)
    names = [f"entity {number}" for number in range(entities)]
    drawn = random.integers(0, [entities, relations, entities], (edges, 3))
    triples = [(names[head], f"relation {relation}", names[tail]) for head, relation, tail in drawn]
    return graph_of(triples, names, [f"relation {number}" for number in range(relations)])


def renumbered(graph, seed=1):
    """The same graph with entities in another order, triples too; and where each entity of the old one went."""
    order = np.random.default_rng(seed).permutation(len(graph))
    place = np.argsort(order)
    triples = graph.triples[::-1].copy()
    triples[:, [0, 2]] = place[triples[:, [0, 2]]]
    return KnowledgeGraph(tuple(graph.entities[index] for index in order), graph.relations, triples), place
