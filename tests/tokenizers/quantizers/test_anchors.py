"""Codes of the entities of a knowledge graph: nearest anchors, hop distances, relations; random codes; their report."""

import json

import numpy as np
import pytest

from anyglot.errors import AnyglotError, ConfigError, MismatchError
from anyglot.tokenizers.knowledge_graph import KnowledgeGraph
from anyglot.tokenizers.quantizers.anchors import (
    NONE,
    AnchorConfig,
    AnchorTokens,
    choose_anchors,
    nearest_anchors,
    report,
    sample_relations,
)
from tests.tokenizers.graphs import NAMES, PATH, graph_of, random_graph, renumbered
from tests.tokenizers.test_knowledge_graph import slow_distances

MATCHED = AnchorConfig(anchors=8, nearest=3, relations=4, hops=2)
RANDOM = AnchorConfig(anchors=8, nearest=3, relations=4, hops=0, assignment="random")


def without(graph, name):
    """The graph without the edges of one entity, which stays in it."""
    index = graph.entities.index(name)
    kept = (graph.triples[:, 0] != index) & (graph.triples[:, 2] != index)
    return KnowledgeGraph(graph.entities, graph.relations, graph.triples[kept])


@pytest.mark.parametrize("config", [MATCHED, RANDOM], ids=["matched", "random"])
def test_renumbering_entities_renumbers_their_codes(config):
    graph = random_graph()
    other, place = renumbered(graph)
    tokens, again = AnchorTokens.choose(graph, config), AnchorTokens.choose(other, config)
    assert tokens.anchors == again.anchors
    assert (again.encode(other)[place] == tokens.encode(graph)).all()


def test_an_anchor_is_its_own_nearest_at_no_distance():
    graph = random_graph()
    tokens = AnchorTokens.choose(graph, MATCHED)
    codes = tokens.encode(graph)
    for number, name in enumerate(tokens.anchors):
        code = codes[graph.entities.index(name)]
        assert code[0] == 1 + number
        assert code[MATCHED.nearest] == tokens.first_hop  # distance 0
        assert tokens.describe(code)[0] == f"near: {name}"


def test_the_tokens_of_a_path_are_these():
    graph = graph_of(PATH, NAMES)
    config = AnchorConfig(anchors=2, nearest=2, relations=3, hops=2)
    tokens = AnchorTokens(config, ("a", "e"), graph.relations)
    assert (tokens.size, tokens.places) == (1 + 2 + 4 + 4, 7)
    described = {name: tokens.describe(code) for name, code in zip(NAMES, tokens.encode(graph), strict=True)}
    alone = ["none", "hops: disconnected"]
    assert described["a"] == ["near: a", "none", "hops: 0", alone[1], "likes", "none", "none"]
    assert described["b"] == ["near: a", "none", "hops: 1", alone[1], "likes", "inverse of likes", "none"]
    assert described["d"] == ["near: a", "none", "hops: 2", alone[1], "inverse of owns", "none", "none"]  # 3 or more
    assert described["f"] == ["near: e", "none", "hops: 1", alone[1], "inverse of owns", "none", "none"]


def test_isolated_and_unreachable_entities_get_explicit_tokens():
    graph = graph_of(PATH, NAMES)
    config = AnchorConfig(anchors=2, nearest=2, relations=2, hops=3)
    tokens = AnchorTokens(config, ("a", "b"), graph.relations)
    codes = tokens.encode(graph)
    assert codes[NAMES.index("g")].tolist() == [NONE, NONE, tokens.disconnected, tokens.disconnected, NONE, NONE]
    assert codes[NAMES.index("e")][:4].tolist() == [NONE, NONE, tokens.disconnected, tokens.disconnected]
    assert codes.min() >= 0
    assert codes.max() < tokens.size
    hops = set(range(tokens.first_hop, tokens.disconnected))
    assert tokens.disconnected not in hops
    assert len(hops) == config.hops + 1


def test_nearest_anchors_are_those_of_a_full_search():
    graph = random_graph(entities=200, edges=260)
    anchors = choose_anchors(graph, 150, 0.4, 0.4)  # three blocks of search
    nearest, hops = nearest_anchors(graph, anchors, 5)
    distances = np.array([slow_distances(graph, anchor) for anchor in anchors.tolist()])
    for entity in range(len(graph)):
        reached = [(hop, number) for number, hop in enumerate(distances[:, entity].tolist()) if hop >= 0]
        expected = [*sorted(reached)[:5], *[(-1, -1)] * 5][:5]
        assert list(zip(hops[entity].tolist(), nearest[entity].tolist(), strict=True)) == expected


def test_anchors_are_the_shares_they_say():
    graph = random_graph(entities=60, edges=200)
    chosen = choose_anchors(graph, 10, 0.4, 0.4)
    assert len(set(chosen.tolist())) == 10
    rest = np.setdiff1d(np.arange(len(graph)), chosen[:4])
    assert graph.degrees[chosen[:4]].min() >= graph.degrees[rest].max()
    assert choose_anchors(graph, 10, 0.0, 0.0, seed=1).tolist() != choose_anchors(graph, 10, 0.0, 0.0, seed=2).tolist()
    assert len(choose_anchors(graph, 3, 0.5, 0.5)) == 3
    assert sorted(choose_anchors(graph, 60, 0.4, 0.4).tolist()) == list(range(60))
    with pytest.raises(ConfigError, match="61 were asked for, the graph has 60"):
        choose_anchors(graph, 61, 0.4, 0.4)


def test_tokens_come_from_the_given_triples_alone():
    """A held-out edge changes nothing: neither anchors nor codes see what is not among the graph's triples."""
    graph = random_graph(entities=60, edges=200)
    kept = np.arange(len(graph.triples)) % 5 > 0
    training = KnowledgeGraph(graph.entities, graph.relations, graph.triples[kept])
    tokens = AnchorTokens.choose(training, MATCHED)
    assert tokens.anchors != AnchorTokens.choose(graph, MATCHED).anchors
    own = {(head, relation) for head, relation, _ in zip(*(part.tolist() for part in training.edges), strict=True)}
    for entity, code in enumerate(tokens.encode(training)):
        relations = [token - tokens.first_relation for token in code[6:] if token != NONE]
        assert all((entity, relation) in own for relation in relations)


def test_relations_are_outgoing_ones_and_inverses_of_incoming_ones():
    graph = random_graph(entities=30, edges=120)
    source, relation, _ = graph.edges
    for count in (2, 10):
        sampled = sample_relations(graph, count)
        for entity in range(len(graph)):
            own = set(relation[source == entity].tolist())
            found = [value for value in sampled[entity].tolist() if value >= 0]
            assert len(found) == len(set(found)) == min(count, len(own))
            assert set(found) <= own
            assert sampled[entity].tolist() == [*found, *[-1] * (count - len(found))]
            assert found == sorted(found)
    assert (sample_relations(graph, 2, seed=1) != sample_relations(graph, 2, seed=2)).any()


def test_an_edge_elsewhere_changes_no_sample():
    graph = random_graph(entities=60, edges=300)
    name = graph.entities[7]
    changed = (sample_relations(without(graph, name), 2) != sample_relations(graph, 2)).any(1)
    touched = {7, *graph.edges[2][graph.edges[0] == 7].tolist()}
    assert set(np.flatnonzero(changed).tolist()) <= touched
    assert changed[7]


def test_random_codes_know_nothing_of_edges():
    graph = random_graph()
    tokens = AnchorTokens.choose(graph, RANDOM)
    codes = tokens.encode(graph)
    bare = KnowledgeGraph(graph.entities, graph.relations, graph.triples[:0])
    assert (tokens.encode(bare) == codes).all()
    anchors, relations = codes[:, :3], codes[:, 3:]
    assert ((anchors >= 1) & (anchors < tokens.first_hop)).all()
    assert ((relations >= tokens.first_relation) & (relations < tokens.size)).all()
    assert all(len(set(code.tolist())) == tokens.places for code in codes)
    other = AnchorTokens.choose(
        graph, AnchorConfig(anchors=8, nearest=3, relations=4, hops=0, assignment="random", seed=1)
    )
    assert (other.encode(graph) != codes).any()


def test_more_relations_asked_for_than_there_are_leave_places_empty():
    graph = graph_of(PATH, NAMES)
    tokens = AnchorTokens.choose(graph, AnchorConfig(anchors=1, nearest=1, relations=9, hops=0, assignment="random"))
    assert (tokens.encode(graph)[:, -5:] == NONE).all()


def test_unseen_graphs_are_read_with_the_vocabulary_s_relations():
    graph = graph_of(PATH, NAMES)
    tokens = AnchorTokens.choose(graph, AnchorConfig(anchors=2, nearest=1, relations=2, hops=1))
    unseen = graph_of([("x", "likes", "y")], "xy", graph.relations)
    codes = tokens.encode(unseen)
    assert tokens.describe(codes[0]) == ["none", "hops: disconnected", "likes", "none"]
    with pytest.raises(MismatchError, match="other relations"):
        tokens.encode(graph_of([("x", "likes", "y")], "xy"))


def test_collisions_and_entropy_are_reported():
    codes = np.array([[1, 2], [1, 2], [1, 3], [4, 5]])
    found = report(codes)
    assert (found.entities, found.distinct, found.collisions) == (4, 3, 2)
    assert found.entropy == pytest.approx(1.5)
    assert found.token_entropy == pytest.approx(-(3 * np.log2(3 / 8) + 2 * np.log2(2 / 8) + 3 * np.log2(1 / 8)) / 8)
    pairs = [0, 2 / 3, 1, 2 / 3, 1, 1]
    assert found.distance == pytest.approx(np.mean(pairs))
    assert found.nearest_distance == pytest.approx((0 + 0 + 2 / 3 + 1) / 4)
    every = report(np.arange(16)[:, None])
    assert (every.entropy, every.collisions, every.distance) == (4.0, 0, 1.0)
    assert report(codes[:1]).entropy == 0


def test_a_vocabulary_is_saved_and_read_back(tmp_path):
    graph = random_graph()
    tokens = AnchorTokens.choose(graph, MATCHED)
    tokens.save(tmp_path / "tokens.json")
    again = AnchorTokens.load(tmp_path / "tokens.json")
    assert (again.encode(graph) == tokens.encode(graph)).all()
    found = json.loads((tmp_path / "tokens.json").read_text())
    (tmp_path / "tokens.json").write_text(json.dumps({**found, "format": 2}))
    with pytest.raises(MismatchError, match="format 2, this version reads 1"):
        AnchorTokens.load(tmp_path / "tokens.json")
    (tmp_path / "tokens.json").write_text("{}")
    with pytest.raises(AnyglotError, match="not a vocabulary of anchors"):
        AnchorTokens.load(tmp_path / "tokens.json")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"assignment": "matching"}, "assignment 'matching' is unknown"),
        ({"anchors": 2, "nearest": 3}, "anchors must be at least nearest"),
        ({"nearest": 0, "relations": 0}, "no tokens"),
        ({"by_degree": 0.7, "by_pagerank": 0.7}, "together at most 1"),
        ({"assignment": "random", "hops": 2}, "set hops: 0"),
        ({"relations": -1}, "at least 0"),
    ],
)
def test_configs_that_cannot_work_are_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        AnchorConfig(**fields)
