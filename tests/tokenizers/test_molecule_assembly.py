"""From scores to molecules: right scores give the molecule back, any scores give one that can be."""

import numpy as np
import pytest

from anyglot.errors import MediaError
from anyglot.tokenizers.molecule_assembly import Scores, assemble, likeliest, valences
from anyglot.tokenizers.molecules import KINDS, SINGLE, Molecule, canonical, from_smiles, to_rdkit, to_smiles
from tests.tokenizers.test_molecules import SMILES

NUMBERS = [5, 6, 7, 8, 9, 14, 15, 16, 17, 34, 35, 53]


def one_hot(index, count):
    found = np.full((len(index), count), -9.0, np.float32)
    found[np.arange(len(index)), index] = 0.0
    return found


def scores_of(molecule, charge=1):
    """Scores of a decoder that is sure of a molecule."""
    count = len(molecule)
    bonds = np.full((count, count, KINDS), -9.0, np.float32)
    bonds[..., 0] = 0
    for first, second, kind in molecule.bonds:
        for pair in ((first, second), (second, first)):
            bonds[pair] = -9
            bonds[(*pair, kind)] = 0
    atoms = molecule.atoms
    return Scores(
        one_hot([NUMBERS.index(number) for number in atoms[:, 0]], len(NUMBERS)),
        one_hot(atoms[:, 1] + charge, 2 * charge + 1),
        one_hot(atoms[:, 2], 5),
        one_hot(atoms[:, 3], 3),
        bonds,
    )


@pytest.mark.parametrize("name", SMILES)
def test_what_the_decoder_is_sure_of_comes_back(name):
    molecule = from_smiles(SMILES[name], name)
    assert assemble(scores_of(molecule), NUMBERS, 1) == molecule
    assert canonical(likeliest(scores_of(molecule), NUMBERS, 1)) == molecule


def test_any_scores_give_one_valid_molecule():
    generator = np.random.default_rng(0)
    whole = 0
    for _ in range(200):
        count, sparse = int(generator.integers(1, 25)), generator.choice([0, 2, 4, 8])
        bonds = 2 * generator.standard_normal((count, count, KINDS))
        bonds[..., 0] += sparse
        features = [generator.standard_normal((count, size)) for size in (len(NUMBERS), 3, 5, 3)]
        molecule = assemble(Scores(*features, bonds + bonds.transpose(1, 0, 2)), NUMBERS, 1)
        assert "." not in to_smiles(molecule)
        whole += len(molecule) == count
        for atom in to_rdkit(molecule).GetAtoms():
            assert atom.GetNumRadicalElectrons() == 0
            assert atom.GetTotalValence() in valences(atom.GetAtomicNum(), atom.GetFormalCharge())
    assert whole > 50


def test_a_bond_too_many_is_left_out_and_a_piece_is_joined():
    propane = from_smiles("CCC", "propane")
    scores = scores_of(propane)
    scores.bonds[0, 1] = scores.bonds[1, 0] = [-9, -1, -9, 0, -9, -9, -9]  # a triple bond, surely
    scores.bonds[1, 2] = scores.bonds[2, 1] = [-9, -3, -0.1, -9, -9, -9, -9]  # a double bond, a little less surely
    scores.hydrogens[:] = 0
    assert to_smiles(assemble(scores, NUMBERS, 1)) == "C#CC"  # the double bond is lowered, hydrogens fill up

    scores = scores_of(propane)
    scores.bonds[1, 2] = scores.bonds[2, 1] = [0, -2, -9, -9, -9, -9, -9]
    scores.bonds[0, 2] = scores.bonds[2, 0] = [0, -5, -9, -9, -9, -9, -9]
    assert to_smiles(assemble(scores, NUMBERS, 1)) == "CCC"
    assert len(likeliest(scores, NUMBERS, 1).bonds) == 1

    fluorine = scores_of(from_smiles("FF", "fluorine"))
    alone = Scores(*(np.concatenate([t, t[:1]]) for t in (fluorine.elements, fluorine.charges)),
                   *(np.concatenate([t, t[:1]]) for t in (fluorine.hydrogens, fluorine.chiralities)),
                   np.pad(fluorine.bonds, ((0, 1), (0, 1), (0, 0))))  # fmt: skip
    assert to_smiles(assemble(alone, NUMBERS, 1)) == "FF"  # nothing can be bound to the third atom


def test_of_what_rdkit_refuses_for_all_its_valences_a_tree_is_left():
    ring = [[0, 1, 1], [0, 2, 2], [1, 2, 1]]
    for atoms, bonds in [
        ([[8, 1, 1, 0], [53, 0, 1, 2]], [[0, 1, 2]]),  # a double bond to iodine, which RDKit makes two charges of
        ([[7, 1, 1, 0], [14, 1, 1, 0], [6, 0, 1, 0]], ring),  # aromatic by RDKit's rules, but not when read again
        ([[5, 1, 0, 0], [15, -1, 0, 0], [14, 1, 1, 0]], [[0, 1, 1], [0, 2, 1], [1, 2, 1]]),
    ]:
        wanted = Molecule(np.array(atoms), np.array(bonds))
        with pytest.raises(MediaError):
            canonical(wanted)
        found = assemble(scores_of(wanted), NUMBERS, 1)
        assert sorted(found.atoms[:, 0].tolist()) == sorted(atom[0] for atom in atoms)
        assert found.bonds[:, 2].tolist() == [SINGLE] * (len(atoms) - 1)
        assert from_smiles(to_smiles(found), "again") == found


def test_valences():
    assert valences(6, 0) == (4,)
    assert valences(7, 1) == (4,)
    assert valences(8, -1) == (1,)
    assert valences(16, 0) == (2, 4, 6)
    assert valences(17, -1) == (0,)
