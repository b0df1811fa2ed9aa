"""One vocabulary for everything: which id means what. Append-only: extending it never moves an id.

Blocks of ids, in this order: text (the text tokenizer's own ids), special (padding, document and turn marks; but for
padding they are not used where a pretrained model's text tokenizer has marks of its own among the text ids),
sizes (the numbers 1, 2, ... that span headers write), then for each modality its control block (open, close)
and one block of codes per level. A modality whose headers need larger numbers than there are brings a further
sizes block with it. How many rows the model's embedding has is the model's business, not the vocabulary's.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from anyglot.errors import AnyglotError, MismatchError
from anyglot.files import write_json
from anyglot.lm.streams import digit_sizes, stream_named
from anyglot.tokenizers.marks import Marks
from anyglot.tokenizers.spec import CodeSpec

FORMAT = 1
GRAMMAR_VERSION = 1  # raise it whenever the same document would become other ids
SPECIALS = ("pad", "bos", "eos", "system", "user", "assistant", "end_of_turn")
ROLES = ("system", "user", "assistant")
TEXT = "text"
FILE = "vocabulary.json"

Kind = Literal["text", "special", "sizes", "control", "codes"]


@dataclass(frozen=True)
class Block:
    """A run of ids, `[start, start + size)`.

    kind: "text", "special", "sizes", "control" (a modality's open and close) or "codes" (one of its levels).
    modality: whose ids they are, "" for special and sizes. level: of codes, else -1.
    fingerprint: of the tokenizer that gives the ids of a text or codes block, else "".
    """

    name: str
    kind: Kind
    start: int
    size: int
    modality: str = ""
    level: int = -1
    fingerprint: str = ""

    @property
    def end(self) -> int:
        """One past the last id."""
        return self.start + self.size


@dataclass(frozen=True)
class Modality:
    """A modality of the vocabulary: its codes, its tokenizer, and the stream its spans are written in.

    factors: how many sub-codes each code is written as.
    """

    spec: CodeSpec
    fingerprint: str
    stream: str
    factors: int = 1

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Codebook size of each level as it is written."""
        return tuple(size for level in self.spec.levels for size in digit_sizes(level, self.factors))


class Lookup(NamedTuple):
    """What ids mean, each array shaped like the ids.

    block: index into `Vocabulary.blocks`. modality: index into `Vocabulary.modality_names` (0 is text), -1 for
    special, reserved and size ids. level: of a code, else -1. code: the code; of a size id the number; else the place
    in the block.
    """

    block: np.ndarray
    modality: np.ndarray
    level: np.ndarray
    code: np.ndarray


@dataclass(frozen=True)
class Vocabulary:
    """Which id means what. Make one with `build`, `extend` or `load`.

    text_size, text_fingerprint: of the text tokenizer. max_size: numbers in the first sizes block.
    marks: a pretrained model's own document and turn marks; None: those of the special block.
    """

    text_size: int
    text_fingerprint: str
    max_size: int
    modalities: tuple[Modality, ...] = ()
    marks: Marks | None = None

    def __post_init__(self) -> None:
        if self.text_size < 1 or self.max_size < 1:
            raise AnyglotError(
                f"a vocabulary needs text_size and max_size of at least 1, got {self.text_size} and {self.max_size}"
            )
        names = [TEXT, "special", "sizes"]
        for spec in (modality.spec for modality in self.modalities):
            if not spec.modality.isidentifier() or spec.modality in names:
                raise AnyglotError(f"modality name {spec.modality!r} is already taken or not a plain word")
            if any(axis.size < 1 for axis in spec.axes):
                raise AnyglotError(f"{spec.modality}: every axis needs a size of at least 1")
            names.append(spec.modality)
        for modality in self.modalities:
            stream_named(modality.stream)
            _ = modality.levels  # raises for factors that do not divide a level
        if self.marks and not 0 <= min(self.marks.ids) <= max(self.marks.ids) < self.text_size:
            raise AnyglotError(f"marks {min(self.marks.ids)} to {max(self.marks.ids)} are not all among the text ids")

    @staticmethod
    def build(
        text_size: int,
        text_fingerprint: str,
        modalities: Iterable[tuple[CodeSpec, str]] = (),
        max_size: int = 64,
        streams: Mapping[str, str] | None = None,
        factors: Mapping[str, int] | None = None,
        marks: Marks | None = None,
    ) -> "Vocabulary":
        """A new vocabulary.

        Args:
            modalities: (spec, tokenizer fingerprint) of each modality, in the order of their ids.
            max_size: how many numbers the shared sizes block holds; larger headers bring their own.
            streams: modality -> "frame", "level", "delay" or "depth"; those not named are "frame".
            factors: modality -> how many sub-codes each of its codes is written as; 1 where not named.
            marks: those of the text tokenizer, if it has any.
        Raises:
            AnyglotError: a name used twice, or a stream or factors for a modality that is not there.
        """
        vocabulary = Vocabulary(text_size, text_fingerprint, max_size, marks=marks)
        streams, factors = dict(streams or {}), dict(factors or {})
        for spec, fingerprint in modalities:
            name = spec.modality
            vocabulary = vocabulary.extend(spec, fingerprint, streams.pop(name, "frame"), factors.pop(name, 1))
        for setting, left in (("streams", streams), ("factors", factors)):
            if left:
                raise AnyglotError(f"{setting} name {min(left)!r}, which is not among the vocabulary's modalities")
        return vocabulary

    def extend(self, spec: CodeSpec, fingerprint: str, stream: str = "frame", factors: int = 1) -> "Vocabulary":
        """This vocabulary with one more modality behind it. Every id keeps its meaning."""
        return replace(self, modalities=(*self.modalities, Modality(spec, fingerprint, stream, factors)))

    def first(self, modalities: int) -> "Vocabulary":
        """What this vocabulary was when it had only its first so many modalities beside text."""
        return replace(self, modalities=self.modalities[:modalities])

    def extends(self, older: "Vocabulary") -> bool:
        """Whether every id of `older` means the same here."""
        return self.first(len(older.modalities)).fingerprint == older.fingerprint

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks in the order of their ids, without gaps."""
        blocks = [Block(TEXT, "text", 0, self.text_size, TEXT, fingerprint=self.text_fingerprint)]

        def add(name: str, kind: Kind, size: int, modality: str = "", level: int = -1, fingerprint: str = "") -> None:
            blocks.append(Block(name, kind, blocks[-1].end, size, modality, level, fingerprint))

        add("special", "special", len(SPECIALS))
        add("sizes", "sizes", self.max_size)
        largest = self.max_size
        for modality in self.modalities:
            spec, name = modality.spec, modality.spec.modality
            needed = max((axis.size for axis in spec.axes if axis.length == "sized"), default=0)
            if needed > largest:
                add(f"sizes.{largest + 1}", "sizes", needed - largest)
                largest = needed
            add(f"{name}.control", "control", 2, name)
            for level, size in enumerate(modality.levels):
                add(f"{name}.{level}", "codes", size, name, level, modality.fingerprint)
        return tuple(blocks)

    @cached_property
    def size(self) -> int:
        """How many ids there are."""
        return self.blocks[-1].end

    @cached_property
    def modality_names(self) -> tuple[str, ...]:
        """ "text" and the modalities, in the order of `Lookup.modality`."""
        return (TEXT, *(modality.spec.modality for modality in self.modalities))

    def modality(self, name: str) -> Modality:
        """The modality of that name. Raises MismatchError that lists those there are."""
        for modality in self.modalities:
            if modality.spec.modality == name:
                return modality
        raise MismatchError(f"this vocabulary has no modality {name!r}; it has: {', '.join(self.modality_names)}")

    @cached_property
    def named_blocks(self) -> dict[str, Block]:
        """Blocks by name: "text", "special", "sizes", "image.control", "image.0", ..."""
        return {block.name: block for block in self.blocks}

    def mark(self, name: str) -> tuple[int, ...]:
        """The ids of "bos", "eos", "system", "user", "assistant" or "end_of_turn": one, or a pretrained model's run."""
        if self.marks and name != "pad":
            return getattr(self.marks, name)
        return (self.named_blocks["special"].start + SPECIALS.index(name),)

    def special(self, name: str) -> int:
        """The id of "pad", and the first of `mark(name)` of the others: text is never this id."""
        return self.mark(name)[0]

    @property
    def bos_in_chats(self) -> bool:
        """Whether a chat begins with bos, as every plain document does."""
        return self.marks is None or self.marks.bos_in_chats

    @cached_property
    def reserved(self) -> frozenset[int]:
        """Ids of the text block that no text becomes: a pretrained model's control ids."""
        return frozenset(self.marks.reserved if self.marks else ())

    @cached_property
    def text_ranges(self) -> tuple[tuple[int, int], ...]:
        """The ids that text may be, as half-open ranges."""
        edges = [-1, *sorted(token for token in self.reserved if 0 <= token < self.text_size), self.text_size]
        return tuple((low + 1, high) for low, high in pairwise(edges) if low + 1 < high)

    def is_text(self, token: int) -> bool:
        """Whether text may be this id."""
        return 0 <= token < self.text_size and token not in self.reserved

    @property
    def pad(self) -> int:
        """The id that fills unused places. No document holds it."""
        return self.special("pad")

    @property
    def bos(self) -> int:
        """The id that begins a plain document, and every chat unless a pretrained model's begin without."""
        return self.special("bos")

    @property
    def eos(self) -> int:
        """The id that ends every document."""
        return self.special("eos")

    @property
    def end_of_turn(self) -> int:
        """The id that ends a chat turn (of a run, the first)."""
        return self.special("end_of_turn")

    def opener(self, modality: str) -> int:
        """The id that begins a span of a modality."""
        self.modality(modality)
        return self.named_blocks[f"{modality}.control"].start

    def closer(self, modality: str) -> int:
        """The id that ends a span of a modality."""
        return self.opener(modality) + 1

    @cached_property
    def size_ranges(self) -> tuple[tuple[int, int, int], ...]:
        """(first number, start id, count) of each sizes block, by rising numbers."""
        ranges, number = [], 1
        for block in self.blocks:
            if block.kind == "sizes":
                ranges.append((number, block.start, block.size))
                number += block.size
        return tuple(ranges)

    def size_id(self, number: int) -> int:
        """The id that writes a number in a header. Raises MismatchError beyond the largest number."""
        for first, start, count in self.size_ranges:
            if first <= number < first + count:
                return start + number - first
        raise MismatchError(f"this vocabulary writes no number {number}")

    @cached_property
    def lookup(self) -> Lookup:
        """What every id means: arrays `[size]`."""
        sizes = [block.size for block in self.blocks]
        block = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        names = {name: index for index, name in enumerate(self.modality_names)}
        modality = np.repeat(np.array([names.get(b.modality, -1) for b in self.blocks], np.int32), sizes)
        level = np.repeat(np.array([b.level for b in self.blocks], np.int32), sizes)
        code = np.arange(self.size, dtype=np.int32) - np.repeat(
            np.array([b.start for b in self.blocks], np.int32), sizes
        )
        for first, start, count in self.size_ranges:
            code[start : start + count] += first
        modality[list(self.reserved)] = -1
        return Lookup(block, modality, level, code)

    def describe(self, ids: np.ndarray) -> Lookup:
        """What an array of ids means, vectorised. Raises MismatchError naming an id that is not in the vocabulary."""
        ids = np.asarray(ids)
        if ids.size and (ids.min() < 0 or ids.max() >= self.size):
            wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
            raise MismatchError(f"id {wrong} is not in this vocabulary of {self.size}")
        return Lookup(*(table[ids] for table in self.lookup))

    def name(self, token: int) -> str:
        """A readable name of an id: "text 17", "eos", "size 8", "image open", "image code 5 of level 0"."""
        if not 0 <= token < self.size:
            return f"id {token}, which is not in this vocabulary of {self.size}"
        block = self.blocks[self.lookup.block[token]]
        code = int(self.lookup.code[token])
        match block.kind:
            case "text":
                return f"{'text' if self.is_text(token) else 'control'} {code}"
            case "special":
                return SPECIALS[code]
            case "sizes":
                return f"size {code}"
            case "control":
                return f"{block.modality} {('open', 'close')[code]}"
            case _:
                return f"{block.modality} code {code} of level {block.level}"

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that says which id means what."""
        return hashlib.sha256(json.dumps(self._described(), sort_keys=True).encode()).hexdigest()[:16]

    def check(self, fingerprints: Mapping[str, str]) -> None:
        """Raise MismatchError if a tokenizer is not the one this vocabulary was made with.

        Args:
            fingerprints: "text" or a modality -> the fingerprint of the tokenizer about to be used.
        """
        for name, found in fingerprints.items():
            made_with = self.text_fingerprint if name == TEXT else self.modality(name).fingerprint
            if found != made_with:
                raise MismatchError(
                    f"the {name} tokenizer has fingerprint {found}, but the vocabulary was made with {made_with}; "
                    f"use that tokenizer, or tokenize and train again with this one"
                )

    def require(self, fingerprint: str, what: str) -> None:
        """Raise MismatchError if `what` (a shard, a checkpoint) was made with another vocabulary."""
        if fingerprint != self.fingerprint:
            raise MismatchError(
                f"{what} was made with vocabulary {fingerprint}, but this is vocabulary {self.fingerprint}; "
                f"make it again, or load the vocabulary it was made with"
            )

    def save(self, path: str | Path) -> None:
        """Write vocabulary.json (or the file that `path` names), atomically."""
        blocks = [asdict(block) for block in self.blocks]  # for readers; `load` derives them again and compares
        write_json(_file(path), {**self._described(), "blocks": blocks, "fingerprint": self.fingerprint})

    @staticmethod
    def load(path: str | Path, fingerprints: Mapping[str, str] | None = None) -> "Vocabulary":
        """Read what `save` wrote; with `fingerprints`, `check` them too.

        Raises:
            AnyglotError: no file there, or not a vocabulary.
            MismatchError: another format or grammar version, an altered file, or another tokenizer.
        """
        file = _file(path)
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
            version = (value["format"], value["grammar"])
            if version != (FORMAT, GRAMMAR_VERSION):
                raise MismatchError(
                    f"{file}: format and grammar {version[0]}.{version[1]}, this version reads "
                    f"{FORMAT}.{GRAMMAR_VERSION}; use the anyglot that wrote it, or tokenize and train again"
                )
            modalities = tuple(
                Modality(CodeSpec.from_json(m["spec"]), m["fingerprint"], m["stream"], m.get("factors", 1))
                for m in value["modalities"]
            )
            text = value["text"]
            marks = Marks.from_json(text["marks"]) if "marks" in text else None
            vocabulary = Vocabulary(text["size"], text["fingerprint"], value["max_size"], modalities, marks)
            unaltered = value["fingerprint"] == vocabulary.fingerprint and value["blocks"] == [
                asdict(block) for block in vocabulary.blocks
            ]
        except FileNotFoundError as error:
            raise AnyglotError(f"{file}: no vocabulary here; check the path") from error
        except (ValueError, KeyError, TypeError) as error:
            raise AnyglotError(f"{file}: not a vocabulary ({type(error).__name__}: {error}); restore it") from error
        if not unaltered:
            raise MismatchError(
                f"{file}: altered since it was written: it says fingerprint {value['fingerprint']}, its content gives "
                f"{vocabulary.fingerprint}; restore it"
            )
        vocabulary.check(fingerprints or {})
        return vocabulary

    def _described(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "grammar": GRAMMAR_VERSION,
            "text": {
                "size": self.text_size,
                "fingerprint": self.text_fingerprint,
                **({"marks": self.marks.to_json()} if self.marks else {}),
            },
            "specials": list(SPECIALS),
            "max_size": self.max_size,
            "modalities": [
                {
                    "spec": m.spec.to_json() | {"rate": float(m.spec.rate)},
                    "fingerprint": m.fingerprint,
                    "stream": m.stream,
                    **({"factors": m.factors} if m.factors > 1 else {}),
                }
                for m in self.modalities  # 50 and 50.0 are one rate, but not one JSON
            ],
        }


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path / FILE if path.suffix != ".json" else path
