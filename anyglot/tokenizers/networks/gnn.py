"""Graph neural networks: vectors of nodes, from their own and those of their neighbours, by torch-geometric's layers.

Whoever runs one needs `anyglot[graph]`. Graphs are PyG's: `edge_index` int64 [2, edges] of (source, target), an
undirected edge twice; a batch of graphs is one graph of several components.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from anyglot.errors import ConfigError
from anyglot.tokenizers.networks.sparse import drop_features

WITH_EDGES = ("gin", "gat")  # layers that look at features of edges


@dataclass
class GNNConfig:
    """type: "gcn" (arXiv:1609.02907), "sage" (mean of neighbours, arXiv:1706.02216), "gat" (arXiv:1710.10903), "gin"
    (arXiv:1810.00826; with features of edges GINE, arXiv:1905.12265), or "appnp" (`hops` steps of personalised
    PageRank, arXiv:1810.05997, without weights but for a linear map before them where widths differ).

    layers: hops that a node sees. width: of every layer's vectors. heads: of "gat", which share the width.
    dropout: of what a layer reads. norm: of what a layer makes. skip: a linear map of what a layer reads is added.
    hops: of each layer of "appnp".
    """

    type: Literal["gcn", "sage", "gat", "gin", "appnp"] = "gcn"
    layers: int = 2
    width: int = 64
    heads: int = 1
    dropout: float = 0.5
    norm: Literal["none", "batch", "layer"] = "none"
    skip: bool = False
    hops: int = 5

    def check(self, where: str) -> None:
        """Raise ConfigError for values that cannot work."""
        if self.layers < 1 or self.width < 1 or self.heads < 1 or self.hops < 1:
            raise ConfigError(f"{where}: layers, width, heads and hops must be at least 1")
        if self.heads > 1 and self.type != "gat":
            raise ConfigError(f"{where}.heads: only 'gat' has heads, not {self.type!r}; leave it out")
        if self.width % self.heads:
            raise ConfigError(f"{where}.heads: must divide the width {self.width}, got {self.heads}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"{where}.dropout: must lie in [0, 1), got {self.dropout}")


class GNNLayer(nn.Module):
    """Dropout, a convolution (plus a linear skip), a norm, and ReLU where `active`."""

    def __init__(self, config: GNNConfig, inputs: int, outputs: int, edge_inputs: int, active: bool) -> None:
        super().__init__()
        self.dropout, self.active, self.edges = config.dropout, active, edge_inputs > 0
        self.convolution = _convolution(config, inputs, outputs, edge_inputs)
        self.skip = nn.Linear(inputs, outputs) if config.skip else None
        norms = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
        self.norm = norms[config.norm](outputs)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """Nodes [nodes, inputs] to [nodes, outputs]; edge_attr [edges, edge_inputs] if it was made for them.

        "gcn", "gat" and "appnp" read sparse rows too.
        """
        x = drop_features(x, self.dropout, self.training)
        h = self.convolution(x, edge_index, edge_attr) if self.edges else self.convolution(x, edge_index)
        h = self.norm(h if self.skip is None else h + self.skip(x))
        return F.relu(h) if self.active else h


class GNN(nn.Module):
    """Layers one after the other, ReLU between them. Does not depend on how nodes or edges are ordered.

    A node without edges keeps what it makes of itself: no layer divides by a degree of 0.
    """

    def __init__(
        self, config: GNNConfig, inputs: int, outputs: int = 0, edge_inputs: int = 0, where: str = "gnn"
    ) -> None:
        """inputs: width of the nodes' features. outputs: of the result, 0 for config.width. edge_inputs: of features
        of edges, 0 for none. Raises ConfigError for values that cannot work."""
        super().__init__()
        config.check(where)
        if edge_inputs and config.type not in WITH_EDGES:
            raise ConfigError(f"{where}.type: {config.type!r} has no use for features of edges; take 'gin' or 'gat'")
        if config.type == "gat" and (outputs or config.width) % config.heads:
            raise ConfigError(f"{where}.heads: must divide the width of the result, {outputs}, got {config.heads}")
        widths = [inputs, *[config.width] * (config.layers - 1), outputs or config.width]
        last = config.layers - 1
        self.layers = nn.ModuleList(
            GNNLayer(config, widths[i], widths[i + 1], edge_inputs, i < last) for i in range(config.layers)
        )

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """Nodes fp32 [nodes, inputs] to [nodes, outputs]; edge_attr [edges, edge_inputs], or None if made without."""
        for layer in self.layers:
            x = layer(x, edge_index, edge_attr)
        return x


class PersonalisedPageRank(nn.Module):
    """Steps of a walk that starts again at its node with a chance of a tenth; a linear map first if widths differ."""

    def __init__(self, inputs: int, outputs: int, hops: int) -> None:
        super().__init__()
        from torch_geometric.nn import APPNP

        self.lin = nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs)
        self.walk = APPNP(hops, alpha=0.1)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.walk(self.lin(x), edge_index)


def _convolution(config: GNNConfig, inputs: int, outputs: int, edge_inputs: int) -> nn.Module:
    from torch_geometric.nn import GATConv, GCNConv, GINConv, GINEConv, SAGEConv

    if config.type == "gcn":
        return GCNConv(inputs, outputs)
    if config.type == "appnp":
        return PersonalisedPageRank(inputs, outputs, config.hops)
    if config.type == "sage":
        return SAGEConv(inputs, outputs)
    if config.type == "gat":
        return GATConv(inputs, outputs // config.heads, config.heads, edge_dim=edge_inputs or None)
    own = nn.Sequential(nn.Linear(inputs, 2 * outputs), nn.ReLU(), nn.Linear(2 * outputs, outputs))
    return GINEConv(own, train_eps=True, edge_dim=edge_inputs) if edge_inputs else GINConv(own, train_eps=True)
