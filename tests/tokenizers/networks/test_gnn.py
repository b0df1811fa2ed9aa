import pytest
import torch

from anyglot.config import typed
from anyglot.errors import ConfigError
from anyglot.tokenizers.networks.gnn import GNN, GNNConfig

pytest.importorskip("torch_geometric", reason="needs anyglot[graph]")
TYPES = ("gcn", "sage", "gat", "gin", "appnp")
NODES, INPUTS, EDGE_INPUTS = 12, 5, 3


@pytest.fixture
def graph():
    """A random undirected graph; the last two nodes have no edge."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.combinations(torch.arange(NODES - 2))
    pairs = pairs[torch.rand(len(pairs), generator=generator) < 0.3].t()
    x = torch.randn(NODES, INPUTS, generator=generator)
    features = torch.randn(pairs.shape[1], EDGE_INPUTS, generator=generator)
    return x, torch.cat([pairs, pairs.flip(0)], 1), torch.cat([features, features])


def build(edge_inputs=0, outputs=0, **fields):
    torch.manual_seed(0)
    return GNN(GNNConfig(width=8, **fields), INPUTS, outputs, edge_inputs).eval()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
def test_nodes_may_be_numbered_otherwise(graph, kind, norm):
    x, edges, _ = graph
    model = build(type=kind, layers=3, heads=2 if kind == "gat" else 1, norm=norm, skip=norm == "layer")
    order = torch.randperm(NODES)  # new place -> old
    place = order.argsort()
    shuffled = torch.randperm(edges.shape[1])
    found = model(x[order], place[edges][:, shuffled])
    torch.testing.assert_close(found, model(x, edges)[order])


@pytest.mark.parametrize("kind", ["gin", "gat"])
def test_edges_carry_features(graph, kind):
    x, edges, features = graph
    model = build(EDGE_INPUTS, type=kind)
    found = model(x, edges, features)
    order = torch.randperm(edges.shape[1])
    torch.testing.assert_close(model(x, edges[:, order], features[order]), found)
    assert not torch.allclose(model(x, edges, features.roll(1, 0))[:-2], found[:-2], atol=1e-3)


@pytest.mark.parametrize("kind", TYPES)
def test_nodes_without_edges_are_finite_and_see_only_themselves(graph, kind):
    x, edges, _ = graph
    model = build(type=kind)
    found = model(x, edges)
    assert found.isfinite().all()
    changed = x.clone()
    changed[:-2] += 1
    assert torch.equal(model(changed, edges)[-2:], found[-2:])
    assert model(x, edges[:, :0]).isfinite().all()


@pytest.mark.parametrize("kind", TYPES)
def test_as_many_hops_as_layers(graph, kind):
    """On a path a change reaches `layers` nodes far, and no farther."""
    path = torch.stack([torch.arange(5), torch.arange(1, 6)])
    edges = torch.cat([path, path.flip(0)], 1)
    x = graph[0][:6]
    model = build(type=kind, layers=2, hops=1)
    changed = x.clone()
    changed[0] *= -3
    differs = (model(changed, edges) - model(x, edges)).abs().amax(1) > 0
    assert differs[:2].all()
    assert not differs[3:].any()


def test_single_layers_equal_their_equations(graph):
    x, edges, features = graph
    adjacency = torch.zeros(NODES, NODES)
    adjacency[edges[1], edges[0]] = 1
    degree = adjacency.sum(1, keepdim=True)
    gcn, sage, gin, gine = (
        build(EDGE_INPUTS if kind == "gine" else 0, type="gin" if kind == "gine" else kind, layers=1)
        for kind in ("gcn", "sage", "gin", "gine")
    )
    looped = adjacency + torch.eye(NODES)
    scale = looped.sum(1).rsqrt()
    layer = gcn.layers[0].convolution
    torch.testing.assert_close(gcn(x, edges), (scale[:, None] * looped * scale) @ x @ layer.lin.weight.t() + layer.bias)
    layer = sage.layers[0].convolution
    mean = adjacency @ x / degree.clamp(min=1)
    torch.testing.assert_close(sage(x, edges), layer.lin_l(mean) + layer.lin_r(x))
    layer = gin.layers[0].convolution
    torch.testing.assert_close(gin(x, edges), layer.nn(x + adjacency @ x))
    layer = gine.layers[0].convolution
    summed = torch.zeros_like(x).index_add(0, edges[1], (x[edges[0]] + layer.lin(features)).relu())
    torch.testing.assert_close(gine(x, edges, features), layer.nn(x + summed))


def test_a_batch_of_graphs_is_one_graph_of_several_components(graph):
    x, edges, features = graph
    model = build(EDGE_INPUTS, type="gin", layers=3)
    both = model(torch.cat([x, -x]), torch.cat([edges, edges + NODES], 1), torch.cat([features, features]))
    torch.testing.assert_close(both, torch.cat([model(x, edges, features), model(-x, edges, features)]))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"type": "gcm"}, "type"),
        ({"layers": 0}, "at least 1"),
        ({"heads": 2}, "only 'gat' has heads"),
        ({"type": "gat", "heads": 3}, "must divide"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_mistakes_in_a_config_are_named(fields, error):
    with pytest.raises(ConfigError, match=error):
        GNN(typed(GNNConfig, fields, "gnn"), INPUTS)


def test_what_cannot_see_edges_refuses_their_features():
    with pytest.raises(ConfigError, match="'sage' has no use for features of edges"):
        build(EDGE_INPUTS, type="sage")
