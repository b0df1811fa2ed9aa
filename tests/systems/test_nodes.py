"""Codes of a graph's nodes, VQGraph and NodeID, on Cora."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from anyglot.config import load_mapping, typed
from anyglot.systems import about
from anyglot.tokenizers.networks.gnn import GNNConfig
from anyglot.tokenizers.networks.node_coders import VQGraph
from anyglot.tokenizers.node_codes import NodeCodes
from anyglot.tokenizers.node_graph import NodeGraph, NodeSplit, split_nodes
from anyglot.train.node_classifiers import (
    FitConfig,
    accuracy,
    classify_codes,
    classify_features,
    classify_graph,
)
from anyglot.train.node_codes import Measured, NodeCodesConfig, Trained, load, measure, teach, train

pytest.importorskip("torch_geometric", reason="needs anyglot[graph]")
ROOT = Path(__file__).parents[2]
CORA = Path(os.environ.get("ANYGLOT_SHARED_DATA", ROOT.parent / "shared" / "data")) / "graphs" / "cora.npz"


@dataclass
class Run:
    config: NodeCodesConfig
    graph: NodeGraph
    split: NodeSplit
    trained: Trained
    measured: Measured


@pytest.fixture(scope="module")
def coded() -> Callable[[str], Run]:
    """What a recipe comes to on Cora; trained once."""
    if not CORA.is_file():
        pytest.skip(f"no {CORA}: set ANYGLOT_SHARED_DATA to a folder with graphs/cora.npz")
    made: dict[str, Run] = {}

    def run(name: str) -> Run:
        if name not in made:
            mapping: dict[str, Any] = load_mapping(f"systems/{name}")
            about(mapping, name)
            mapping.pop("system")
            config = typed(NodeCodesConfig, mapping, name)
            config.graph.file = str(CORA)
            graph = load(config)
            split = split_nodes(graph.labels, config.graph.train, config.graph.valid, config.seed)
            trained = train(config, graph, split, name)
            made[name] = Run(config, graph, split, trained, measure(trained, graph, split))
        return made[name]

    return run


def of_features(run: Run) -> float:
    logits = classify_features(run.graph, run.split, 128, FitConfig(), run.config.seed)
    return accuracy(logits, run.graph.labels, run.split.test)


def test_nid(coded: Callable[[str], Run]) -> None:
    """Six small integers a node, read alone, against a GCN and an MLP on features; shuffled they are worth nothing."""
    run = coded("nid")
    network = classify_graph(run.graph, run.split, GNNConfig(), FitConfig(), run.config.seed)
    gcn = accuracy(network, run.graph.labels, run.split.test)
    assert run.measured.codes > gcn - 0.03  # 0.78 and 0.79; over five seeds see docs/results/nodes.md
    assert run.measured.codes > of_features(run) + 0.1
    codes = run.trained.codes
    assert codes.codes.shape == (2708, 6)
    assert max(codes.levels) <= 16
    shuffled = NodeCodes(codes.codes[torch.randperm(len(codes))], codes.levels)
    _, logits = classify_codes(shuffled, run.graph.labels, run.split, run.config.classifier, run.trained.logits, 0)
    assert accuracy(logits, run.graph.labels, run.split.test) < run.measured.majority + 0.05


def test_vqgraph(coded: Callable[[str], Run]) -> None:
    """The student against one without a teacher and one that is taught no codes; edges against pairs, told by codes."""
    run = coded("vqgraph")
    assert run.measured.student is not None
    assert run.measured.student > of_features(run) + 0.1
    assert run.measured.student > run.measured.coder - 0.03
    coder, graph = run.trained.coder, run.graph
    assert isinstance(coder, VQGraph)
    assert run.config.student is not None
    plain = replace(run.config.student, codes=0.0)
    _, logits = teach(coder, graph, run.split, plain, run.config.seed)
    assert run.measured.student > accuracy(logits, graph.labels, run.split.test)  # 0.76 and 0.71
    z = coder.to_edges(coder.quantizer.decode(run.trained.codes.codes))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(graph), graph.edge_index.shape, generator=generator)
    edge, pair = ((z[u] * z[v]).sum(1) for u, v in (graph.edge_index, drawn))
    assert (edge > pair).double().mean() + (edge == pair).double().mean() / 2 > 0.75  # the area under the ROC curve
    one_hot = coder.assignments(graph, 1e-4).argmax(1)
    assert torch.equal(one_hot, run.trained.codes.codes[:, 0])
