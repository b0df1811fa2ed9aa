"""Molecules in memory: SMILES, RDKit and torch-geometric in and out, on awkward real structures."""

import numpy as np
import pytest

from anyglot.errors import MediaError
from anyglot.tokenizers.molecules import (
    AROMATIC,
    DOUBLE_CIS,
    DOUBLE_TRANS,
    SINGLE,
    Molecule,
    draw,
    from_pyg,
    from_rdkit,
    from_smiles,
    read,
    to_pyg,
    to_rdkit,
    to_smiles,
    write,
)

Chem = pytest.importorskip("rdkit.Chem", reason="rdkit is not installed: anyglot[graph]")

SMILES = {
    "methane": "C",
    "ethanol": "CCO",
    "pyrrole": "c1cc[nH]c1",
    "nitrobenzene": "O=[N+]([O-])c1ccccc1",
    "glycine": "[NH3+]CC(=O)[O-]",
    "alanine": "C[C@H](N)C(=O)O",
    "nicotine": "CN1CCC[C@H]1c1cccnc1",
    "maleic": "O=C(O)/C=C\\C(=O)O",
    "fumaric": "O=C(O)/C=C/C(=O)O",
    "diene": "C/C=C/C=C\\Cl",
    "oxime": "C/C(=N\\O)c1ccccc1",
    "sulphonamide": "NS(=O)(=O)c1ccc(N)cc1",
    "azulene": "c1ccc2cccc-2cc1",
    "spiro": "C1CCC2(C1)OCCO2",
    "adamantane": "C1C2CC3CC1CC(C2)C3",
    "camphor": "CC1(C)[C@@H]2CC[C@@]1(C)C(=O)C2",
    "caffeine": "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "phosphorus": "F[P-](F)(F)(F)(F)F",
    "pyrylium": "c1cc[o+]cc1",
    "cyclopentadienide": "c1cc[cH-]c1",
    "azide": "[N-]=[N+]=NCc1ccccc1",
    "nitrile": "N#CC1CN2CCC1CC2",
}


@pytest.mark.parametrize("name", SMILES)
def test_nothing_is_lost_and_the_order_of_atoms_does_not_matter(name):
    mol = Chem.MolFromSmiles(SMILES[name])
    wanted = Chem.MolToSmiles(mol)
    molecule = from_smiles(SMILES[name], name)
    assert to_smiles(molecule) == wanted
    assert len(molecule) == mol.GetNumAtoms()
    assert molecule.bonds.tolist() == sorted(molecule.bonds.tolist())
    generator = np.random.default_rng(0)
    for _ in range(5):
        order = generator.permutation(mol.GetNumAtoms()).tolist()
        assert from_rdkit(Chem.RenumberAtoms(mol, order)) == molecule
        # The arrays mean the same in another order: chirality and sides are relative to it.
        shuffled = Chem.RenumberAtoms(to_rdkit(molecule), order)
        assert Chem.MolToSmiles(Chem.MolFromSmiles(Chem.MolToSmiles(shuffled))) == wanted


def test_arrays_of_a_molecule():
    ethanol = from_smiles("OCC", "ethanol")
    assert ethanol.atoms.tolist() == [[6, 0, 3, 0], [6, 0, 2, 0], [8, 0, 1, 0]]
    assert ethanol.bonds.tolist() == [[0, 1, SINGLE], [1, 2, SINGLE]]
    assert ethanol.symbols == ["C", "C", "O"]
    assert set(from_smiles(SMILES["pyrrole"], "pyrrole").bonds[:, 2]) == {AROMATIC}
    assert DOUBLE_CIS in from_smiles(SMILES["maleic"], "maleic").bonds[:, 2]
    assert DOUBLE_TRANS in from_smiles(SMILES["fumaric"], "fumaric").bonds[:, 2]
    left, right = (from_smiles(s, "alanine") for s in ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"))
    assert left != right
    assert sorted((left.atoms[1, 3], right.atoms[1, 3])) == [1, 2]
    assert left.nbytes == left.atoms.nbytes + left.bonds.nbytes
    alone = from_smiles("[Cl-]", "chloride")
    assert alone.atoms.tolist() == [[17, -1, 0, 0]]
    assert alone.bonds.shape == (0, 3)


def test_numbers_of_a_reaction_do_not_order_atoms():
    plain = from_smiles("CCOC=O", "plain")
    assert from_smiles("[CH3:9][CH2:1][O:3][CH:2]=O", "numbered") == plain
    mol = Chem.MolFromSmiles("[CH3:9][CH2:1][O:3][CH:2]=O")
    assert from_rdkit(mol) == plain
    assert mol.GetAtomWithIdx(0).GetAtomMapNum() == 9  # what is given stays as it is


@pytest.mark.parametrize("name", [n for n, s in SMILES.items() if "/" not in s])
def test_torch_geometric(name):
    pytest.importorskip("torch_geometric", reason="torch-geometric is not installed: anyglot[graph]")
    molecule = from_smiles(SMILES[name], name)
    data = to_pyg(molecule)
    assert data.x.shape == (len(molecule), 9)
    assert data.x[:, 0].tolist() == molecule.atoms[:, 0].tolist()  # node i is atom i
    assert data.edge_index.shape == (2, 2 * len(molecule.bonds))
    assert from_pyg(data) == molecule


def test_data_that_is_no_molecule_is_one_error():
    torch = pytest.importorskip("torch")
    geometric = pytest.importorskip("torch_geometric", reason="torch-geometric is not installed: anyglot[graph]")
    whole = to_pyg(from_smiles("CCO", "ethanol"))
    assert from_pyg(whole) == from_smiles("CCO", "ethanol")
    with pytest.raises(MediaError, match="Data is no molecule"):
        from_pyg(geometric.data.Data())
    for name, wrong in [
        ("x", torch.full((3, 9), 500)),
        ("x", whole.x[:, :1]),
        ("edge_attr", None),
        ("edge_attr", torch.full((4, 3), 99)),
        ("edge_index", whole.edge_index + 5),
    ]:
        broken = whole.clone()
        broken[name] = wrong
        with pytest.raises(MediaError, match="Data is no molecule"):
            from_pyg(broken)


def test_files(tmp_path):
    molecule = from_smiles(SMILES["caffeine"], "caffeine")
    write(molecule, tmp_path / "caffeine.smi")
    assert read(tmp_path / "caffeine.smi") == molecule
    assert read(b"CN1C=NC2=C1C(=O)N(C(=O)N2C)C caffeine\n") == molecule
    draw(molecule, tmp_path / "caffeine.png")
    assert (tmp_path / "caffeine.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"C1CC", "SMILES 'C1CC': no valid SMILES"),
        ("CC\N{LATIN SMALL LETTER E WITH ACUTE}".encode(), "no valid SMILES"),  # RDKit reads CC
        (b"", "0 lines of SMILES"),
        (b"CC\nCO\n", "2 lines of SMILES"),
        (b"\xff\xfe", "not a text file"),
        (b"CC.O", "2 molecules where one"),
        (b"[13CH4]", "atom 0 .C. is an isotope"),
        (b"[CH3]", "unpaired electron"),
        (b"C*", "wildcard"),
        (b"CC(C)(C)(C)(C)C", "no valid SMILES"),
        (b"[NH3]->[Cu+2]", "DATIVE"),
    ],
)
def test_what_is_no_molecule_is_one_clear_error(text, message):
    with pytest.raises(MediaError, match=message):
        read(text)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(MediaError, match=r"absent\.smi: no such file"):
        read(tmp_path / "absent.smi")
    (tmp_path / "bad.smi").write_text("hello world\n")
    with pytest.raises(MediaError, match=r"bad\.smi: no valid SMILES"):
        read(tmp_path / "bad.smi")
    with pytest.raises(MediaError, match="no such molecule can be"):
        to_rdkit(Molecule(np.array([[6, 0, 4, 0], [6, 0, 4, 0]]), np.array([[0, 1, SINGLE]])))
