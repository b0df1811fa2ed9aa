"""Small knowledge graphs to try link prediction on: Nations, UMLS and Kinships, and UMLS cut in two.

Written below the output folder, each a folder of `train.txt`, `valid.txt`, `test.txt` with lines `head relation tail`:
    nations, umls, kinships     as published: 14, 135 and 104 entities
    umls_seen, umls_unseen      triples among two thirds of the entities of UMLS, and among the others: what is learned
                                on the first is tried on entities of which it knows nothing
    graphs.json                 the config, asset hash and counts; written last
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyglot import assets
from anyglot.config import to_mapping, typed
from anyglot.data.corpora.names import split_of
from anyglot.errors import ConfigError
from anyglot.files import write_json, write_text

NAMES = ("nations", "umls", "kinships")
SPLITS = ("train", "valid", "test")
ASSET = "pykeen"


@dataclass
class GraphsCorpus:
    """Fields of configs/corpora/graphs.yaml; see there."""

    unseen_one_in: int = 3
    heldout_one_in: int = 8

    def __post_init__(self) -> None:
        if self.unseen_one_in < 2 or self.heldout_one_in < 3:
            raise ConfigError("unseen_one_in must be at least 2, heldout_one_in at least 3")


def run(mapping: dict[str, Any], out: Path, where: str) -> None:
    """Write the graphs to `out`; a finished folder of the same settings is left as it is.

    Raises:
        ConfigError: a mistake in the config. AssetError: the package that carries them cannot be had.
    """
    config = typed(GraphsCorpus, mapping, where)
    described = {"config": to_mapping(config), "assets": {ASSET: assets.find(ASSET).sha256}}
    record = out / "graphs.json"
    if record.exists() and {**json.loads(record.read_text("utf-8")), "counts": None} == {**described, "counts": None}:
        print(f"{out}: finished before, left as it is", file=sys.stderr)
        return
    record.unlink(missing_ok=True)
    graphs = {name: {split: _read(name, split) for split in SPLITS} for name in NAMES}
    whole = sorted({line for lines in graphs["umls"].values() for line in lines})
    graphs["umls_seen"], graphs["umls_unseen"] = cut(whole, config)
    for name, splits in graphs.items():
        for split, lines in splits.items():
            write_text(out / name / f"{split}.txt", "".join(f"{line}\n" for line in lines))
    counts = {name: {split: len(lines) for split, lines in splits.items()} for name, splits in graphs.items()}
    write_json(record, {**described, "counts": counts})


def cut(lines: list[str], config: GraphsCorpus) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Triples among seen entities, and among unseen ones, by split; the unseen ones know seen relations only.

    Which entity is unseen, and which triple held out, is a fixed hash of names. A held-out triple whose entity occurs
    in no training triple of its part becomes one.
    """
    ends = {line: (line.split("\t")[0], line.split("\t")[2]) for line in lines}
    unseen = {name for pair in ends.values() for name in pair if split_of(name, config.unseen_one_in) == "heldout"}
    seen = _split([line for line in lines if not unseen & set(ends[line])], config)
    known = {line.split("\t")[1] for line in seen["train"]}
    inside = [line for line in lines if unseen.issuperset(ends[line]) and line.split("\t")[1] in known]
    return seen, _split(inside, config)


def _split(lines: list[str], config: GraphsCorpus) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    for line in lines:
        heldout = split_of(line, config.heldout_one_in) == "heldout"
        late = split_of(f"half {line}", 2) == "heldout"
        splits["train" if not heldout else "valid" if late else "test"].append(line)
    names = [set(line.split("\t")) for line in splits["train"]]
    known = set().union(*names) if names else set()
    for split in ("valid", "test"):
        strange = [line for line in splits[split] if not known.issuperset(line.split("\t"))]
        splits["train"] += strange
        splits[split] = [line for line in splits[split] if line not in set(strange)]
    return {split: sorted(found) for split, found in splits.items()}


def _read(name: str, split: str) -> list[str]:
    text = assets.open_member(ASSET, f"pykeen/datasets/{name}/{split}.txt").decode("utf-8")
    return [line.strip() for line in text.splitlines() if line.strip()]
