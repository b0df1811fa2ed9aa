"""Entity encoders and triple scorers: what they compute, that numbering does not matter, and what they cannot do."""

import pytest
import torch

from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers.networks.entity_encoders import build, normalised_profile
from anyglot.tokenizers.networks.triple_scorers import DistMult, RotatE
from tests.tokenizers.graphs import NAMES, PATH, graph_of, random_graph, renumbered

TOKENS = {"type": "tokens", "tokens": {"anchors": 6, "nearest": 3, "relations": 4}, "width": 8, "hidden": [8]}
EARL = {"type": "earl", "reserved": 5, "nearest": 3, "layers": 2}


def vectors(encoder, graph):
    return encoder(*encoder.read(graph))


@pytest.mark.parametrize("config", [TOKENS, EARL], ids=["tokens", "earl"])
def test_vectors_follow_their_entities_when_these_are_renumbered(config):
    graph = random_graph()
    other, place = renumbered(graph)
    torch.manual_seed(0)
    encoder = build(config, graph, 8)
    torch.testing.assert_close(vectors(encoder, other)[place], vectors(encoder, graph), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", [TOKENS, EARL], ids=["tokens", "earl"])
def test_parameters_do_not_grow_with_entities(config):
    counts = {
        entities: sum(p.numel() for p in build(config, random_graph(entities, edges=3 * entities), 8).parameters())
        for entities in (40, 400)
    }
    assert counts[40] == counts[400]
    table = build({"type": "table"}, random_graph(400), 8)
    assert sum(p.numel() for p in table.parameters()) == 400 * 8


def test_hop_distances_are_added_to_their_anchors():
    graph = graph_of(PATH, NAMES)
    encoder = build({"type": "tokens", "tokens": {"anchors": 2, "nearest": 2, "relations": 1}, "width": 4}, graph, 8)
    codes = encoder.codes(graph)
    e = encoder.embedding.weight
    rows = [torch.cat([e[a] + e[ha], e[b] + e[hb], e[r]]) for a, b, ha, hb, r in codes.tolist()]
    torch.testing.assert_close(vectors(encoder, graph), encoder.mlp(torch.stack(rows)))


def test_earl_is_these_sums():
    """A twin that goes entity by entity and edge by edge."""
    graph = random_graph(entities=20, edges=40)
    torch.manual_seed(0)
    encoder = build(EARL, graph, 8)
    profile = normalised_profile(graph)
    h = []
    for entity in range(len(graph)):
        likeness = (encoder.reserved_profiles @ profile[entity]).round(decimals=6)
        top = likeness.argsort(descending=True, stable=True)[:3]
        share = torch.exp(likeness[top]) / torch.exp(likeness[top]).sum()
        likened = sum(s * encoder.reserved[i] for s, i in zip(share, top, strict=True))
        own = sum(p * vector for p, vector in zip(profile[entity], encoder.relations, strict=True))
        h.append(encoder.combine(torch.cat([own, likened])))
    edges = list(zip(*(part.tolist() for part in graph.edges), strict=True))
    for own, sent in zip(encoder.own, encoder.sent, strict=True):
        following = []
        for entity in range(len(graph)):
            messages = [torch.cat([h[t], encoder.relations[r]]) for s, r, t in edges if s == entity]
            mean = torch.stack(messages).mean(0) if messages else torch.zeros(16)
            following.append(h[entity] + torch.nn.functional.silu(own(h[entity]) + sent(mean)))
        h = following
    torch.testing.assert_close(vectors(encoder, graph), torch.stack(h), atol=1e-5, rtol=1e-4)


def test_unseen_entities_have_vectors_but_not_of_a_table():
    graph, unseen = graph_of(PATH, NAMES), graph_of([("x", "owns", "y")], "xyz", ("likes", "owns"))
    small = {"anchors": 3, "nearest": 2, "relations": 2}
    for config in ({"type": "tokens", "tokens": small}, {"type": "earl", "reserved": 3, "nearest": 2}):
        found = vectors(build(config, graph, 8), unseen)
        assert found.shape == (3, 8)
        assert torch.isfinite(found).all()
    with pytest.raises(AnyglotError, match="a table has no vectors"):
        build({"type": "table"}, graph, 8).read(unseen)
    with pytest.raises(AnyglotError, match="other relations"):
        build({"type": "earl", "reserved": 3, "nearest": 2}, graph, 8).read(graph_of([("x", "owns", "y")]))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"type": "node2vec"}, "no entity encoder 'node2vec'; valid: table, tokens, earl"),
        ({"type": "earl", "nearest": 9, "reserved": 4}, "nearest must be 1 to reserved"),
        ({"type": "tokens", "hidden": [0]}, "must be at least 1"),
        ({"type": "tokens", "tokens": {"anchor": 3}}, "did you mean 'tokens.anchors'"),
        ({"type": "tokens", "tokens": {"anchors": 99}}, "99 were asked for"),
        ({"type": "table", "rows": 3}, "unknown key 'rows'"),
    ],
)
def test_configs_that_cannot_work_are_refused(config, said):
    with pytest.raises(ConfigError, match=said):
        build(config, graph_of(PATH, NAMES), 8)


@pytest.mark.parametrize("scorer", [DistMult, RotatE])
def test_scores_are_those_of_the_papers(scorer):
    torch.manual_seed(0)
    made, heads, relations, tails = scorer(4, 6), torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 3]), torch.randn(7, 6)
    scores = made.score(made.query(heads, relations), tails)
    for row in range(5):
        for column in range(7):
            if scorer is DistMult:
                expected = (heads[row] * made.relations.weight[relations[row]] * tails[column]).sum()
            else:
                head, tail = (torch.complex(v[:3], v[3:]) for v in (heads[row], tails[column]))
                turn = torch.polar(torch.ones(3), made.angles.weight[relations[row]])
                expected = -(head * turn - tail).abs().sum()
            torch.testing.assert_close(scores[row, column], expected)
