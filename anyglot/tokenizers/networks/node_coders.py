"""Networks that give every node of a graph discrete codes, and classify nodes while they learn to.

A coder is made for a graph's features and classes, and reads the whole graph at once. What a node's code knows is what
lies within as many hops as there are layers before it; of a node without edges, its own features.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyglot.config import typed
from anyglot.errors import ConfigError
from anyglot.tokenizers import quantizers
from anyglot.tokenizers.networks.gnn import GNN, GNNConfig, GNNLayer
from anyglot.tokenizers.networks.sparse import drop_features
from anyglot.tokenizers.node_graph import NodeGraph
from anyglot.tokenizers.quantizers import Quantizer


@dataclass
class Coded:
    """codes: int64 [nodes, levels]. logits: fp32 [nodes, classes]. losses: scalars, weighted; beside the classes'."""

    codes: Tensor
    logits: Tensor
    losses: dict[str, Tensor]


class NodeCoder(nn.Module):
    """What the stage needs of a coder. levels: codebook size of each level of its codes."""

    levels: tuple[int, ...]

    def forward(self, graph: NodeGraph) -> Coded:
        """Codes and classes of all nodes; in training mode also losses, and codebooks move."""
        raise NotImplementedError


@dataclass
class VQGraphConfig:
    """network: the layers before the codes; one more layer reads the codes of neighbours, then classes are told.
    quantizer: of one code, with a codebook. node_weight, edge_weight: of reconstructing from codes what a node was
    before quantization, and edges.
    edges: "sampled", binary cross-entropy of the edges and as many pairs drawn at random; or "dense", the root of the
    mean squared error of the whole adjacency matrix, as published: nodes^2 numbers, for small graphs only.
    """

    network: GNNConfig = field(default_factory=GNNConfig)
    quantizer: dict[str, Any] = field(default_factory=dict)
    node_weight: float = 1.0
    edge_weight: float = 0.1
    edges: Literal["sampled", "dense"] = "sampled"

    def __post_init__(self) -> None:
        if min(self.node_weight, self.edge_weight) < 0:
            raise ConfigError("node_weight and edge_weight must be at least 0")


class VQGraph(NodeCoder):
    """One code per node from its neighbourhood, trained so that nodes, edges and classes can be told from codes
    (VQGraph, Yang et al., arXiv:2308.02117)."""

    def __init__(self, config: VQGraphConfig, inputs: int, classes: int, where: str) -> None:
        super().__init__()
        width = config.network.width
        self.read = nn.Linear(inputs, width)
        self.before = GNN(config.network, width, where=f"{where}.network")
        self.quantizer = quantizers.build(config.quantizer, width, f"{where}.quantizer")
        if len(self.quantizer.levels) != 1:
            raise ConfigError(f"{where}.quantizer: must give one code per node, so that students can be taught it")
        self.levels = self.quantizer.levels
        self.to_edges, self.to_nodes = nn.Linear(width, width), nn.Linear(width, width)
        self.after = GNNLayer(config.network, width, width, 0, active=True)
        self.classify = nn.Linear(width, classes)
        self.node_weight, self.edge_weight, self.dense = config.node_weight, config.edge_weight, config.edges == "dense"

    def forward(self, graph: NodeGraph) -> Coded:
        h = self.hidden(graph)
        quantized = self.quantizer(h)
        structure = self.to_edges(quantized.vectors)
        losses = {"quantizer": self.quantizer.loss(quantized)}
        if self.training:
            losses["nodes"] = self.node_weight * F.mse_loss(self.to_nodes(quantized.vectors), h)
            edges = dense_edge_loss if self.dense else sampled_edge_loss
            losses["edges"] = self.edge_weight * edges(structure, graph.edge_index)
        logits = self.classify(self.after(structure, graph.edge_index))
        return Coded(quantized.codes, logits, losses)

    def hidden(self, graph: NodeGraph) -> Tensor:
        """Nodes before quantization, fp32 [nodes, width]."""
        x = F.relu(self.read(drop_features(graph.features, self.after.dropout, self.training)))
        return F.relu(self.before(x, graph.edge_index))

    @torch.no_grad()
    def assignments(self, graph: NodeGraph, temperature: float) -> Tensor:
        """Soft code assignments [nodes, codes]: softmax of cosine similarity to every code over a temperature."""
        return (F.normalize(self.hidden(graph), dim=1) @ self.directions().t() / temperature).softmax(1)

    @torch.no_grad()
    def directions(self) -> Tensor:
        """The codes' vectors at unit length, fp32 [codes, width]."""
        return F.normalize(quantizers.codebooks(self.quantizer)[0], dim=1)


def sampled_edge_loss(z: Tensor, edge_index: Tensor) -> Tensor:
    """Binary cross-entropy of z_u . z_v over all edges and as many pairs of nodes drawn at random, z [nodes, width]."""
    drawn = torch.randint(len(z), edge_index.shape, device=z.device)
    scores = [(z[u] * z[v]).sum(1) for u, v in (edge_index, drawn)]
    true = [torch.ones_like(scores[0]), torch.zeros_like(scores[1])]
    return F.binary_cross_entropy_with_logits(torch.cat(scores), torch.cat(true))


def dense_edge_loss(z: Tensor, edge_index: Tensor) -> Tensor:
    """Root of the mean squared difference of the adjacency matrix and z z', scaled to 0 .. 1 over all pairs."""
    scores = z @ z.t()
    low, high = scores.min(), scores.max()
    adjacency = torch.zeros_like(scores).index_put((edge_index[0], edge_index[1]), scores.new_ones(()))
    return F.mse_loss((scores - low) / (high - low).clamp(min=1e-12), adjacency).sqrt()


@dataclass
class NodeIDConfig:
    """network: its layers, after each of which codes are taken. quantizer: of each layer, best a residual stack of tiny
    codebooks; the ID is the codes of all of them."""

    network: GNNConfig = field(default_factory=GNNConfig)
    quantizer: dict[str, Any] = field(default_factory=dict)


class NodeID(NodeCoder):
    """Short IDs: a residual quantizer of tiny codebooks reads the output of every layer (NodeID, Luo et al.,
    arXiv:2405.16435). The network itself goes on with what it had before; codes pull its outputs by their commitment.
    """

    def __init__(self, config: NodeIDConfig, inputs: int, classes: int, where: str) -> None:
        super().__init__()
        config.network.check(f"{where}.network")
        width, layers = config.network.width, config.network.layers
        self.dropout = config.network.dropout
        self.read = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(GNNLayer(config.network, width, width, 0, active=True) for _ in range(layers))
        stacks = [quantizers.build(config.quantizer, width, f"{where}.quantizer") for _ in range(layers)]
        self.quantizers = nn.ModuleList(stacks)
        self.levels = stacks[0].levels * layers
        self.classify = nn.Linear(width, classes)

    def forward(self, graph: NodeGraph) -> Coded:
        h = F.relu(self.read(drop_features(graph.features, self.dropout, self.training)))
        total, codes, losses = torch.zeros_like(h), [], []
        for layer, quantizer in zip(self.layers, self.quantizers, strict=True):
            h = layer(h, graph.edge_index)
            total = total + h
            quantized = quantizer(F.normalize(h, dim=1))  # at the length of a cosine codebook's vectors
            codes.append(quantized.codes)
            losses.append(cast(Quantizer, quantizer).loss(quantized))
        return Coded(
            torch.cat(codes, 1),
            self.classify(F.dropout(total, self.dropout, self.training)),
            {"quantizer": torch.stack(losses).sum()},
        )


CODERS: dict[str, tuple[type, Any]] = {
    "vqgraph": (VQGraphConfig, VQGraph),
    "nodeid": (NodeIDConfig, NodeID),
}


def build(mapping: Mapping[str, Any], inputs: int, classes: int, where: str = "coder") -> NodeCoder:
    """Make the coder that a config describes, e.g. `{"type": "nodeid", ...}`. Raises ConfigError."""
    options = dict(mapping)
    name = options.pop("type", None)
    if name not in CODERS:
        raise ConfigError(f"{where}.type: no node coder {name!r}; valid: {', '.join(CODERS)}")
    schema, coder = CODERS[name]
    made: NodeCoder = coder(typed(schema, options, where), inputs, classes, where)
    return made
