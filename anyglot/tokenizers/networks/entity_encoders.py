"""Vectors for the entities of a knowledge graph: of a table, of a few tokens each, or of what surrounds them.

An encoder reads a graph once (`read`: tensors) and makes vectors of what it read (`forward`) as often as it is trained.
All but the table can read a graph of entities that it was not made for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyglot.config import typed
from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers.knowledge_graph import Ints, KnowledgeGraph, relation_profile
from anyglot.tokenizers.networks.mlp import MLP
from anyglot.tokenizers.quantizers.anchors import AnchorConfig, AnchorTokens, choose_anchors


class EntityEncoder(nn.Module):
    """What the stage needs of an encoder. Built from (config, graph, width); `graph` holds training triples only."""

    def read(self, graph: KnowledgeGraph) -> tuple[Tensor, ...]:
        """What `forward` needs to know of a graph. Raises AnyglotError for one that it cannot make vectors for."""
        raise NotImplementedError

    def forward(self, *read: Tensor) -> Tensor:
        """Vectors fp32 [entities, width]."""
        raise NotImplementedError

    def codes(self, graph: KnowledgeGraph) -> Ints | None:
        """The tokens of each entity [entities, places]; None if it has none."""
        return None


@dataclass
class TableConfig:
    """One embedding per entity: nothing to set."""


class EntityTable(EntityEncoder):
    """One embedding per entity of one graph: the baseline that has nothing to say of any other entity."""

    def __init__(self, config: TableConfig, graph: KnowledgeGraph, width: int) -> None:
        super().__init__()
        self.entities = graph.entities
        self.vectors = nn.Parameter(torch.randn(len(graph), width) * width**-0.5)

    def read(self, graph: KnowledgeGraph) -> tuple[Tensor, ...]:
        if graph.entities != self.entities:
            raise AnyglotError("a table has no vectors for entities that it was not trained on; take another encoder")
        return ()

    def forward(self, *read: Tensor) -> Tensor:
        return self.vectors


@dataclass
class TokensConfig:
    """tokens: see AnchorConfig. width: of a token's embedding. hidden: widths of the MLP's hidden layers."""

    tokens: AnchorConfig = field(default_factory=AnchorConfig)
    width: int = 32
    hidden: list[int] = field(default_factory=lambda: [64])

    def __post_init__(self) -> None:
        if min([self.width, *self.hidden]) < 1:
            raise ConfigError("entities.width and entities.hidden must be at least 1")


class TokenEncoder(EntityEncoder):
    """An MLP over the embeddings of an entity's tokens, one after the other (NodePiece, arXiv:2106.12144).

    The embedding of a hop distance is added to that of its anchor.
    """

    def __init__(self, config: TokensConfig, graph: KnowledgeGraph, width: int) -> None:
        super().__init__()
        self.tokens = AnchorTokens.choose(graph, config.tokens)
        self.embedding = nn.Embedding(self.tokens.size, config.width)
        nn.init.normal_(self.embedding.weight, std=0.5)
        places = config.tokens.nearest + config.tokens.relations
        self.mlp = MLP([places * config.width, *config.hidden, width])

    def read(self, graph: KnowledgeGraph) -> tuple[Tensor, ...]:
        return (torch.from_numpy(self.tokens.encode(graph)),)

    def codes(self, graph: KnowledgeGraph) -> Ints | None:
        return self.tokens.encode(graph)

    def forward(self, *read: Tensor) -> Tensor:
        embedded = self.embedding(read[0])
        if self.tokens.config.hops:
            count = self.tokens.config.nearest
            anchors, hops, relations = embedded.tensor_split([count, 2 * count], dim=1)
            embedded = torch.cat([anchors + hops, relations], dim=1)
        return self.mlp(embedded.flatten(1))


@dataclass
class EarlConfig:
    """reserved: entities that have a vector of their own, drawn at random. nearest: of them that an entity is likened
    to. layers: hops that the graph network sees."""

    reserved: int = 16
    nearest: int = 4
    layers: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.nearest <= self.reserved or self.layers < 0:
            raise ConfigError("entities: nearest must be 1 to reserved, and layers at least 0")


class EarlEncoder(EntityEncoder):
    """Entity-agnostic vectors (EARL, Chen et al. 2023, arXiv:2302.01849): no parameter belongs to an entity.

    Of an entity it takes the relations that leave it and how often, the reserved entities most like it in that, and
    its neighbours' vectors, over as many hops as there are layers.
    """

    reserved_profiles: Tensor

    def __init__(self, config: EarlConfig, graph: KnowledgeGraph, width: int) -> None:
        super().__init__()
        self.nearest, self.known = config.nearest, graph.relations
        reserved = choose_anchors(graph, config.reserved, by_degree=0.0, by_pagerank=0.0)
        self.register_buffer("reserved_profiles", normalised_profile(graph)[reserved])
        self.reserved = nn.Parameter(torch.randn(config.reserved, width) * width**-0.5)
        self.relations = nn.Parameter(torch.randn(2 * len(graph.relations), width) * width**-0.5)
        self.combine = MLP([2 * width, 2 * width, width])
        self.own = nn.ModuleList(nn.Linear(width, width) for _ in range(config.layers))
        self.sent = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(config.layers))

    def read(self, graph: KnowledgeGraph) -> tuple[Tensor, ...]:
        if graph.relations != self.known:
            raise AnyglotError("the graph has other relations than the encoder; read it with the encoder's")
        profile = normalised_profile(graph)
        likeness = (profile @ self.reserved_profiles.cpu().t()).round(decimals=6)  # what is equal must tie
        likeness, likest = (part[:, : self.nearest] for part in likeness.sort(dim=1, descending=True, stable=True))
        return profile, likeness.softmax(1), likest, *(torch.from_numpy(part) for part in graph.edges)

    def forward(self, *read: Tensor) -> Tensor:
        profile, likeness, likest, source, relation, target = read
        likened = (likeness[..., None] * self.reserved[likest]).sum(1)
        h = self.combine(torch.cat([profile @ self.relations, likened], dim=1))
        degree = torch.bincount(source, minlength=len(h)).clamp(min=1)[:, None]
        for own, sent in zip(self.own, self.sent, strict=True):
            # What comes along an edge is the same wherever it goes to, so that the sum may be taken before the map.
            received = torch.zeros(len(h), 2 * h.shape[1], device=h.device, dtype=h.dtype)
            received = received.index_add(0, source, torch.cat([h[target], self.relations[relation]], dim=1))
            h = h + F.silu(own(h) + sent(received / degree))
        return h


def normalised_profile(graph: KnowledgeGraph) -> Tensor:
    """How often each relation leaves each entity, on a log scale and of unit length, fp32 [entities, 2R]."""
    return F.normalize(torch.from_numpy(np.log1p(relation_profile(graph))), dim=1).float()


ENCODERS: dict[str, tuple[type, type[EntityEncoder]]] = {
    "table": (TableConfig, EntityTable),
    "tokens": (TokensConfig, TokenEncoder),
    "earl": (EarlConfig, EarlEncoder),
}


def build(mapping: Mapping[str, Any], graph: KnowledgeGraph, width: int, where: str = "entities") -> EntityEncoder:
    """Make the encoder that a config describes, e.g. `{"type": "earl", "reserved": 16}`. Raises ConfigError."""
    options = dict(mapping)
    name = options.pop("type", None)
    if name not in ENCODERS:
        raise ConfigError(f"{where}.type: no entity encoder {name!r}; valid: {', '.join(ENCODERS)}")
    schema, encoder = ENCODERS[name]
    return encoder(typed(schema, options, where), graph, width)
