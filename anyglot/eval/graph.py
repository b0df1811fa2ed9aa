"""How good a molecule tokenizer is, and whether a molecule that a model wrote is the one that was asked for.

Molecules are equal if their canonical SMILES are: elements, bonds, charges, hydrogens, tetrahedral centres, and sides
of double bonds. How alike others are is the Tanimoto similarity of Morgan fingerprints (radius 2, 2048 bits).
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from anyglot.data.documents import Document
from anyglot.errors import MediaError
from anyglot.eval.answers import Answer, mean_of, share_right
from anyglot.eval.documents import part_of
from anyglot.eval.image import CodeUsage
from anyglot.eval.scores import Score
from anyglot.inference.anyglot import media_of
from anyglot.tokenizers.graph import GraphTokenizer
from anyglot.tokenizers.molecule_assembly import likeliest
from anyglot.tokenizers.molecules import Molecule, canonical, to_rdkit, to_smiles


def evaluate(
    tokenizer: GraphTokenizer,
    heldout: Sequence[Molecule],
    texts: Sequence[str] = (),
    usage_of: Sequence[Molecule] = (),
    batch: int = 256,
) -> dict[str, float]:
    """Scores of a tokenizer on held-out molecules, after `decode(encode(molecule))`.

    Args:
        texts: their names; every modality's `evaluate` is given it, this one has no use for it.
        usage_of: molecules over which codebook usage is counted (default: `heldout`).
    Returns:
        Shares of molecules: exact_heldout, equal; exact_flat_heldout, equal but for what is said of space;
        valid_heldout, that RDKit sanitises, with as many atoms as the original. If the likeliest atoms and bonds are
        taken as they are, without assembly: likeliest_exact_heldout, equal; likeliest_valid_heldout, that RDKit
        sanitises, connected and without unpaired electrons, as what is assembled always is.
        tanimoto_heldout: mean similarity to the original. stranger_tanimoto_heldout: of the next original to it, a
        baseline. items: molecules measured. codes, bits, smiles_bits: of a molecule, means: its codes, what they
        carry at most, and 8 for a character of its canonical SMILES. codebook_usage: share of the codes that occur,
        code_entropy_bits: of one code, means over levels.
    """
    codes, decoded, raw = [], [], []
    for start in range(0, len(heldout), batch):
        codes += tokenizer.encode(heldout[start : start + batch])
        decoded += tokenizer.decode(codes[start:])
        scores = tokenizer.scores(codes[start:])
        raw += [_canonical(likeliest(s, tokenizer.numbers, tokenizer.config.charge)) for s in scores]
    originals = [canonical(molecule) for molecule in heldout]
    smiles, found = [to_smiles(m) for m in originals], [to_smiles(m) for m in decoded]
    usage = CodeUsage(tokenizer.spec.levels)
    counted = usage_of if len(usage_of) else heldout
    for start in range(0, len(counted), batch):
        usage.update(tokenizer.encode(counted[start : start + batch]))
    pairs = list(zip(originals, decoded, strict=True))
    return {
        "exact_heldout": _mean(a == b for a, b in zip(smiles, found, strict=True)),
        "exact_flat_heldout": _mean(_flat(a) == _flat(b) for a, b in pairs),
        "valid_heldout": _mean(is_valid(b) and len(a) == len(b) for a, b in pairs),
        "likeliest_valid_heldout": _mean(molecule is not None for molecule in raw),
        "likeliest_exact_heldout": _mean(a == b for a, b in zip(originals, raw, strict=True)),
        "tanimoto_heldout": _mean(tanimoto(a, b) for a, b in pairs),
        "stranger_tanimoto_heldout": _mean(map(tanimoto, originals, [*originals[1:], originals[0]])),
        "items": float(len(originals)),
        "codes": _mean(len(code) for code in codes),
        "bits": _mean(len(code) * tokenizer.spec.bits for code in codes),
        "smiles_bits": _mean(8 * len(text) for text in smiles),
        **usage.result(),
    }


class Check:
    """A molecule is right if it is the document's."""

    def __init__(self, tokenizer: GraphTokenizer, training: Sequence[Document]) -> None:
        self.tokenizer = tokenizer
        self.known: set[Molecule] = set()
        for document in training:
            if (part := part_of(document, "graph")) is not None:
                with suppress(MediaError):  # what has no codes was not trained on
                    self.known.add(media_of(tokenizer, part))

    def judge(self, answers: Sequence[Answer]) -> dict[str, Score]:
        """Shares of all answers: exact; valid, a molecule that RDKit sanitises; known, one of the training molecules.
        tanimoto: mean similarity to the right one, 0 where there is no molecule."""
        likeness: list[float] = []
        valid: list[float] = []
        known: list[float] = []
        for answer in answers:
            wanted, made = part_of(answer.document, "graph"), answer.part("graph")
            assert wanted is not None
            own = media_of(self.tokenizer, wanted)
            molecule = made.data if made is not None and isinstance(made.data, Molecule) else None
            valid.append(molecule is not None and is_valid(molecule))
            if molecule is None or not valid[-1]:
                answer.right, answer.note = False, "no molecule"
                likeness.append(0.0)
                known.append(False)
                continue
            smiles = to_smiles(molecule)
            answer.right, answer.note = smiles == to_smiles(own), smiles
            likeness.append(tanimoto(own, molecule))
            known.append(molecule in self.known)
        figures: dict[str, list[float]] = {"valid": valid, "tanimoto": likeness, "known": known}
        return {"exact": share_right(answers)} | {name: mean_of(answers, found) for name, found in figures.items()}


def is_valid(molecule: Molecule) -> bool:
    """Whether RDKit sanitises it."""
    try:
        to_rdkit(molecule)
    except MediaError:
        return False
    return True


def tanimoto(first: Molecule, second: Molecule) -> float:
    """Similarity of Morgan fingerprints, radius 2 and 2048 bits: 1 for equal ones, which blanks out space."""
    from rdkit.Chem import rdFingerprintGenerator
    from rdkit.DataStructs import TanimotoSimilarity

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    return float(TanimotoSimilarity(*(generator.GetFingerprint(to_rdkit(m)) for m in (first, second))))


def _canonical(molecule: Molecule) -> Molecule | None:
    try:
        return canonical(molecule)
    except MediaError:
        return None


def _flat(molecule: Molecule) -> str:
    from rdkit import Chem

    return str(Chem.MolToSmiles(Chem.MolFromSmiles(to_smiles(molecule)), isomericSmiles=False))


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))
