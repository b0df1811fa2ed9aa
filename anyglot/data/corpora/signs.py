"""Signed letters out of the spoken-to-signed package: 600 clips of fingerspelling in 19 sign languages, 10 minutes.

Written below the output folder: motion/LANGUAGE-NUMBER.npy and signs.jsonl, a document per clip: "the letter B in
American Sign Language" and the motion. A frame is the 136 numbers of `anyglot.tokenizers.skeletons.signs`.
"""

import csv
import io
import json
import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyglot import assets
from anyglot.config import typed
from anyglot.data.corpora.names import unit_hash
from anyglot.data.progress import JobProgress
from anyglot.errors import ConfigError, MediaError
from anyglot.files import atomic_path
from anyglot.tokenizers.skeletons.pose_files import read_pose
from anyglot.tokenizers.skeletons.signs import to_features

logger = logging.getLogger(__name__)

FOLDER = "spoken_to_signed/assets/fingerspelling_lexicon/"
LANGUAGES = {  # ISO 639-3
    "ase": "American", "asq": "Austrian", "bzs": "Brazilian", "cse": "Czech", "csq": "Croatian", "eso": "Estonian",
    "fsl": "French", "gsg": "German", "gss": "Greek", "ise": "Italian", "jos": "Jordanian", "lls": "Lithuanian",
    "mfs": "Mexican", "psr": "Portuguese", "sgg": "Swiss German", "ssp": "Spanish", "svk": "Slovak", "swl": "Swedish",
    "tsm": "Turkish", "ukl": "Ukrainian",
}  # fmt: skip


@dataclass
class SignsCorpus:
    """Fields of configs/corpora/signs.yaml; see there."""

    fps: float = 25.0
    mirror: bool = True
    folds: int = 5
    heldout_fold: int = 0

    def __post_init__(self) -> None:
        if self.fps <= 0 or self.folds < 2 or not 0 <= self.heldout_fold < self.folds:
            raise ConfigError("fps must be above 0, folds 2 or more, heldout_fold one of 0 .. folds - 1")


@dataclass
class Sign:
    """One clip: a letter of a sign language, and in which fold it is held out."""

    member: str
    letter: str
    language: str
    fold: int

    @property
    def text(self) -> str:
        return f"the letter {self.letter} in {LANGUAGES[self.language]} Sign Language"


def run(mapping: dict[str, Any], out: Path, where: str) -> None:
    """Build the corpus in `out`. Raises AssetError if the package cannot be had."""
    config = typed(SignsCorpus, mapping, where)
    clips = signs(assets.open_member("spoken-to-signed", f"{FOLDER}index.csv").decode("utf-8"), config.folds)
    lines = []
    (out / "motion").mkdir(parents=True, exist_ok=True)
    with JobProgress(out, {"clips": len(clips)}) as progress:
        for number, sign in enumerate(clips):
            progress.reach("clips", number + 1)
            try:
                clip = read_pose(assets.open_member("spoken-to-signed", FOLDER + sign.member))
                motion = to_features(clip, config.fps, config.mirror)
            except MediaError as error:
                logger.warning("left out: %s: %s", sign.member, error)
                continue
            name = f"{sign.language}-{number:03d}"
            with atomic_path(out / "motion" / f"{name}.npy") as temporary, open(temporary, "wb") as file:
                np.save(file, motion)
            parts = [{"type": "text", "text": sign.text}, {"type": "motion", "path": f"motion/{name}.npy"}]
            split = "heldout" if sign.fold == config.heldout_fold else "train"
            lines.append(json.dumps({"id": name, "split": split, "parts": parts}, ensure_ascii=False))
    with atomic_path(out / "signs.jsonl") as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def signs(index: str, folds: int) -> list[Sign]:
    """The clips that an index.csv lists, each once, in its order. A letter's clips are spread evenly over the folds."""
    rows: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(io.StringIO(index)):
        rows.setdefault(row["path"], row)
    by_letter = defaultdict(list)
    for path in sorted(rows, key=lambda path: unit_hash(path, "fold")):
        by_letter[rows[path]["words"]].append(path)
    folds_of = {
        path: (place + unit_hash(letter, "first fold")) % folds
        for letter, paths in by_letter.items()
        for place, path in enumerate(paths)
    }
    return [Sign(path, row["words"], row["signed_language"], folds_of[path]) for path, row in rows.items()]
