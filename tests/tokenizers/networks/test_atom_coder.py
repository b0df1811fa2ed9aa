"""Codes of atoms in context and masked atom modelling: invariances, masks, and that both learn."""

import numpy as np
import pytest
import torch

from anyglot.tokenizers.molecules import AROMATIC, Molecule, from_smiles
from anyglot.tokenizers.networks.atom_coder import AtomCoder, MaskedAtomModel, atom_batch, hide, pooled
from anyglot.tokenizers.networks.gnn import GNNConfig
from anyglot.tokenizers.quantizers import build

pytest.importorskip("rdkit", reason="rdkit is not installed: anyglot[graph]")
pytest.importorskip("torch_geometric", reason="torch-geometric is not installed: anyglot[graph]")

NUMBERS = [6, 7, 8, 9, 17]
GNN = GNNConfig("gin", 2, 16, dropout=0.0, norm="layer")
SMILES = ["CCO", "c1ccncc1", "C", "NC(=O)c1ccccc1F", "CC(=O)Cl"]


def coder():
    torch.manual_seed(0)
    quantizer = build({"type": "grouped", "sizes": [12, 6, 6, 4], "inner": {"type": "vq", "kmeans_init": False}}, 4 + 8)
    return AtomCoder(GNN, NUMBERS, 8, quantizer)


def media():
    return [from_smiles(text, text) for text in SMILES]


def test_a_batch_is_one_graph():
    batch = atom_batch(media(), NUMBERS)
    assert batch.element.tolist()[:3] == [0, 0, 2]
    assert batch.molecule.bincount().tolist() == [3, 6, 1, 10, 4]
    assert batch.edge_index.shape == (2, 2 * (2 + 6 + 0 + 10 + 3))
    assert (batch.molecule[batch.edge_index[0]] == batch.molecule[batch.edge_index[1]]).all()
    ring = batch.molecule[batch.edge_index[0]] == 1
    assert (batch.kind[ring] == AROMATIC).all()
    pairs = {(int(a), int(b)) for a, b in batch.edge_index.T}
    assert pairs == {(b, a) for a, b in pairs}


def test_codes_are_of_the_element_s_group_and_do_not_depend_on_the_order_of_atoms():
    model = coder().eval()
    generator = np.random.default_rng(0)
    for molecule in media():
        codes = model.codes(atom_batch([molecule], NUMBERS))
        bounds = {6: (0, 12), 7: (12, 18), 8: (18, 24)}
        for number, code in zip(molecule.atoms[:, 0].tolist(), codes.tolist(), strict=True):
            low, high = bounds.get(number, (24, 28))
            assert low <= code < high
        order = generator.permutation(len(molecule))
        new = np.argsort(order)
        bonds = np.column_stack([np.sort(new[molecule.bonds[:, :2]], axis=1), molecule.bonds[:, 2]])
        shuffled = Molecule(molecule.atoms[order], bonds)
        assert torch.equal(model.codes(atom_batch([shuffled], NUMBERS)), codes[torch.from_numpy(order)])
    together = model.codes(atom_batch(media(), NUMBERS))
    assert torch.equal(together, torch.cat([model.codes(atom_batch([m], NUMBERS)) for m in media()]))


def test_masks_hide_their_share_and_at_least_one_atom_of_each_molecule():
    torch.manual_seed(0)
    molecule = torch.repeat_interleave(torch.arange(300), torch.arange(300) % 20 + 1)
    hidden = hide(molecule, 0.3)
    assert (torch.zeros(300).index_add(0, molecule, hidden.float()) >= 1).all()
    assert 0.3 < hidden.float().mean() < 0.42
    alone = torch.zeros(50, len(molecule))
    for draw in range(50):
        alone[draw] = hide(molecule, 1e-9)
    assert (alone.sum(1) == 300).all()
    assert alone[:, molecule == 9].mean(0).min() > 0  # any of them


def test_hidden_atoms_are_not_seen():
    torch.manual_seed(0)
    model = MaskedAtomModel(GNN, len(NUMBERS), 28, [0.15, 0.3], 0.1, 0.1).eval()
    batch = atom_batch(media()[:1], NUMBERS)
    other = atom_batch([from_smiles("CCN", "amine")], NUMBERS)
    hidden = torch.tensor([False, False, True])
    assert torch.equal(model.encoder(batch, hidden), model.encoder(other, hidden))
    assert not torch.equal(model.encoder(batch), model.encoder(other))


def test_pooling_by_hand():
    vectors = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    torch.testing.assert_close(pooled(vectors, torch.tensor([0, 0, 1])), torch.tensor([[2.0, 3.0], [5.0, 6.0]]))


def test_coder_and_masked_model_learn():
    model, batch = coder(), atom_batch(media() * 4, NUMBERS)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    first = float(model.loss(batch).detach())
    for _ in range(60):
        loss = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.3 * first
    model.eval()
    targets = model.codes(batch)
    masked = MaskedAtomModel(GNN, len(NUMBERS), 28, [0.15, 0.3], 0.1, 0.1)
    optimizer = torch.optim.Adam(masked.parameters(), 1e-2)
    terms = masked.loss(batch, targets)
    assert set(terms) == {"masked", "contrast", "triplet"}
    first = float(terms["masked"].detach())
    for _ in range(60):
        terms = masked.loss(batch, targets)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    assert float(terms["masked"].detach()) < 0.5 * first
    assert masked.embed(batch).shape == (20, 16)
