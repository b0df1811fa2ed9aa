"""The molecule tokenizer: the contract, any order of atoms, bad input, training."""

from typing import Any

import numpy as np
import pytest
import torch

from anyglot.config import typed
from anyglot.errors import AnyglotError, ConfigError, MediaError
from anyglot.tokenizers import molecules
from anyglot.tokenizers.base import ModalityTokenizer, load_tokenizer
from anyglot.tokenizers.graph import GraphConfig, GraphTokenizer, collate
from anyglot.tokenizers.molecules import from_rdkit, from_smiles, to_rdkit, to_smiles
from anyglot.tokenizers.objectives.graph import GraphObjective, GraphObjectiveConfig, bond_table, crop

Chem = pytest.importorskip("rdkit.Chem", reason="rdkit is not installed: anyglot[graph]")
pytest.importorskip("torch_geometric", reason="torch-geometric is not installed: anyglot[graph]")

QUANTIZERS: dict[str, dict[str, Any]] = {
    "fsq": {"type": "product", "groups": 2, "inner": {"type": "fsq", "sizes": [5, 5]}},
    "residual": {"type": "residual", "levels": 3, "inner": {"type": "vq", "size": 16, "kmeans_init": False}},
}
SMILES = [
    "C", "[Cl-]", "CCO", "C[C@H](N)C(=O)O", "O=[N+]([O-])c1ccccc1", "O=C(O)/C=C\\C(=O)O", "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "CC1(C)C2CCC1(C)C(=O)C2", "N#CC1CN2CCC1CC2", "NS(=O)(=O)c1ccc(N)cc1",
]  # fmt: skip
NETWORK = {"gnn_layers": 2, "gnn_width": 32, "layers": 2, "width": 32, "heads": 2, "pair_width": 4}


def make(quantizer="fsq", **fields):
    torch.manual_seed(0)
    mapping = {"dim": 16, "quantizer": QUANTIZERS[quantizer], "network": NETWORK}
    return GraphTokenizer(typed(GraphConfig, {**mapping, **fields})).eval()


def media(smiles=SMILES):
    return [from_smiles(text, text) for text in smiles]


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_unequal_molecules_give_the_same_codes_as_one_at_a_time(quantizer, tmp_path):
    tokenizer = make(quantizer, batch_atoms=60)  # so that they go through in several batches
    assert isinstance(tokenizer, ModalityTokenizer)
    codes = tokenizer.encode(media())
    for molecule, code in zip(media(), codes, strict=True):
        assert code.dtype == torch.int64
        assert code.shape == (len(molecule), len(tokenizer.spec.levels))
        assert torch.equal(code, tokenizer.encode([molecule])[0])
    decoded = tokenizer.decode(codes)
    for code, molecule in zip(codes, decoded, strict=True):
        assert tokenizer.decode([code]) == [molecule]
        assert to_smiles(molecule)  # RDKit takes it, untrained as the tokenizer is

    tokenizer.save_pretrained(tmp_path / "graph")
    again = load_tokenizer(tmp_path / "graph")
    assert isinstance(again, GraphTokenizer)
    assert again.fingerprint == tokenizer.fingerprint != ""
    assert all(torch.equal(a, b) for a, b in zip(again.encode(media()), codes, strict=True))
    assert again.decode(codes) == decoded


def test_the_order_of_atoms_does_not_matter():
    tokenizer = make()
    generator = np.random.default_rng(0)
    for molecule, code in zip(media(), tokenizer.encode(media()), strict=True):
        mol = to_rdkit(molecule)
        for _ in range(3):
            order = generator.permutation(len(molecule))
            assert torch.equal(tokenizer.encode([from_rdkit(Chem.RenumberAtoms(mol, order.tolist()))])[0], code)
            shuffled = molecules.Molecule(molecule.atoms[order], renamed(molecule.bonds, order))
            if "@" not in to_smiles(molecule) and "/" not in to_smiles(molecule):  # those are relative to the order
                assert torch.equal(tokenizer.encode([shuffled])[0], code)


def renamed(bonds, order):
    """Bonds after atom `order[i]` has become atom i."""
    new = np.argsort(order)
    pairs = np.sort(new[bonds[:, :2]], axis=1)
    return np.array(sorted(np.column_stack([pairs, bonds[:, 2]]).tolist()), dtype=np.int64).reshape(-1, 3)


def test_atoms_that_look_alike_have_codes_of_their_own():
    """Both ends of butane and all atoms of benzene are alike in the graph; their place in the sequence is not."""
    tokenizer = make(dim=32)
    with torch.no_grad():
        for smiles, alike in (("CCCC", (0, 3)), ("c1ccccc1", (1, 2))):
            vectors = tokenizer.latents(collate(media([smiles])))
            assert (vectors[alike[0]] - vectors[alike[1]]).abs().max() > 1e-3


def test_a_batch_is_the_molecules_side_by_side():
    batch = collate(media(["CCO", "C", "C=O"]))
    assert batch.atoms[:, 0].tolist() == [6, 6, 8, 6, 6, 8]
    assert batch.position.tolist() == [0, 1, 2, 0, 0, 1]
    assert batch.bonds.T.tolist() == [[0, 1, 1], [1, 2, 1], [4, 5, 2]]
    assert batch.mask.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    table = bond_table(batch, batch.mask.nonzero()[:, 0])
    wanted = torch.zeros(3, 3, 3, dtype=torch.int64)
    wanted[0, 0, 1] = wanted[0, 1, 2] = 1
    wanted[2, 0, 1] = 2
    assert torch.equal(table, wanted)
    tokenizer = make(elements=["O", "C"], charge=2)
    assert tokenizer.features(batch.atoms)[:, :2].tolist() == [[1, 2], [1, 2], [0, 2], [1, 2], [1, 2], [0, 2]]


def test_bad_molecules_and_settings_are_named(tmp_path):
    tokenizer = make(max_atoms=9, elements=["C", "N", "O"])
    assert len(tokenizer.read(b"CCO")) == 3
    for text, message in [
        (b"C1CC", "'C1CC': no valid SMILES"),
        (b"CCCCCCCCCC", "10 heavy atoms, more than max_atoms=9"),
        (b"CCCl", "atom 2 is Cl, not one of C, N, O"),
        (b"[NH4+2]", "'.NH4.2.': (no valid|a charge|atom 0)"),
    ]:
        with pytest.raises(MediaError, match=message):
            tokenizer.read(text)
    (tmp_path / "long.smi").write_text("C" * 10)
    with pytest.raises(MediaError, match=r"long\.smi: 10 heavy atoms"):
        tokenizer.read(tmp_path / "long.smi")
    with pytest.raises(MediaError, match="molecule 1: 10 heavy atoms"):
        tokenizer.encode(media(["C", "C" * 10]))
    for codes in (torch.zeros(3, dtype=torch.int64), torch.zeros(3, 1, dtype=torch.int64), torch.zeros(0, 2).long()):
        with pytest.raises(AnyglotError, match=r"must be \[nodes, levels\]"):
            tokenizer.decode([codes])
    with pytest.raises(AnyglotError, match="10 nodes, more than max_atoms=9"):
        tokenizer.decode([torch.zeros(10, 2, dtype=torch.int64)])
    with pytest.raises(ConfigError, match="no such element"):
        make(elements=["C", "Xy"])
    for elements in ([], ["C", "O", "C"]):
        with pytest.raises(ConfigError, match="elements: one or more, each once"):
            make(elements=elements)
    with pytest.raises(ConfigError, match="heads"):
        make(network={"width": 30, "heads": 4})
    assert tokenizer.encode([]) == []
    assert tokenizer.decode([]) == []


def test_files(tmp_path):
    tokenizer = make()
    molecule = tokenizer.read(b"OCC")
    tokenizer.write(molecule, tmp_path / "ethanol.smi")
    assert (tmp_path / "ethanol.smi").read_text() == "CCO\n"
    assert tokenizer.read(tmp_path / "ethanol.smi") == molecule
    tokenizer.preview(molecule, tmp_path / "ethanol.png")
    assert (tmp_path / "ethanol.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_training_learns_a_few_molecules_by_heart(quantizer):
    tokenizer = make(quantizer).train()
    objective = GraphObjective(GraphObjectiveConfig())
    optimizer = torch.optim.Adam(tokenizer.parameters(), 5e-3)
    few = media()
    for step in range(150):
        batch = crop(few, objective.config, np.random.default_rng(step), 16)
        loss, terms, reconstruction = objective.generator_loss(tokenizer, batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert set(terms) == {"element", "charge", "hydrogens", "chirality", "bonds", "quantizer", "exact"}
    assert reconstruction.bonds.shape[:3] == (16, batch.mask.shape[1], batch.mask.shape[1])
    torch.testing.assert_close(reconstruction.bonds, reconstruction.bonds.transpose(1, 2))
    tokenizer.eval()
    right = sum(a == b for a, b in zip(few, tokenizer.decode(tokenizer.encode(few)), strict=True))
    assert right >= 8


def test_the_share_of_exact_molecules_is_that_of_the_likeliest():
    tokenizer = make()
    batch = collate(media())
    _, terms, result = GraphObjective(GraphObjectiveConfig()).generator_loss(tokenizer, batch, 0)
    assert terms["exact"] == 0
    wanted = tokenizer.features(batch.atoms)
    for i, scores in enumerate(result.features):  # what a perfect decoder says
        scores.data[batch.mask] = torch.nn.functional.one_hot(wanted[:, i], scores.shape[-1]) * 9.0
    table = bond_table(batch, batch.mask.nonzero()[:, 0])
    table = table + table.transpose(1, 2)
    result.bonds.data = torch.nn.functional.one_hot(table, 7) * 9.0
    tokenizer.forward = lambda batch: result  # type: ignore[method-assign]
    _, terms, _ = GraphObjective(GraphObjectiveConfig()).generator_loss(tokenizer, batch, 0)
    assert terms["exact"] == 1
    result.bonds.data[2, 0, 1] = 0.0
    _, terms, _ = GraphObjective(GraphObjectiveConfig()).generator_loss(tokenizer, batch, 0)
    assert terms["exact"] == pytest.approx(0.9)
