"""The node codes stage: what it writes, that it learns, what it refuses; coders on a small graph of communities."""

import json

import pytest
import torch

from anyglot.config import typed
from anyglot.errors import AnyglotError, ConfigError, MismatchError
from anyglot.inspection import show
from anyglot.tokenizers.networks import node_coders
from anyglot.tokenizers.networks.node_coders import dense_edge_loss, sampled_edge_loss
from anyglot.tokenizers.node_codes import NodeCodes
from anyglot.tokenizers.node_graph import UNKNOWN, NodeGraph
from anyglot.train import node_codes as stage

pytest.importorskip("torch_geometric", reason="needs anyglot[graph]")
NODES = 90
VQ = {"type": "vq", "size": 8, "metric": "cosine", "decay": 0.8, "kmeans_init": False}
CODERS = {
    "vqgraph": {"type": "vqgraph", "network": {"layers": 1, "width": 16, "dropout": 0.1}, "quantizer": VQ},
    "nodeid": {
        "type": "nodeid",
        "network": {"layers": 2, "width": 16, "dropout": 0.1},
        "quantizer": {"type": "residual", "levels": 2, "inner": {**VQ, "size": 4}},
    },
}


@pytest.fixture
def graph():
    """Three communities of 30; features are noisy hints of them. The last node has no edge, the one before no class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(NODES) % 3
    x = torch.nn.functional.one_hot(labels, 8).float() + torch.rand(NODES, 8, generator=generator)
    chance = torch.where(labels[:, None] == labels, 0.3, 0.02)
    edges = (torch.rand(NODES, NODES, generator=generator) < chance).nonzero().t()
    labels[-2] = UNKNOWN
    return NodeGraph.make(x, edges[:, (edges < NODES - 1).all(0)], labels, [f"node {i}" for i in range(NODES)])


@pytest.fixture
def config(tmp_path, graph):
    graph.save(tmp_path / "graph.safetensors")
    return {
        "out": str(tmp_path / "out"),
        "graph": {"file": str(tmp_path / "graph.safetensors"), "train": 6, "valid": 6},
        "coder": CODERS["vqgraph"],
        "fit": {"steps": 120, "lr": 0.02},
        "classifier": {"fit": {"steps": 60}},
        "student": {"hidden": [16], "fit": {"steps": 60}},
    }


def test_a_run_writes_codes_figures_and_log_that_can_be_shown(config, tmp_path, capsys):
    stage.run(config, "test")
    out = tmp_path / "out"
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["isolated"] == 1
    assert min(metrics["coder"], metrics["codes"], metrics["student"]) > 0.8 > 0.4 > metrics["majority"]
    codes = NodeCodes.load(out / "codes")
    assert codes.codes.shape == (NODES, 1)
    assert codes.names[3] == "node 3"
    assert codes.made["config"]["coder"] == CODERS["vqgraph"]
    assert {path.name for path in out.iterdir()} >= {"model.safetensors", "student.safetensors", "log.jsonl"}
    shown = capsys.readouterr().out
    assert "1 codes each of 8, 3.0 bits" in shown
    assert "1 nodes have no edge" in shown
    show(out)
    assert "node 0" in capsys.readouterr().out
    stage.run(config, "test")  # finished: left as it is
    with pytest.raises(MismatchError, match="made with another 'seed'"):
        stage.run({**config, "seed": 1}, "test")


def test_a_run_repeats_itself(config):
    made = []
    for _ in range(2):
        typed_config = typed(stage.NodeCodesConfig, {**config, "coder": CODERS["nodeid"], "student": None}, "test")
        graph = stage.load(typed_config)
        split = stage.split_nodes(graph.labels, 6, 6, 0)
        made.append(stage.train(typed_config, graph, split))
    assert torch.equal(made[0].codes.codes, made[1].codes.codes)
    assert torch.equal(made[0].code_logits, made[1].code_logits)
    assert stage.measure(made[0], graph, split).codes > 0.8


@pytest.mark.parametrize("kind", CODERS)
def test_test_classes_change_nothing_but_the_figures(config, kind):
    """No leak: with other classes for the test nodes, codes and predictions are the same."""
    found = []
    for wrong in (False, True):
        typed_config = typed(stage.NodeCodesConfig, {**config, "coder": CODERS[kind], "student": None}, "test")
        graph = stage.load(typed_config)
        split = stage.split_nodes(graph.labels, 6, 6, 0)
        labels = graph.labels.clone()
        labels[split.test] = (labels[split.test] + wrong) % 3
        other = NodeGraph(graph.x, graph.edge_index, labels, graph.names)
        found.append(stage.train(typed_config, other, split))
    assert torch.equal(found[0].codes.codes, found[1].codes.codes)
    assert torch.equal(found[0].code_logits, found[1].code_logits)


@pytest.mark.parametrize("kind", CODERS)
def test_codes_do_not_depend_on_how_nodes_are_numbered(graph, kind):
    torch.manual_seed(0)
    coder = node_coders.build(CODERS[kind], 8, 3).eval()
    order = torch.randperm(NODES)
    moved = NodeGraph.make(graph.x[order], order.argsort()[graph.edge_index])
    assert torch.equal(coder(moved).codes, coder(graph).codes[order])


@pytest.mark.parametrize("kind", CODERS)
def test_a_node_without_edges_is_coded_by_its_features_alone(graph, kind):
    torch.manual_seed(0)
    coder = node_coders.build(CODERS[kind], 8, 3).eval()
    alone = NodeGraph.make(graph.x[-1:], torch.zeros(2, 0, dtype=torch.long))
    assert torch.equal(coder(alone).codes[0], coder(graph).codes[-1])
    bare = NodeGraph.make(torch.zeros(2, 8), torch.zeros(2, 0, dtype=torch.long))
    assert coder(bare).logits.isfinite().all()


def test_every_layer_has_codes_of_its_own(graph):
    torch.manual_seed(0)
    coder = node_coders.build(CODERS["nodeid"], 8, 3)
    assert coder.levels == (4,) * 4
    coded = coder(graph)
    coded.losses["quantizer"].backward()
    assert all(layer.convolution.lin.weight.grad.abs().sum() > 0 for layer in coder.layers)


def test_edge_losses_are_those_of_their_equations():
    torch.manual_seed(0)
    z, edges = torch.randn(6, 3), torch.tensor([[0, 1, 2, 5], [1, 0, 5, 2]])
    adjacency = torch.zeros(6, 6)
    adjacency[edges[0], edges[1]] = 1
    scores = z @ z.t()
    scaled = (scores - scores.min()) / (scores.max() - scores.min())
    assert float(dense_edge_loss(z, edges)) == pytest.approx(float((scaled - adjacency).square().mean().sqrt()))
    expected = torch.cat(
        [
            torch.sigmoid(scores[edges[0], edges[1]]).log().neg(),
            torch.nn.functional.softplus(scores).flatten().mean()[None].expand(4),
        ]
    )
    drawn = torch.stack([sampled_edge_loss(z, edges) for _ in range(2000)]).mean()
    assert float(drawn) == pytest.approx(float(expected.mean()), rel=0.05)
    z = torch.nn.Parameter(z)
    for loss in (dense_edge_loss, sampled_edge_loss):
        optimizer = torch.optim.Adam([z], 0.05)
        before = float(loss(z, edges).detach())
        for _ in range(100):
            optimizer.zero_grad()
            loss(z, edges).backward()
            optimizer.step()
        assert float(loss(z, edges).detach()) < before


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"coder": {"type": "gnn"}}, "no node coder 'gnn'; valid: vqgraph, nodeid"),
        ({"coder": {**CODERS["nodeid"], "network": {"width": 0}}}, "network: layers, width"),
        ({"coder": {**CODERS["vqgraph"], "edges": "all"}}, "edges"),
        ({"coder": {**CODERS["vqgraph"], "quantizer": CODERS["nodeid"]["quantizer"]}}, "must give one code per node"),
        ({"coder": CODERS["nodeid"]}, "student: is taught by a coder of type 'vqgraph', not 'nodeid'"),
        ({"fit": {"steps": 0}}, "steps and patience must be at least 1"),
        ({"graph": {"file": "x.npz", "valid": 0}}, "train and valid must be at least 1"),
        ({"classifier": {"hidden": []}}, "hidden: one width or more"),
        ({"classifier": {"width": 0}}, "width must be at least 1"),
        ({"student": {"hidden": []}}, "hidden: one width or more"),
        ({"student": {"dropout": 1.0}}, "dropout must lie"),
        ({"student": {"temperature": 0.0}}, "temperature above 0"),
        ({"coder": {**CODERS["vqgraph"], "edge_weight": -1.0}}, "edge_weight must be at least 0"),
    ],
)
def test_mistakes_in_a_config_are_named(config, changes, error):
    with pytest.raises(ConfigError, match=error):
        stage.run({**config, **changes}, "test")


def test_a_missing_graph_says_where_to_get_one(config, tmp_path):
    with pytest.raises(AnyglotError, match=r"cora.npz: no such file; docs/node-codes.md"):
        stage.run({**config, "graph": {"file": str(tmp_path / "cora.npz")}}, "test")
