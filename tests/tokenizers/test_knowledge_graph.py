"""Knowledge graphs: inverses, reading, and searches against slow obvious twins."""

from collections import deque

import numpy as np
import pytest

from anyglot.errors import AnyglotError
from anyglot.tokenizers import knowledge_graph as kg
from tests.tokenizers.graphs import NAMES, PATH, graph_of, random_graph, renumbered


def slow_distances(graph, source):
    """Breadth first with a queue, from one entity."""
    around = {index: set() for index in range(len(graph))}
    for head, _, tail in graph.triples.tolist():
        around[head].add(tail)
        around[tail].add(head)
    found, waiting = {source: 0}, deque([source])
    while waiting:
        here = waiting.popleft()
        for there in around[here] - found.keys():
            found[there] = found[here] + 1
            waiting.append(there)
    return [found.get(index, kg.UNREACHED) for index in range(len(graph))]


def test_every_triple_is_an_edge_and_an_inverse_edge():
    graph = graph_of([("a", "likes", "b"), ("b", "owns", "b")], "ab")
    edges = set(zip(*(part.tolist() for part in graph.edges), strict=True))
    assert edges == {(0, 0, 1), (1, 2, 0), (1, 1, 1), (1, 3, 1)}  # relations: likes, owns, and the inverse of each
    assert graph.degrees.tolist() == [1, 3]
    assert [part.tolist() for part in graph.neighbours] == [[0, 1], [1, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_a_queue(seed):
    graph = random_graph(entities=150, edges=120, seed=seed)  # more sources than one block of bits
    distances = kg.hop_distances(graph, np.arange(len(graph)))
    assert distances.tolist() == [slow_distances(graph, source) for source in range(len(graph))]
    assert (distances == distances.T).all()
    assert (distances.diagonal() == 0).all()
    assert (distances == kg.UNREACHED).any()


def test_a_graph_without_edges_between_entities_reaches_nothing():
    graph = graph_of([("a", "likes", "a")], "ab")
    assert kg.hop_distances(graph, np.array([0, 1])).tolist() == [[0, -1], [-1, 0]]


def test_pagerank_is_where_a_walk_ends_up():
    graph = random_graph()
    count = len(graph)
    restart = np.zeros(count)
    restart[:5] = 0.2
    step = np.zeros((count, count))  # from column to row
    for source, target in zip(graph.edges[0], graph.edges[2], strict=True):
        step[target, source] += 1 / graph.degrees[source]
    step[:, graph.degrees == 0] = restart[:, None]
    matrix = 0.85 * step + 0.15 * restart[:, None]
    expected = np.linalg.matrix_power(matrix, 2000) @ restart
    assert (graph.degrees == 0).any()
    np.testing.assert_allclose(kg.pagerank(graph, restart), expected, atol=1e-9)


def test_profiles_count_relations_both_ways():
    graph = graph_of(PATH, NAMES)
    profile = kg.relation_profile(graph)
    assert profile[NAMES.index("b")].tolist() == [1, 0, 1, 0]  # likes c, is liked by a
    assert profile[NAMES.index("g")].tolist() == [0, 0, 0, 0]
    assert profile.sum() == 2 * len(PATH)


def test_keys_depend_on_the_name_alone():
    graph = random_graph()
    other, place = renumbered(graph)
    assert (other.keys[place] == graph.keys).all()
    assert len(set(graph.keys.tolist())) == len(graph)
    assert kg.name_keys(["virus"]).tolist() == kg.name_keys(["x", "virus"])[1:].tolist()
    draws = kg.mix(kg.name_keys([str(number) for number in range(20000)]), 0)
    assert abs((draws >> np.uint64(63)).mean() - 0.5) < 0.02
    assert (kg.mix(graph.keys, 0) != kg.mix(graph.keys, 1)).all()


def test_reading_names_the_line_that_is_wrong(tmp_path):
    file = tmp_path / "train.txt"
    file.write_text("a\tlikes\tb\nb likes c\n")
    with pytest.raises(AnyglotError, match=r"train.txt:2: expected .* got 'b likes c'"):
        kg.read_triples(file)
    file.write_text("")
    with pytest.raises(AnyglotError, match="no triples in it"):
        kg.read_triples(file)
    with pytest.raises(AnyglotError, match="no such file; `anyglot fetch graphs"):
        kg.read_triples(tmp_path / "none.txt")


def test_triples_come_back_from_a_file(tmp_path):
    triples = [("a b", "é", "c"), *PATH]
    kg.write_triples(tmp_path / "deep" / "train.txt", triples)
    assert kg.read_triples(tmp_path / "deep" / "train.txt") == triples
    for wrong in (("a", "b"), ("a", "", "c"), ("a", "b\tc", "d"), ("a", "b", "c\n")):
        with pytest.raises(AnyglotError, match="is no triple of names"):
            kg.write_triples(tmp_path / "wrong.txt", [wrong])
    assert not (tmp_path / "wrong.txt").exists()
    kg.write_triples(tmp_path / "empty.txt", [])
    with pytest.raises(AnyglotError, match="no triples in it"):
        kg.read_triples(tmp_path / "empty.txt")


def test_indexing_drops_repetitions_and_refuses_strangers():
    rows = kg.index_triples([*PATH, PATH[0]], NAMES, ("likes", "owns"), "test.txt")
    assert len(rows) == len(PATH)
    with pytest.raises(AnyglotError, match="test.txt: 'hates' is not among"):
        kg.index_triples([("a", "hates", "b")], NAMES, ("likes", "owns"), "test.txt")
