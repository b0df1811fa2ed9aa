"""What a molecule tokenizer is trained for: every feature of every atom, and the bond between every two."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from anyglot.errors import ConfigError
from anyglot.tokenizers.graph import MoleculeBatch, Reconstruction, collate
from anyglot.tokenizers.molecules import Molecule, picture, to_smiles

FEATURES = ("element", "charge", "hydrogens", "chirality")


@dataclass
class GraphObjectiveConfig:
    """bonds: weight of the cross-entropy of bonds, summed over the pairs of an atom, beside that of its features."""

    bonds: float = 1.0

    def __post_init__(self) -> None:
        if self.bonds <= 0:
            raise ConfigError(f"bonds: a weight above 0, got {self.bonds}")


class GraphObjective(nn.Module):
    """The loss of a molecule tokenizer. There is no second player."""

    discriminator: nn.Module | None = None

    def __init__(self, config: GraphObjectiveConfig) -> None:
        super().__init__()
        self.config = config

    def generator_loss(
        self, model: Any, batch: MoleculeBatch, step: int
    ) -> tuple[Tensor, dict[str, Tensor], Reconstruction]:
        """The loss to minimise, its terms and the reconstruction. Terms are nats an atom."""
        reconstruction: Reconstruction = model(batch)
        molecule = batch.mask.nonzero()[:, 0]  # of each atom
        mistakes = torch.zeros(len(batch.mask), device=molecule.device)
        terms: dict[str, Tensor] = {}
        for name, scores, wanted in zip(
            FEATURES, reconstruction.features, model.features(batch.atoms).unbind(1), strict=True
        ):
            found = scores[batch.mask].float()
            terms[name] = cross_entropy(found, wanted)
            mistakes.index_add_(0, molecule, (found.argmax(-1) != wanted).float())
        pairs = (batch.mask[:, :, None] & batch.mask[:, None]).triu(1)
        found, wanted = reconstruction.bonds[pairs].float(), bond_table(batch, molecule)[pairs]
        terms["bonds"] = cross_entropy(found, wanted, reduction="sum") / len(molecule)
        mistakes.index_add_(0, pairs.nonzero()[:, 0], (found.argmax(-1) != wanted).float())
        terms["quantizer"] = model.quantizer.loss(reconstruction.quantized)
        loss = sum((terms[name] for name in FEATURES), self.config.bonds * terms["bonds"]) + terms["quantizer"]
        terms["exact"] = (mistakes == 0).float().mean()
        return loss, {k: v.detach() for k, v in terms.items()}, reconstruction

    def discriminator_loss(
        self, batch: MoleculeBatch, reconstruction: Reconstruction, step: int
    ) -> tuple[Tensor, dict[str, Tensor]] | None:
        """None: there is no discriminator."""
        return None


def bond_table(batch: MoleculeBatch, molecule: Tensor) -> Tensor:
    """The kind of bond between every two atoms, int64 `[molecules, atoms, atoms]`, 0 for none; first < second only.

    molecule: `[all atoms]`, the one that an atom is of.
    """
    count, most = batch.mask.shape
    first, second, kind = batch.bonds
    table = torch.zeros(count, most, most, dtype=torch.int64, device=kind.device)
    table[molecule[first], batch.position[first], batch.position[second]] = kind
    return table


def crop(
    media: Sequence[Molecule], config: GraphObjectiveConfig, generator: np.random.Generator, batch_size: int
) -> MoleculeBatch:
    """A training batch: random molecules, whole."""
    return collate([media[int(index)] for index in generator.integers(len(media), size=batch_size)])


def show(log: Any, step: int, model: Any, media: Sequence[Molecule], decoded: Sequence[Molecule]) -> None:
    """Draw the molecules, originals above reconstructions, and write their SMILES."""
    rows = [np.concatenate([picture(molecule) for molecule in row], axis=1) for row in (media, decoded)]
    log.pictures(step, "original above reconstruction", np.concatenate(rows)[None])
    lines = [f"{to_smiles(a)}  ->  {to_smiles(b)}" for a, b in zip(media, decoded, strict=True)]
    log.words(step, "original -> reconstruction", "\n\n".join(lines))


OBJECTIVE = GraphObjective
CONFIG = GraphObjectiveConfig
