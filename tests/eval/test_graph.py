"""Figures of molecule tokenizers, and the marks of generated molecules."""

import numpy as np
import pytest

from anyglot.data.documents import Document, Message, Part
from anyglot.eval.answers import Answer
from anyglot.eval.graph import Check, evaluate, is_valid, tanimoto
from anyglot.inference.anyglot import Reply
from anyglot.tokenizers.molecules import SINGLE, Molecule, from_smiles
from tests.tokenizers.test_graph import make, media

Chem = pytest.importorskip("rdkit.Chem", reason="rdkit is not installed: anyglot[graph]")


def test_tanimoto_and_validity():
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    one, other = (set(generator.GetFingerprint(Chem.MolFromSmiles(s)).GetOnBits()) for s in ("CCO", "CCCN"))
    alcohol, amine = (from_smiles(s, s) for s in ("CCO", "CCCN"))
    assert 0 < tanimoto(alcohol, amine) == pytest.approx(len(one & other) / len(one | other))
    assert tanimoto(alcohol, alcohol) == 1
    assert is_valid(alcohol)
    assert not is_valid(Molecule(np.array([[6, 0, 4, 0], [6, 0, 4, 0]]), np.array([[0, 1, SINGLE]])))


class Planted:
    """A tokenizer whose decoder answers what it is told."""

    def __init__(self, answers):
        self.real = make()
        self.answers = [from_smiles(s, s) for s in answers]

    def __getattr__(self, name):
        return getattr(self.real, name)

    def decode(self, codes):
        return self.answers


def test_scores_of_planted_reconstructions():
    smiles = ["CCO", "C[C@H](N)C(=O)O", "c1ccccc1", "CCCC"]
    scores = evaluate(Planted(["CCO", "C[C@@H](N)C(=O)O", "C1CCCCC1", "CCC"]), media(smiles))
    assert scores["exact_heldout"] == 0.25
    assert scores["exact_flat_heldout"] == 0.5
    assert scores["valid_heldout"] == 0.75  # the last has lost an atom
    assert scores["items"] == 4
    assert scores["codes"] == np.mean([3, 6, 6, 4])
    assert scores["bits"] == pytest.approx(np.mean([3, 6, 6, 4]) * 2 * np.log2(25))
    assert scores["smiles_bits"] == 8 * np.mean([3, 15, 8, 4])
    assert 0.5 < scores["tanimoto_heldout"] < 1
    assert scores["stranger_tanimoto_heldout"] < 0.3
    assert 0 < scores["codebook_usage"] < 1


def test_scores_of_an_untrained_tokenizer():
    scores = evaluate(make(), media(), usage_of=media())
    assert scores["exact_heldout"] < 0.3
    assert scores["valid_heldout"] > 0.5  # what assembly makes can be, however bad the decoder
    assert scores["likeliest_valid_heldout"] < scores["valid_heldout"]


def test_generated_molecules_are_marked():
    documents = [
        Document(str(i), [Message(None, [Part("text", text="name"), Part("graph", data=smiles.encode())])])
        for i, smiles in enumerate(["CCO", "CCN", "CCC"])
    ]
    answers = [
        Answer(documents[0], Reply([], [], [Part("graph", data=from_smiles("OCC", "x"))])),
        Answer(documents[1], Reply([], [], [Part("graph", data=from_smiles("CCO", "x"))])),
        Answer(documents[2], Reply([], [], [])),
    ]
    unfit = Document("unfit", [Message(None, [Part("graph", data=b"C" * 40)])])
    figures = Check(make(), [*documents[:1], unfit]).judge(answers)
    assert [answer.right for answer in answers] == [True, False, False]
    assert [answer.note for answer in answers] == ["CCO", "CCO", "no molecule"]
    assert figures["exact"].value == pytest.approx(1 / 3)
    assert figures["valid"].value == figures["known"].value == pytest.approx(2 / 3)
    likeness = tanimoto(*(from_smiles(s, s) for s in ("CCN", "CCO")))
    assert figures["tanimoto"].value == pytest.approx((1 + likeness) / 3)
