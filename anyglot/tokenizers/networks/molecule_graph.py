"""Encoder and decoder of molecules: a GNN reads bonds, and how far apart their atoms stand in the order of atoms; a
transformer says atoms and bonds again.

Both know the order of atoms (see `molecules.py`), so that atoms which look alike in the graph can be told apart, and an
atom can say "my neighbours are the atom before me and the one six before".
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyglot.errors import ConfigError
from anyglot.tokenizers.molecules import KINDS
from anyglot.tokenizers.networks.gnn import GNN, GNNConfig


@dataclass
class MoleculeNetworkConfig:
    """gnn_layers, gnn_width: of the encoder, a GIN. layers, width, heads: of the decoder, a transformer.
    pair_width: of the vectors by which two atoms agree on a bond, beside what each says of its own."""

    gnn_layers: int = 3
    gnn_width: int = 128
    layers: int = 3
    width: int = 128
    heads: int = 4
    pair_width: int = 16

    def __post_init__(self) -> None:
        if min(self.gnn_layers, self.gnn_width, self.layers, self.width, self.heads, self.pair_width) < 1:
            raise ConfigError("network: layers, widths and heads must be at least 1")
        if self.width % self.heads:
            raise ConfigError(f"network.heads: must divide the width {self.width}, got {self.heads}")


class MoleculeEncoder(nn.Module):
    """Atoms and bonds to a vector per atom. sizes: values of each feature of an atom."""

    def __init__(self, config: MoleculeNetworkConfig, sizes: tuple[int, ...], max_atoms: int, dim: int) -> None:
        super().__init__()
        width = config.gnn_width
        self.max_atoms = max_atoms
        self.features = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        self.position = nn.Embedding(max_atoms, width)
        self.kind = nn.Embedding(KINDS, width)
        self.offset = nn.Embedding(2 * max_atoms, width)
        self.gnn = GNN(
            GNNConfig("gin", config.gnn_layers, width, dropout=0.0, norm="layer", skip=True), width, edge_inputs=width
        )
        self.out = nn.Linear(width, dim)

    def forward(self, atoms: Tensor, position: Tensor, bonds: Tensor) -> Tensor:
        """Features of atoms `[atoms, features]` of all molecules of a batch, where each stands in its molecule
        `[atoms]`, and bonds `[3, bonds]` (first atom, second atom of the batch, kind), to vectors `[atoms, dim]`."""
        h = sum((table(atoms[:, i]) for i, table in enumerate(self.features)), self.position(position))
        source, target = torch.cat([bonds[:2], bonds[:2].flip(0)], 1)
        edges = self.kind(bonds[2].repeat(2)) + self.offset(source - target + self.max_atoms)
        h = self.gnn(h, torch.stack([source, target]), edges)
        vectors: Tensor = self.out(F.relu(h))
        return vectors


class Block(nn.Module):
    """Attention, then an MLP, each on normed input and added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x `[batch, atoms, width]`; mask bool, broadcast to `[batch, heads, atoms, atoms]`, True = may look."""
        batch, atoms, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(batch, atoms, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(h.transpose(1, 2).reshape(batch, atoms, width))
        return x + self.mlp(self.mlp_norm(x))


class MoleculeDecoder(nn.Module):
    """Code vectors to scores of every feature of every atom, and of every kind of bond between every two."""

    def __init__(self, config: MoleculeNetworkConfig, sizes: tuple[int, ...], max_atoms: int, dim: int) -> None:
        super().__init__()
        width = config.width
        self.max_atoms = max_atoms
        self.start = nn.Linear(dim, width)
        self.position = nn.Embedding(max_atoms, width)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.features = nn.ModuleList(nn.Linear(width, size) for size in sizes)
        # What an atom says of its bonds: by how far before or behind it the other atom stands.
        self.offsets = nn.Linear(width, 2 * max_atoms * KINDS)
        # What two atoms agree on.
        self.pairs = nn.Linear(width, 2 * KINDS * config.pair_width)

    def forward(self, vectors: Tensor, mask: Tensor) -> tuple[list[Tensor], Tensor]:
        """Vectors `[batch, atoms, dim]`, mask bool `[batch, atoms]` of real atoms.

        Returns scores of each feature `[batch, atoms, size]`, and of bonds `[batch, atoms, atoms, KINDS]`, symmetric.
        """
        batch, atoms, _ = vectors.shape
        places = torch.arange(atoms, device=vectors.device)
        x = self.start(vectors) + self.position(places)
        for block in self.blocks:
            x = block(x, mask[:, None, None])
        x = self.norm(x)
        offsets = self.offsets(x).view(batch, atoms, 2 * self.max_atoms, KINDS)
        index = (places[None] - places[:, None] + self.max_atoms)[None, :, :, None].expand(batch, -1, -1, KINDS)
        own = offsets.gather(2, index)
        left, right = self.pairs(x).view(batch, atoms, 2, KINDS, -1).unbind(2)
        agreed = torch.einsum("bikd,bjkd->bijk", left, right) / left.shape[-1] ** 0.5
        both = own + agreed
        return [head(x) for head in self.features], both + both.transpose(1, 2)
