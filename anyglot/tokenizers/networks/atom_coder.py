"""Codes of atoms in context, and an encoder that learns by guessing them (Mole-BERT, Xia et al., ICLR 2023).

A GIN sees an atom with its neighbourhood; a grouped quantizer gives carbon, nitrogen, oxygen and all others codes of
their own; a decoder says from codes what atoms and bonds were. Unlike `molecule_graph.py` nothing here knows the order
of atoms: codes are for learning from, not for getting a molecule back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyglot.tokenizers.molecules import KINDS, Molecule
from anyglot.tokenizers.networks.gnn import GNN, GNNConfig
from anyglot.tokenizers.quantizers import Quantizer

CHIRALITIES = 3
GROUPS = (6, 7, 8)  # atomic numbers with codes of their own; all others share the last group


@dataclass
class AtomBatch:
    """Molecules as one graph: element (index) and chirality of each atom `[atoms]`, edge_index `[2, edges]` of both
    directions and kind `[edges]` of their bonds, molecule `[atoms]` that each is of."""

    element: Tensor
    chirality: Tensor
    edge_index: Tensor
    kind: Tensor
    molecule: Tensor

    def to(self, device: torch.device) -> "AtomBatch":
        """On another device."""
        edges, kind, molecule = self.edge_index.to(device), self.kind.to(device), self.molecule.to(device)
        return AtomBatch(self.element.to(device), self.chirality.to(device), edges, kind, molecule)


class AtomEncoder(nn.Module):
    """Atoms and bonds to a vector per atom. The element after the last is the mask."""

    def __init__(self, gnn: GNNConfig, elements: int) -> None:
        super().__init__()
        self.masked = elements
        self.element = nn.Embedding(elements + 1, gnn.width)
        self.chirality = nn.Embedding(CHIRALITIES, gnn.width)
        self.kind = nn.Embedding(KINDS, gnn.width)
        self.gnn = GNN(gnn, gnn.width, edge_inputs=gnn.width)

    def forward(self, batch: AtomBatch, hidden: Tensor | None = None) -> Tensor:
        """Vectors `[atoms, width]`; hidden: bool `[atoms]`, whose element and chirality are not seen."""
        element, chirality = batch.element, batch.chirality
        if hidden is not None:
            element, chirality = element.masked_fill(hidden, self.masked), chirality.masked_fill(hidden, 0)
        h = self.element(element) + self.chirality(chirality)
        vectors: Tensor = self.gnn(h, batch.edge_index, self.kind(batch.kind))
        return vectors


class AtomCoder(nn.Module):
    """The tokenizer: encoder, grouped quantizer, decoder. numbers: atomic number of each element's index."""

    group: Tensor

    def __init__(self, gnn: GNNConfig, numbers: Sequence[int], dim: int, quantizer: Quantizer) -> None:
        super().__init__()
        self.encoder = AtomEncoder(gnn, len(numbers))
        self.project = nn.Linear(gnn.width, dim)
        self.quantizer = quantizer
        self.decoder = GNN(GNNConfig("gin", 2, gnn.width, dropout=0.0, norm="layer"), quantizer.dim)
        self.heads = nn.ModuleList(nn.Linear(gnn.width, size) for size in (len(numbers), CHIRALITIES, KINDS))
        group = [GROUPS.index(number) if number in GROUPS else len(GROUPS) for number in numbers]
        self.register_buffer("group", torch.tensor(group), persistent=False)

    def grouped(self, batch: AtomBatch) -> Tensor:
        """What is quantized, `[atoms, groups + dim]`: the one-hot of an atom's group, and its vector."""
        front = F.one_hot(self.group[batch.element], len(GROUPS) + 1)
        return torch.cat([front.float(), self.project(self.encoder(batch))], 1)

    def loss(self, batch: AtomBatch) -> Tensor:
        """How badly elements, chiralities and kinds of bonds are told from codes, and what the quantizer adds."""
        quantized = self.quantizer(self.grouped(batch))
        h = self.decoder(quantized.vectors, batch.edge_index)
        ends = h[batch.edge_index[0]] + h[batch.edge_index[1]]
        loss = F.cross_entropy(self.heads[0](h), batch.element) + F.cross_entropy(self.heads[1](h), batch.chirality)
        if len(ends):
            loss = loss + F.cross_entropy(self.heads[2](ends), batch.kind)
        return loss + self.quantizer.loss(quantized)

    @torch.no_grad()
    def codes(self, batch: AtomBatch) -> Tensor:
        """Codes `[atoms]`."""
        return self.quantizer.encode(self.grouped(batch))[:, 0]


class MaskedAtomModel(nn.Module):
    """Masked atom modelling and triplet masked contrastive learning.

    targets: how many classes a masked atom may be. masks: shares hidden in the two views of a molecule, fewer first.
    temperature: of the contrast between views of one molecule and those of others. triplet: weight of the demand that
    the view with fewer masks is nearer to the whole molecule.
    """

    def __init__(
        self, gnn: GNNConfig, elements: int, targets: int, masks: list[float], temperature: float, triplet: float
    ) -> None:
        super().__init__()
        self.encoder = AtomEncoder(gnn, elements)
        self.head = nn.Sequential(nn.Linear(gnn.width, gnn.width), nn.GELU(), nn.Linear(gnn.width, targets))
        self.masks, self.temperature, self.triplet = masks, temperature, triplet

    def loss(self, batch: AtomBatch, targets: Tensor) -> dict[str, Tensor]:
        """Terms to add up: "masked" of both views, "contrast", "triplet". targets: int64 `[atoms]`."""
        whole = pooled(self.encoder(batch), batch.molecule)
        views, masked = [], []
        for share in self.masks:
            hidden = hide(batch.molecule, share)
            h = self.encoder(batch, hidden)
            masked.append(F.cross_entropy(self.head(h[hidden]), targets[hidden]))
            views.append(pooled(h, batch.molecule))
        one, other = (F.normalize(view, dim=1) for view in views)
        contrast = F.cross_entropy(one @ other.T / self.temperature, torch.arange(len(one), device=one.device))
        triplet = F.relu((whole - views[0]).norm(dim=1) - (whole - views[1]).norm(dim=1)).mean()
        return {"masked": torch.stack(masked).sum(), "contrast": contrast, "triplet": self.triplet * triplet}

    @torch.no_grad()
    def embed(self, batch: AtomBatch) -> Tensor:
        """A vector per molecule, `[molecules, width]`."""
        return pooled(self.encoder(batch), batch.molecule)


def hide(molecule: Tensor, share: float) -> Tensor:
    """Which atoms are hidden, bool `[atoms]`: at random, at least one of every molecule. Atoms come molecule by
    molecule."""
    hidden = torch.rand(len(molecule), device=molecule.device) < share
    counts = molecule.bincount()
    drawn = (torch.rand(len(counts), device=molecule.device) * counts).long()
    hidden[counts.cumsum(0) - counts + drawn] = True
    return hidden


def pooled(vectors: Tensor, molecule: Tensor) -> Tensor:
    """Means over the atoms of each molecule, `[molecules, width]`."""
    count = int(molecule[-1]) + 1
    total = vectors.new_zeros(count, vectors.shape[1]).index_add(0, molecule, vectors)
    return total / molecule.bincount(minlength=count)[:, None]


def atom_batch(molecules: Sequence[Molecule], numbers: Sequence[int]) -> AtomBatch:
    """Molecules as one graph. numbers: atomic number of each element's index."""
    index = np.zeros(max(numbers) + 1, dtype=np.int64)
    index[list(numbers)] = np.arange(len(numbers))
    atoms = np.concatenate([molecule.atoms for molecule in molecules])
    lengths = [len(molecule) for molecule in molecules]
    starts = np.cumsum([0, *lengths[:-1]])
    bonds = np.concatenate([m.bonds + np.array([start, start, 0]) for m, start in zip(molecules, starts, strict=True)])
    both = np.concatenate([bonds, bonds[:, [1, 0, 2]]])
    arrays = (index[atoms[:, 0]], atoms[:, 3], both[:, :2].T, both[:, 2], np.repeat(np.arange(len(lengths)), lengths))
    element, chirality, edges, kind, molecule = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
    return AtomBatch(element, chirality, edges, kind, molecule)
