"""Molecules with their names: some 46,000 of the 71,347 that the package `chemicals` has from PubChem.

Written below the output folder:
    molecules.jsonl   a document per molecule: its name, and the molecule as RDKit's canonical SMILES
    molecules.json    the config, asset hash and counts; written last
No name and no molecule occurs twice, and stereoisomers are held out together.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyglot import assets
from anyglot.config import to_mapping, typed
from anyglot.data.corpora.names import split_of, unit_hash
from anyglot.data.progress import JobProgress
from anyglot.errors import ConfigError, MediaError
from anyglot.files import write_json, write_text
from anyglot.tokenizers.molecules import ELEMENTS, from_smiles, to_smiles

ASSET = "chemicals"
TABLE = "chemicals/Identifiers/chemical identifiers pubchem large.tsv"
CID, SMILES, INCHI_KEY, IUPAC, SYNONYMS = 0, 4, 6, 7, slice(8, 14)  # columns; later synonyms are mostly numbers
NUMBERED = re.compile(r"\d{3}|\d-\d\d-\d$")  # catalogue and registry numbers, which say nothing of the molecule


@dataclass
class MoleculesCorpus:
    """Fields of configs/corpora/molecules.yaml; see there."""

    elements: list[str] = field(default_factory=lambda: list(ELEMENTS))
    max_atoms: int = 24
    max_name: int = 100
    heldout_one_in: int = 40
    most: int = 0

    def __post_init__(self) -> None:
        if self.max_atoms < 1 or self.max_name < 1 or self.heldout_one_in < 2 or self.most < 0:
            raise ConfigError("max_atoms and max_name must be at least 1, heldout_one_in at least 2, most at least 0")


def run(mapping: dict[str, Any], out: Path, where: str) -> None:
    """Build the corpus in `out`; a finished one of the same settings is left as it is.

    Raises:
        ConfigError: a mistake in the config. AssetError: the package that carries them cannot be had.
    """
    from rdkit import rdBase

    config = typed(MoleculesCorpus, mapping, where)
    described = {"config": to_mapping(config), "assets": {ASSET: assets.find(ASSET).sha256}}
    record = out / "molecules.json"
    if record.exists() and {**json.loads(record.read_text("utf-8")), "counts": None} == {**described, "counts": None}:
        print(f"{out}: finished before, left as it is", file=sys.stderr)
        return
    record.unlink(missing_ok=True)
    rows = [line.split("\t") for line in assets.open_member(ASSET, TABLE).decode().splitlines()]
    out.mkdir(parents=True, exist_ok=True)
    with JobProgress(out, {"molecules": len(rows)}) as progress, rdBase.BlockLogs():
        documents = list(chosen(rows, config, progress))
    if config.most:
        documents = sorted(documents, key=lambda document: unit_hash(document["id"], "most"))[: config.most]
    write_text(out / "molecules.jsonl", "".join(f"{json.dumps(d, ensure_ascii=False)}\n" for d in documents))
    splits = [document["split"] for document in documents]
    write_json(record, {**described, "counts": {split: splits.count(split) for split in ("train", "heldout")}})


def chosen(rows: list[list[str]], config: MoleculesCorpus, progress: JobProgress) -> Iterator[dict[str, Any]]:
    """A document for each molecule that fits the config and has a name of its own."""
    names: set[str] = set()
    known: set[str] = set()
    for done, row in enumerate(rows, start=1):
        if done % 1000 == 0 or done == len(rows):
            progress.reach("molecules", done)
        name = next((name for name in names_of(row) if name not in names and len(name) <= config.max_name), None)
        if name is None:
            continue
        try:
            molecule = from_smiles(row[SMILES], row[SMILES])
        except MediaError:  # what RDKit cannot parse, mixtures, isotopes, radicals
            continue
        if len(molecule) > config.max_atoms or not set(molecule.symbols) <= set(config.elements):
            continue
        smiles = to_smiles(molecule)
        if smiles in known:
            continue
        names.add(name)
        known.add(smiles)
        connectivity = row[INCHI_KEY].partition("-")[0]
        parts = [{"type": "text", "text": name}, {"type": "graph", "content": smiles}]
        yield {"id": f"cid{row[CID]}", "split": split_of(connectivity, config.heldout_one_in), "parts": parts}


def names_of(row: list[str]) -> list[str]:
    """Names of a molecule, the commonest first, the systematic one last."""
    common = [name for name in row[SYNONYMS] if not NUMBERED.search(name)]
    return [name for name in (*common, row[IUPAC]) if name.strip()]
