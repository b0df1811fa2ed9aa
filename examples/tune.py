"""Tunes in ABC notation: a modality that Anyglot does not have, in one file. docs/new-modality.md walks through it.

    python examples/tune.py runs/tune/data     # songs of the Essen collection, as documents of text and tune
    anyglot extend runs/demo/lm --modality examples/tune.py --data runs/tune/data --out runs/tune

A tune in memory is int64 `[notes, 2]`: pitch in semitones (60: middle C, 0: a rest), length in 96ths of a whole note.
Nothing is trained: pitch and length are the two levels of a note's code, and decoding is exact.
"""

import json
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anyglot import assets
from anyglot.errors import MediaError
from anyglot.files import write_text
from anyglot.tokenizers.module import TokenizerModule
from anyglot.tokenizers.spec import Axis, CodeSpec

WHOLE = 96  # units of length in a whole note
PITCHES, LENGTHS = 128, 4 * WHOLE
LOWEST, HIGHEST = np.array([0, 1]), np.array([PITCHES - 1, LENGTHS])  # what the codes of each level stand for
SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
SHARPS = {"C": 0, "G": 1, "D": 2, "A": 3, "E": 4, "B": 5, "F#": 6, "F": -1, "Bb": -2, "Eb": -3, "Ab": -4, "Db": -5}
NOTE = re.compile(r"([_^=]?)([A-Ga-gz])([,']*)(\d*)(-?)|([|\]:]+)|(\S)")
SPELLED = ("=C", "^C", "=D", "^D", "=E", "=F", "^F", "=G", "^G", "=A", "^A", "=B")


@dataclass
class TuneConfig:
    max_notes: int = 256  # longer tunes are refused


class TuneTokenizer(TokenizerModule):
    """The `ModalityTokenizer` of tunes."""

    modality = "tune"
    config_class = TuneConfig
    suffix = ".abc"

    @property
    def spec(self) -> CodeSpec:
        """Two levels, pitch and length, along one open axis."""
        return CodeSpec("tune", (PITCHES, LENGTHS), (Axis("note", "open", self.config.max_notes),))

    def codebooks(self) -> list[Tensor]:
        """Pitches a fifth or an octave apart are alike, and so are lengths of about one size."""
        pitch, length = torch.arange(PITCHES).float(), torch.arange(1, LENGTHS + 1).float()
        fifths = pitch * 7 / 12 * 2 * torch.pi
        pitches = torch.stack([fifths.cos(), fifths.sin(), (pitch - 66) / 12, (pitch == 0).float() * 8], 1)
        return [pitches, torch.stack([length.log2(), 2 * (length % 12 == 0).float(), (length % 8 == 0).float()], 1)]

    def encode(self, media: Sequence[np.ndarray]) -> list[Tensor]:
        """Tunes `[notes, 2]` to codes `[notes, 2]`. Raises MediaError."""
        for tune in media:
            if tune.ndim != 2 or not 0 < len(tune) <= self.config.max_notes or tune.shape[1] != 2:
                raise MediaError(f"a tune is [1 to {self.config.max_notes} notes, 2], got {list(tune.shape)}")
            if (tune < LOWEST).any() or (tune > HIGHEST).any():
                raise MediaError(f"pitch and length go from {LOWEST} to {HIGHEST}, got {tune.min(0)} to {tune.max(0)}")
        return [torch.from_numpy(tune - LOWEST).long() for tune in media]

    def decode(self, codes: Sequence[Tensor]) -> list[np.ndarray]:
        """The inverse of `encode`. Raises MediaError for what is no tune's codes."""
        tunes = [code.cpu().numpy() + LOWEST for code in codes if code.ndim == 2 and code.shape[-1] == 2]
        if len(tunes) < len(codes):
            raise MediaError("tune codes must be [notes, 2]")
        self.encode(tunes)
        return tunes

    def read(self, source: str | Path | bytes) -> np.ndarray:
        """The first tune of an ABC file or its bytes. Raises MediaError naming the file."""
        name = f"{len(source)} bytes of ABC" if isinstance(source, bytes) else str(source)
        try:
            return parse((source if isinstance(source, bytes) else Path(source).read_bytes()).decode(), name)
        except (OSError, UnicodeDecodeError) as error:
            raise MediaError(f"{name}: not a text file that can be read ({error})") from error

    def write(self, media: np.ndarray, path: str | Path) -> None:
        """Write a tune as an ABC file, atomically."""
        notes = []
        for pitch, length in media.tolist():
            octave = pitch // 12 - 5
            spelled = SPELLED[pitch % 12] + ("'" * octave if octave > 0 else "," * -octave)
            notes.append(f"{spelled if pitch else 'z'}{length}")
        lines = (" ".join(notes[start : start + 8]) for start in range(0, len(notes), 8))
        write_text(path, f"X:1\nL:1/{WHOLE}\nK:C\n" + "\n".join(lines) + "\n")


def parse(text: str, name: str) -> np.ndarray:
    """The notes of a tune in ABC notation. Raises MediaError for what is not plain melody."""
    fields = dict(re.findall(r"^([KLM]):\s*(.*?)\s*$", text, flags=re.MULTILINE))
    unit = re.fullmatch(r"1/(\d+)", fields.get("L", "1/8"))
    key = re.match(r"([A-G][b#]?)(m?)", fields.get("K", ""))
    if unit is None or key is None or key[1] not in SHARPS or WHOLE % int(unit[1]):
        raise MediaError(f"{name}: key {fields.get('K')!r} or unit {fields.get('L')!r} is none that is known")
    sharps = SHARPS[key[1]] - (3 if key[2] else 0)
    altered = {"FCGDAEB"[i] if sharps > 0 else "BEADGCF"[i]: np.sign(sharps) for i in range(min(abs(sharps), 7))}
    notes: list[list[int]] = []
    in_bar: dict[str, int] = {}
    tied = False
    body = "\n".join(line for line in text.splitlines() if not re.match(r"[A-Za-z]:|%", line))
    for accidental, letter, octave, times, tie, bar, other in NOTE.findall(body):
        if other:
            raise MediaError(f"{name}: {other!r} is more than plain melody")
        if bar:
            in_bar = {}
            continue
        if accidental:
            in_bar[letter + octave] = "_=^".index(accidental) - 1
        pitch = 60 + SEMITONES.get(letter.upper(), 0) + 12 * (letter.islower() + octave.count("'") - octave.count(","))
        pitch += in_bar.get(letter + octave, int(altered.get(letter.upper(), 0)))
        pitch, length = 0 if letter == "z" else pitch, int(times or 1) * WHOLE // int(unit[1])
        if tied and notes[-1][0] == pitch:
            notes[-1][1] += length
        else:
            notes.append([pitch, length])
        tied = bool(tie)
    if not notes:
        raise MediaError(f"{name}: there is no note in it")
    return np.array(notes, dtype=np.int64)


def songs() -> Iterator[dict[str, object]]:
    """Songs of the Essen collection with where they are from and their metre; variants of a title share a split."""
    for member in (name for name in assets.members("music21") if name.endswith(".abc")):
        book = "\n" + assets.open_member("music21", member).decode("latin-1")
        for number, song in enumerate(book.split("\nX:")[1:]):
            title, origin, metre = (re.search(rf"^{field}:\s*(\S.*)", song, flags=re.MULTILINE) for field in "TOM")
            if not (title and origin and metre):
                continue
            places = [*origin[1].split(", "), "", ""]
            place = places[2] or places[0] if places[0] == "Europa" else places[0]
            parts = [{"type": "text", "text": f"{place} {metre[1]}"}, {"type": "tune", "content": f"X:{song}"}]
            split = "heldout" if zlib.crc32(title[1].encode()) % 20 == 0 else "train"
            yield {"id": f"{Path(member).stem}-{number}", "split": split, "parts": parts}


TOKENIZER = TuneTokenizer

if __name__ == "__main__":
    write_text(Path(sys.argv[1]) / "songs.jsonl", "".join(f"{json.dumps(song)}\n" for song in songs()))
