"""From scores of atoms and bonds to a molecule that can be: no atom gets more bonds than it has valences.

What is likeliest is taken first. If the likeliest of everything together is a molecule, that is the result.
"""

import functools
from dataclasses import dataclass

import numpy as np

from anyglot.errors import MediaError
from anyglot.tokenizers.molecules import AROMATIC, DOUBLE, ORDERS, SINGLE, Molecule, canonical

MOST_HYDROGENS = 4


@dataclass
class Scores:
    """Logarithms of shares, float32, of one molecule: elements, charges, hydrogens, chiralities `[atoms, values]`, and
    bonds `[atoms, atoms, KINDS]`, symmetric."""

    elements: np.ndarray
    charges: np.ndarray
    hydrogens: np.ndarray
    chiralities: np.ndarray
    bonds: np.ndarray


def likeliest(scores: Scores, numbers: list[int], charge: int) -> Molecule:
    """The likeliest of everything, whether or not that can be a molecule. Arguments as in `assemble`."""
    return Molecule(_atoms(scores, numbers, charge), _likeliest_bonds(scores.bonds))


def assemble(scores: Scores, numbers: list[int], charge: int) -> Molecule:
    """A connected, valid molecule in canonical order.

    Bonds are taken likeliest first where both atoms have valences left, of a lower order where only that fits. What is
    in several pieces then gets its likeliest bond between two; a piece without a free valence is dropped. Aromatic
    bonds become single and double ones, as many double as can be, and hydrogens fill the next valence. Where
    RDKit refuses right valences, as it does a few rings of charges, likely single bonds that hold all atoms are kept.

    numbers: atomic number of each element score. charge: the largest, so the charge of the last charge score.
    """
    atoms = _atoms(scores, numbers, charge)
    capacity = [max(valences(number, q)) for number, q in atoms[:, :2].tolist()]
    bonds = _bonds(scores.bonds, capacity)
    atoms, bonds = _largest(atoms, bonds)
    used = _used(len(atoms), bonds)
    _resolve_aromatic(atoms, bonds, used)
    try:
        return canonical(_filled(atoms, bonds))
    except MediaError:
        return canonical(_filled(atoms, _tree(bonds)))


@functools.cache
def valences(number: int, charge: int) -> tuple[int, ...]:
    """What the bonds and hydrogens of an atom may add up to, ascending: what its charge makes it like (N+ like C)."""
    from rdkit import Chem

    table = Chem.GetPeriodicTable()
    listed = sorted(table.GetValenceList(max(number - charge, 1)))
    return tuple(v for v in listed if v >= 0) or (0,)


def _atoms(scores: Scores, numbers: list[int], charge: int) -> np.ndarray:
    found = [scores.elements.argmax(1), scores.charges.argmax(1), scores.hydrogens.argmax(1)]
    element, charges, hydrogens = found
    columns = [np.array(numbers)[element], charges - charge, hydrogens, scores.chiralities.argmax(1)]
    return np.stack(columns, axis=1).astype(np.int64)


def _likeliest_bonds(scores: np.ndarray) -> np.ndarray:
    kinds = np.triu(scores.argmax(-1), 1)
    first, second = np.nonzero(kinds)
    return np.stack([first, second, kinds[first, second]], axis=1).astype(np.int64)


def _bonds(scores: np.ndarray, capacity: list[int]) -> dict[tuple[int, int], int]:
    """The kind of each bond: likely ones first, then what joins pieces."""
    first, second = np.triu_indices(len(capacity), 1)
    kinds = scores[first, second, 1:].argmax(-1) + 1
    gain = scores[first, second, kinds] - scores[first, second, 0]
    free, piece = list(capacity), list(range(len(capacity)))
    found: dict[tuple[int, int], int] = {}
    for index in np.argsort(-gain, kind="stable").tolist():
        pair, kind = (int(first[index]), int(second[index])), int(kinds[index])
        room = min(free[pair[0]], free[pair[1]])
        joins = piece[pair[0]] != piece[pair[1]]
        if room < 1 or (gain[index] <= 0 and not joins):
            continue
        found[pair] = kind if ORDERS[kind] <= room else SINGLE
        for atom in pair:
            free[atom] -= ORDERS[found[pair]]
        if joins:
            old, new = piece[pair[0]], piece[pair[1]]
            piece = [new if p == old else p for p in piece]
    return found


def _largest(atoms: np.ndarray, bonds: dict[tuple[int, int], int]) -> tuple[np.ndarray, dict[tuple[int, int], int]]:
    """The piece of most atoms."""
    import networkx as nx

    graph = nx.Graph(list(bonds))
    graph.add_nodes_from(range(len(atoms)))
    pieces = [sorted(piece) for piece in nx.connected_components(graph)]
    kept = max(pieces, key=len)
    new = {old: index for index, old in enumerate(kept)}
    return atoms[kept], {(new[a], new[b]): kind for (a, b), kind in bonds.items() if a in new}


def _tree(bonds: dict[tuple[int, int], int]) -> dict[tuple[int, int], int]:
    """Single bonds between the same atoms, those that come first, as few as hold them together."""
    import networkx as nx

    graph = nx.Graph()
    graph.add_weighted_edges_from((*pair, place) for place, pair in enumerate(bonds))
    return {(min(pair), max(pair)): SINGLE for pair in nx.minimum_spanning_tree(graph).edges}


def _used(count: int, bonds: dict[tuple[int, int], int]) -> list[int]:
    used = [0] * count
    for pair, kind in bonds.items():
        for atom in pair:
            used[atom] += ORDERS[kind]
    return used


def _filled(atoms: np.ndarray, bonds: dict[tuple[int, int], int]) -> Molecule:
    """The molecule of these bonds, hydrogens filled up."""
    filled = atoms.copy()
    for atom, used in enumerate(_used(len(atoms), bonds)):
        number, charge, hydrogens = atoms[atom, :3].tolist()
        filled[atom, 2] = _target(number, charge, used, hydrogens) - used
    listed = sorted((*pair, kind) for pair, kind in bonds.items())
    return Molecule(filled, np.array(listed, dtype=np.int64).reshape(-1, 3))


def _target(number: int, charge: int, used: int, hydrogens: int) -> int:
    """The valence that an atom shall have: the next one that takes its hydrogens, else the last that can be."""
    allowed = [v for v in valences(number, charge) if used <= v <= used + MOST_HYDROGENS]
    return next((v for v in allowed if v >= used + hydrogens), allowed[-1])


def _resolve_aromatic(atoms: np.ndarray, bonds: dict[tuple[int, int], int], used: list[int]) -> None:
    """Turn aromatic bonds into single and double ones, in place: a matching of the atoms that lack a valence."""
    import networkx as nx

    aromatic = [pair for pair, kind in bonds.items() if kind == AROMATIC]
    lacks = [
        _target(number, charge, used[atom], hydrogens) - hydrogens > used[atom]
        for atom, (number, charge, hydrogens, _) in enumerate(atoms.tolist())
    ]
    graph = nx.Graph([pair for pair in aromatic if lacks[pair[0]] and lacks[pair[1]]])
    double = {tuple(sorted(pair)) for pair in nx.max_weight_matching(graph, maxcardinality=True)}
    for pair in aromatic:
        bonds[pair] = DOUBLE if pair in double else SINGLE
        for atom in pair if pair in double else ():
            used[atom] += 1
