"""Molecule tokenizer: a GNN encoder, any quantizer, codes for every heavy atom, and a decoder back to a molecule.

Codes are in the canonical order of atoms (`molecules.py`), so that they do not depend on how a molecule was written.
The decoder scores atoms and bonds; `molecule_assembly.py` makes of the scores a molecule that can be.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from anyglot.errors import AnyglotError, ConfigError, MediaError
from anyglot.tokenizers import molecules, quantizers
from anyglot.tokenizers.module import TokenizerModule
from anyglot.tokenizers.molecule_assembly import Scores, assemble
from anyglot.tokenizers.molecules import Molecule
from anyglot.tokenizers.networks.molecule_graph import MoleculeDecoder, MoleculeEncoder, MoleculeNetworkConfig
from anyglot.tokenizers.quantizers.base import Quantized
from anyglot.tokenizers.spec import Axis, CodeSpec

HYDROGENS, CHIRALITIES = 5, 3  # 0 to 4; none, counter-clockwise, clockwise


@dataclass
class GraphConfig:
    """elements: that a molecule may have. charge: of an atom, at most, either way. max_atoms: bigger molecules are
    refused. dim: width of the latents. quantizer: {"type": ..., and its fields}. network: of encoder and decoder.
    batch_atoms: how many atoms `encode` and `decode` put through the network at once."""

    elements: list[str] = field(default_factory=lambda: list(molecules.ELEMENTS))
    charge: int = 1
    max_atoms: int = 24
    dim: int = 64
    quantizer: dict[str, Any] = field(default_factory=dict)
    network: MoleculeNetworkConfig = field(default_factory=MoleculeNetworkConfig)
    batch_atoms: int = 4096

    def __post_init__(self) -> None:
        if self.max_atoms < 1 or self.charge < 0 or self.batch_atoms < 1:
            raise ConfigError("max_atoms and batch_atoms must be at least 1, charge at least 0")


@dataclass
class MoleculeBatch:
    """Molecules side by side.

    atoms: int64 `[all atoms, 4]`, as those of a Molecule. position: int64 `[all atoms]`, of an atom in its molecule.
    bonds: int64 `[3, bonds]`, first and second atom of the batch, kind. mask: bool `[molecules, most atoms]`, where
    atoms are.
    """

    atoms: Tensor
    position: Tensor
    bonds: Tensor
    mask: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "MoleculeBatch":
        """On another device."""
        tensors = (self.atoms, self.position, self.bonds, self.mask)
        atoms, position, bonds, mask = (tensor.to(device, non_blocking=non_blocking) for tensor in tensors)
        return MoleculeBatch(atoms, position, bonds, mask)


@dataclass
class Reconstruction:
    """features: scores of each feature of the atoms, `[molecules, atoms, values]`. bonds: scores
    `[molecules, atoms, atoms, KINDS]`. quantized: of the latents `[1, all atoms, dim]`."""

    features: list[Tensor]
    bonds: Tensor
    quantized: Quantized


class GraphTokenizer(TokenizerModule):
    """The `ModalityTokenizer` for molecules; as a module, the autoencoder that training sees."""

    modality: ClassVar[str] = "graph"
    config_class: ClassVar[type] = GraphConfig
    config: GraphConfig
    suffix: ClassVar[str] = ".smi"
    preview_suffix: ClassVar[str] = ".png"
    inline: ClassVar[bool] = True
    element: Tensor  # index of an atomic number

    def __init__(self, config: GraphConfig) -> None:
        super().__init__(config)
        self.numbers = molecules.atomic_numbers(config.elements)
        index = torch.zeros(max(self.numbers) + 1, dtype=torch.int64)
        index[self.numbers] = torch.arange(len(self.numbers))
        self.register_buffer("element", index, persistent=False)
        sizes = (len(self.numbers), 2 * config.charge + 1, HYDROGENS, CHIRALITIES)
        self.encoder = MoleculeEncoder(config.network, sizes, config.max_atoms, config.dim)
        self.quantizer = quantizers.build(config.quantizer, config.dim, "quantizer")
        self.decoder = MoleculeDecoder(config.network, sizes, config.max_atoms, config.dim)

    @property
    def spec(self) -> CodeSpec:
        """One open axis, "nodes": heavy atoms in canonical order."""
        return CodeSpec("graph", self.quantizer.levels, (Axis("nodes", "open", self.config.max_atoms),))

    def features(self, atoms: Tensor) -> Tensor:
        """Atoms `[all atoms, 4]` as indices into the values of each feature, which the decoder scores."""
        charge = atoms[:, 1] + self.config.charge
        return torch.stack([self.element[atoms[:, 0]], charge, atoms[:, 2], atoms[:, 3]], dim=1)

    def latents(self, batch: MoleculeBatch) -> Tensor:
        """Vectors `[all atoms, dim]`, before they are quantized."""
        vectors: Tensor = self.encoder(self.features(batch.atoms), batch.position, batch.bonds)
        return vectors

    def forward(self, batch: MoleculeBatch) -> Reconstruction:
        """Scores of what the molecules were, from codes."""
        latents = self.latents(batch)
        quantized = self.quantizer(latents.float()[None])
        padded = latents.new_zeros(*batch.mask.shape, self.config.dim).masked_scatter(
            batch.mask[..., None], quantized.vectors[0].to(latents.dtype)
        )
        features, bonds = self.decoder(padded, batch.mask)
        return Reconstruction(features, bonds, quantized)

    @torch.no_grad()
    def encode(self, media: Sequence[Molecule]) -> list[Tensor]:
        """Molecules, atoms in any order, to codes `[atoms, levels]`, on the CPU. Raises MediaError."""
        canonical = [molecules.canonical(self._checked(m, f"molecule {i}")) for i, m in enumerate(media)]
        codes: list[Tensor] = []
        for start, end in self._batches([len(molecule) for molecule in canonical]):
            latents = self.latents(collate(canonical[start:end]).to(self.device))
            found = self.quantizer.encode(latents).cpu()
            ends = np.cumsum([len(molecule) for molecule in canonical[start:end]])
            codes += [found[last - len(m) : last].clone() for m, last in zip(canonical[start:end], ends, strict=True)]
        return codes

    @torch.no_grad()
    def decode(self, codes: Sequence[Tensor]) -> list[Molecule]:
        """Codes `[atoms, levels]` to molecules, one connected and valid each. Raises AnyglotError for another shape."""
        return [assemble(scores, self.numbers, self.config.charge) for scores in self.scores(codes)]

    @torch.no_grad()
    def scores(self, codes: Sequence[Tensor]) -> list[Scores]:
        """What the decoder says of atoms and bonds, as logarithms of shares, before a molecule is made of it."""
        for code in codes:
            if code.ndim != 2 or code.shape[1] != len(self.quantizer.levels) or not len(code):
                raise AnyglotError(f"molecule codes must be [nodes, levels], got {list(code.shape)}")
            if len(code) > self.config.max_atoms:
                raise AnyglotError(f"{len(code)} nodes, more than max_atoms={self.config.max_atoms}; cut the codes")
        found: list[Scores] = []
        for start, end in self._batches([len(code) for code in codes]):
            part = codes[start:end]
            mask = _mask([len(code) for code in part]).to(self.device)
            vectors = self.quantizer.decode(torch.cat(list(part)).to(self.device))
            padded = vectors.new_zeros(*mask.shape, self.config.dim).masked_scatter(mask[..., None], vectors)
            features, pairs = self.decoder(padded, mask)
            shares = [scores.float().log_softmax(-1).cpu().numpy() for scores in (*features, pairs)]
            for i, code in enumerate(part):
                elements, charges, hydrogens, chiralities, bonds = (table[i, : len(code)] for table in shares)
                found.append(Scores(elements, charges, hydrogens, chiralities, bonds[:, : len(code)]))
        return found

    def read(self, source: str | Path | bytes) -> Molecule:
        """The molecule of a `.smi` file or of its bytes. Raises MediaError naming it, and what is wrong."""
        name = f"SMILES {source[:80]!r}" if isinstance(source, bytes) else str(source)
        return self._checked(molecules.read(source), name)

    def write(self, media: Molecule, path: str | Path) -> None:
        """Write canonical SMILES as `.smi`, atomically."""
        molecules.write(media, path)

    def preview(self, media: Molecule, path: str | Path) -> None:
        """Draw the molecule as `.png`."""
        molecules.draw(media, path)

    def _checked(self, molecule: Molecule, name: str) -> Molecule:
        """The molecule, if it has codes."""
        if len(molecule) > self.config.max_atoms:
            raise MediaError(
                f"{name}: {len(molecule)} heavy atoms, more than max_atoms={self.config.max_atoms}; "
                "leave it out, or train a tokenizer with more"
            )
        numbers, charges, hydrogens = molecule.atoms[:, 0], molecule.atoms[:, 1], molecule.atoms[:, 2]
        for atom in np.flatnonzero(~np.isin(numbers, self.numbers)):
            raise MediaError(
                f"{name}: atom {atom} is {molecule.symbols[atom]}, not one of {', '.join(self.config.elements)}; "
                "leave it out, or train a tokenizer with that element"
            )
        if np.abs(charges).max() > self.config.charge or hydrogens.max() >= HYDROGENS:
            raise MediaError(
                f"{name}: a charge beyond {self.config.charge} or more than {HYDROGENS - 1} hydrogens on an atom; "
                "leave it out"
            )
        return molecule

    def _batches(self, lengths: Sequence[int]) -> list[tuple[int, int]]:
        """Starts and ends of runs of molecules, each at most batch_atoms, padded."""
        count = max(1, self.config.batch_atoms // self.config.max_atoms)
        return [(start, min(start + count, len(lengths))) for start in range(0, len(lengths), count)]


def collate(media: Sequence[Molecule]) -> MoleculeBatch:
    """Canonical molecules side by side, on the CPU. In NumPy, because it is called in a loader's thread."""
    lengths = [len(molecule) for molecule in media]
    starts = np.cumsum([0, *lengths[:-1]])
    atoms = np.concatenate([molecule.atoms for molecule in media])
    position = np.concatenate([np.arange(length) for length in lengths])
    moved = [m.bonds + np.array([start, start, 0]) for m, start in zip(media, starts, strict=True)]
    bonds = np.ascontiguousarray(np.concatenate(moved).T)
    return MoleculeBatch(torch.from_numpy(atoms), torch.from_numpy(position), torch.from_numpy(bonds), _mask(lengths))


def _mask(lengths: Sequence[int]) -> Tensor:
    """Where atoms are, `[molecules, most atoms]`."""
    return torch.from_numpy(np.arange(max(lengths)) < np.array(lengths)[:, None])


TOKENIZER = GraphTokenizer
