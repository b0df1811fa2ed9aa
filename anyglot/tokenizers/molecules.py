"""Molecules in memory and in files: SMILES in and out, RDKit, torch-geometric's `Data`, drawings.

The order of atoms is that of RDKit's canonical SMILES, so that equal molecules are equal arrays. Hydrogens are numbers
of their atoms. Aromatic bonds are a kind of their own. What is said of space is kept: tetrahedral centres, and on which
side of a double bond neighbours are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyglot.errors import ConfigError, MediaError
from anyglot.files import atomic_path, write_text

SINGLE, DOUBLE, TRIPLE, AROMATIC, DOUBLE_CIS, DOUBLE_TRANS = range(1, 7)
ELEMENTS = ("B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Se", "Br", "I")  # of nearly all organic molecules
KINDS = 7  # of bonds, with 0 for none
ORDERS = (0, 1, 2, 3, 1, 2, 2)  # of each kind; the second electron pairs of an aromatic ring are nobody's


@dataclass(frozen=True)
class Molecule:
    """One connected molecule; `len()` is its heavy atoms.

    atoms: int64 `[atoms, 4]`: atomic number, charge, hydrogens, chirality: 0 none; 1 counter-clockwise or 2 clockwise
        as its neighbours come in ascending order, seen from the first (a hydrogen comes last).
    bonds: int64 `[bonds, 3]`, ascending: first atom < second atom, kind (SINGLE ... DOUBLE_TRANS). Cis and trans are
        of the lowest neighbour on either side.
    """

    atoms: np.ndarray
    bonds: np.ndarray

    def __len__(self) -> int:
        return len(self.atoms)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Molecule)
            and np.array_equal(self.atoms, other.atoms)
            and np.array_equal(self.bonds, other.bonds)
        )

    def __hash__(self) -> int:
        return hash((self.atoms.tobytes(), self.bonds.tobytes()))

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.atoms.nbytes + self.bonds.nbytes

    @property
    def symbols(self) -> list[str]:
        """The element of each atom."""
        from rdkit import Chem

        table = Chem.GetPeriodicTable()
        return [table.GetElementSymbol(int(number)) for number in self.atoms[:, 0]]


def atomic_numbers(elements: Sequence[str]) -> list[int]:
    """The atomic number of each symbol. Raises ConfigError for none, for one twice and for what is no element."""
    from rdkit import Chem

    if not elements or len(set(elements)) < len(elements):
        raise ConfigError(f"elements: one or more, each once, got {list(elements)}")
    try:
        return [Chem.GetPeriodicTable().GetAtomicNumber(symbol) for symbol in elements]
    except RuntimeError as error:
        raise ConfigError(f"elements: no such element among {', '.join(elements)}; use symbols") from error


def read(source: str | Path | bytes) -> Molecule:
    """The molecule of a `.smi` file, or of its bytes: one line of SMILES, maybe with a name behind a blank.

    Raises MediaError that names the file, or the SMILES, and what is wrong with it.
    """
    name = "SMILES" if isinstance(source, bytes) else str(source)
    try:
        text = source.decode() if isinstance(source, bytes) else Path(source).read_text("utf-8")
    except FileNotFoundError as error:
        raise MediaError(f"{name}: no such file; remove it from the list") from error
    except (UnicodeDecodeError, OSError) as error:
        raise MediaError(f"{name}: not a text file with SMILES; export the molecule again") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) != 1:
        raise MediaError(f"{name}: {len(lines)} lines of SMILES where one molecule is expected; split the file")
    smiles = lines[0].split()[0]
    return from_smiles(smiles, f"SMILES {smiles[:80]!r}" if isinstance(source, bytes) else name)


def write(molecule: Molecule, path: str | Path) -> None:
    """Write a `.smi` file, atomically."""
    write_text(Path(path), f"{to_smiles(molecule)}\n")


def draw(molecule: Molecule, path: str | Path, size: int = 300) -> None:
    """Write a picture, size x size pixels, as `.png`, atomically."""
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(picture(molecule, size)).save(temporary, format="PNG")


def picture(molecule: Molecule, size: int = 200) -> np.ndarray:
    """The structural formula, uint8 `[size, size, 3]`."""
    from rdkit.Chem import Draw

    drawn = Draw.MolToImage(to_rdkit(molecule), size=(size, size))  # type: ignore[no-untyped-call]
    return np.asarray(drawn.convert("RGB"))


def from_smiles(smiles: str, name: str) -> Molecule:
    """The molecule that a SMILES says; `name` is what errors call it. Raises MediaError."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles) if smiles.isascii() else None  # RDKit skips some letters that are not ASCII
    if mol is None or mol.GetNumAtoms() == 0:
        raise MediaError(f"{name}: no valid SMILES of a molecule; correct or remove it")
    return from_rdkit(mol, name, smiles)


def from_rdkit(mol: Any, name: str = "molecule", parsed: str = "") -> Molecule:
    """A sanitised RDKit molecule; `name` is what errors call it, `parsed` the SMILES that it was just made of, if so.

    Raises MediaError for what a Molecule does not hold: several components, isotopes, radicals, wildcards, odd bonds.
    """
    from rdkit import Chem

    if any(atom.GetAtomMapNum() for atom in mol.GetAtoms()):  # numbers of a reaction: the order would follow them
        mol, parsed = Chem.Mol(mol), ""
        for atom in mol.GetAtoms():
            atom.SetAtomMapNum(0)
    smiles = Chem.MolToSmiles(mol)
    if "." in smiles:
        raise MediaError(f"{name}: {smiles.count('.') + 1} molecules where one connected one is expected; split it")
    mol = mol if smiles == parsed else Chem.MolFromSmiles(smiles)
    if mol is None:
        raise MediaError(f"{name}: RDKit does not read back its own SMILES {smiles!r}; correct or remove it")
    return Molecule(
        np.array([_atom(atom, name) for atom in mol.GetAtoms()], dtype=np.int64),
        np.array(sorted(_bond(bond, name) for bond in mol.GetBonds()), dtype=np.int64).reshape(-1, 3),
    )


def canonical(molecule: Molecule) -> Molecule:
    """The same molecule with its atoms in canonical order. Raises MediaError if there can be no such molecule."""
    return from_rdkit(to_rdkit(molecule))


def to_rdkit(molecule: Molecule) -> Any:
    """The sanitised RDKit molecule, its atoms in the same order. Raises MediaError if there can be no such molecule."""
    from rdkit import Chem, rdBase

    mol = unsanitised(molecule)
    try:
        with rdBase.BlockLogs():
            Chem.SanitizeMol(mol)
    except ValueError as error:
        raise MediaError(f"no such molecule can be: {error}; check its bonds and charges") from error
    Chem.SetDoubleBondNeighborDirections(mol)  # the sides of double bonds as SMILES is written from them
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
    return mol


def to_smiles(molecule: Molecule) -> str:
    """RDKit's canonical SMILES. Raises MediaError if there can be no such molecule."""
    from rdkit import Chem

    mol = Chem.MolFromSmiles(Chem.MolToSmiles(to_rdkit(molecule)))  # forgets that hydrogens were counted by hand
    return str(Chem.MolToSmiles(mol))


def from_pyg(data: Any) -> Molecule:
    """A `torch_geometric.data.Data` with the features of `torch_geometric.utils.from_smiles`. Raises MediaError."""
    from rdkit import Chem
    from torch_geometric.utils import to_rdmol

    try:
        mol = to_rdmol(data)
        Chem.SanitizeMol(mol)
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise MediaError(f"Data is no molecule ({error!r}); make it with torch_geometric.utils.from_smiles") from error
    return from_rdkit(mol, "Data")


def to_pyg(molecule: Molecule) -> Any:
    """A `torch_geometric.data.Data` with the features of `torch_geometric.utils.from_smiles`; node i is atom i."""
    from torch_geometric.utils import from_rdmol

    data = from_rdmol(to_rdkit(molecule))
    data.smiles = to_smiles(molecule)
    return data


def unsanitised(molecule: Molecule) -> Any:
    """The RDKit molecule as the arrays say, whether it can be or not."""
    from rdkit import Chem

    types = Chem.BondType
    kinds = (types.ZERO, types.SINGLE, types.DOUBLE, types.TRIPLE, types.AROMATIC, types.DOUBLE, types.DOUBLE)
    tags = (Chem.CHI_UNSPECIFIED, Chem.CHI_TETRAHEDRAL_CCW, Chem.CHI_TETRAHEDRAL_CW)
    mol = Chem.RWMol()
    for number, charge, hydrogens, chirality in molecule.atoms.tolist():
        atom = Chem.Atom(number)
        atom.SetFormalCharge(charge)
        atom.SetNumExplicitHs(hydrogens)
        atom.SetNoImplicit(True)
        atom.SetChiralTag(tags[chirality])
        mol.AddAtom(atom)
    neighbours: list[list[int]] = [[] for _ in range(len(molecule))]
    for first, second, kind in molecule.bonds.tolist():  # ascending: so every atom's bonds come in ascending order
        mol.AddBond(first, second, kinds[kind])
        neighbours[first].append(second)
        neighbours[second].append(first)
        if kind == AROMATIC:
            mol.GetBondBetweenAtoms(first, second).SetIsAromatic(True)
            mol.GetAtomWithIdx(first).SetIsAromatic(True)
            mol.GetAtomWithIdx(second).SetIsAromatic(True)
    for first, second, kind in molecule.bonds.tolist():
        one, two = ([n for n in neighbours[a] if n not in (first, second)] for a in (first, second))
        if kind in (DOUBLE_CIS, DOUBLE_TRANS) and one and two:
            bond = mol.GetBondBetweenAtoms(first, second)
            bond.SetStereoAtoms(min(one), min(two))
            bond.SetStereo(Chem.BondStereo.STEREOCIS if kind == DOUBLE_CIS else Chem.BondStereo.STEREOTRANS)
    return mol


def _atom(atom: Any, name: str) -> tuple[int, int, int, int]:
    """Atomic number, charge, hydrogens, chirality."""
    from rdkit import Chem

    where = f"{name}: atom {atom.GetIdx()} ({atom.GetSymbol()})"
    if atom.GetAtomicNum() == 0:
        raise MediaError(f"{where} is a wildcard; give its element")
    if atom.GetIsotope():
        raise MediaError(f"{where} is an isotope, which has no code; remove its mass number")
    if atom.GetNumRadicalElectrons():
        raise MediaError(f"{where} has an unpaired electron, which has no code; add its hydrogens")
    tag = atom.GetChiralTag()
    if tag not in (Chem.CHI_UNSPECIFIED, Chem.CHI_TETRAHEDRAL_CW, Chem.CHI_TETRAHEDRAL_CCW):
        raise MediaError(f"{where} has {tag}; only tetrahedral centres have a code")
    chirality = 0
    if tag != Chem.CHI_UNSPECIFIED:
        order = [bond.GetOtherAtomIdx(atom.GetIdx()) for bond in atom.GetBonds()]
        swaps = sum(a > b for i, a in enumerate(order) for b in order[i + 1 :])
        chirality = 1 + ((tag == Chem.CHI_TETRAHEDRAL_CW) ^ (swaps % 2 == 1))
    return atom.GetAtomicNum(), atom.GetFormalCharge(), atom.GetTotalNumHs(), chirality


def _bond(bond: Any, name: str) -> tuple[int, int, int]:
    """First atom, second atom, kind."""
    from rdkit import Chem

    first, second = sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
    types, stereo = Chem.BondType, Chem.BondStereo
    plain = {types.SINGLE: SINGLE, types.DOUBLE: DOUBLE, types.TRIPLE: TRIPLE, types.AROMATIC: AROMATIC}
    kind = plain.get(bond.GetBondType())
    if kind is None:
        raise MediaError(f"{name}: bond {first}-{second} is {bond.GetBondType()}, which has no code; draw it otherwise")
    if kind == DOUBLE and bond.GetStereo() in (stereo.STEREOZ, stereo.STEREOE, stereo.STEREOCIS, stereo.STEREOTRANS):
        cis = bond.GetStereo() in (stereo.STEREOZ, stereo.STEREOCIS)
        begin, end = bond.GetBeginAtom(), bond.GetEndAtom()
        for atom, other, given in zip((begin, end), (end, begin), bond.GetStereoAtoms(), strict=True):
            lowest = min(n.GetIdx() for n in atom.GetNeighbors() if n.GetIdx() != other.GetIdx())
            cis ^= lowest != given
        kind = DOUBLE_CIS if cis else DOUBLE_TRANS
    return first, second, kind
