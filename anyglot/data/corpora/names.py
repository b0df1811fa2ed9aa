"""Emoji file names as captions that can be spoken, and the fixed hashes that order them and hold some out."""

import hashlib
import re
import unicodedata
from dataclasses import dataclass

_TONE = re.compile(r"_(?:medium-light|medium-dark|light|medium|dark)_skin_tone")
_WORDS = {
    "&": "and", "#": "hash", "1st": "first", "2nd": "second", "3rd": "third", "st": "saint", "mrs": "missus",
    "0": "zero", "1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six", "7": "seven",
    "8": "eight", "9": "nine", "10": "ten",
}  # fmt: skip


@dataclass(frozen=True)
class Name:
    """One picture's name. `stem`: of its file; `text`: as spoken; `base`: the text without skin tones."""

    stem: str
    text: str
    base: str

    @property
    def is_base(self) -> bool:
        return self.text == self.base


def read(stem: str) -> Name:
    """The name that a file stem such as `flag_turks_&_caicos_islands` stands for."""
    return Name(stem=safe_stem(stem), text=spoken(stem), base=spoken(_TONE.sub("", stem)))


def spoken(stem: str) -> str:
    """Lower-case ASCII words: digits, signs and abbreviations written out as they are read aloud."""
    ascii_stem = (
        unicodedata.normalize("NFKD", stem.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
        .encode("ascii", "ignore")
        .decode()
    )
    tokens = re.findall(r"[a-z0-9']+|[&#]", ascii_stem.lower())
    return " ".join(_WORDS.get(token, token) for token in tokens)


def safe_stem(stem: str) -> str:
    """The stem as a portable file name: every character outside `a-z0-9-` becomes `_`."""
    return re.sub(r"[^a-z0-9-]+", "_", spoken(stem).replace("'", "")).strip("_")


def unit_hash(text: str, purpose: str) -> int:
    """A 64-bit number that depends on nothing but its two arguments."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{text}".encode()).digest()[:8], "big")


def split_of(group: str, one_in: int) -> str:
    """ "heldout" for about one group in `one_in`, else "train". A group's members never part."""
    return "heldout" if unit_hash(group, "split") % one_in == 0 else "train"
