"""The tokenizers under the text tokenizer, each as: how to encode, and which bytes every id spells."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from anyglot.errors import AnyglotError


@dataclass(frozen=True)
class Engine:
    """An underlying tokenizer: `encode` may be inexact; `spelling[id]` are the bytes an id stands for.

    byte_ids: the id of each of the 256 bytes. forbidden: ids that text must never become.
    """

    encode: Callable[[str], list[int]]
    spelling: list[bytes]
    byte_ids: list[int]
    forbidden: frozenset[int]


SPACE = "\u2581"  # how sentencepiece's pieces write a space; as a character of its own it is spelled in bytes


def sentencepiece_engine(model: bytes) -> Engine:
    """Ids are sentencepiece's less one: its piece 0, <unk>, is not among ours."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(i) for i in range(1, processor.get_piece_size())]
    return Engine(
        encode=lambda text: [piece - 1 for piece in processor.encode(text)],
        spelling=[_unescaped(piece) for piece in pieces],
        byte_ids=[processor.piece_to_id(f"<0x{byte:02X}>") - 1 for byte in range(256)],
        forbidden=frozenset({-1}),
    )


def _unescaped(piece: str) -> bytes:
    if re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
        return bytes([int(piece[3:5], 16)])
    return piece.replace(SPACE, " ").encode("utf-8")


def huggingface_engine(model: bytes) -> Engine:
    """Ids are the tokenizer's own. Its added tokens are forbidden, but for runs of whitespace, which are only text.

    Rare bytes that it has no id for, as SmolLM2's has none for 21 of them, get ids behind its own.
    """
    from tokenizers import Tokenizer

    try:
        description = json.loads(model)
        added = {token["id"]: token for token in description["added_tokens"]}
        pieces = description["model"]["vocab"]
        vocabulary = {p: i for i, (p, _) in enumerate(pieces)} if isinstance(pieces, list) else dict(pieces)
        by_bytes = bool(description["model"].get("byte_fallback"))
        unknown = description["model"].get("unk_id", vocabulary.get(description["model"].get("unk_token")))
        tokenizer = Tokenizer.from_str(json.dumps(lossless(description, by_bytes)))
    except Exception as error:  # the Rust library raises plain Exception
        raise AnyglotError(f"not a Hugging Face tokenizer.json ({' '.join(str(error).split())[:200]})") from error
    names = [f"<0x{byte:02X}>" if by_bytes else char for byte, char in enumerate(_byte_characters())]
    missing = [byte for byte, name in enumerate(names) if name not in vocabulary]
    if any(0x20 <= byte < 0x7F for byte in missing):  # no byte-level tokenizer at all
        raise AnyglotError(
            f"has no id for byte 0x{missing[0]:02X} and would lose text; take a byte-level or byte-fallback one"
        )
    own = 1 + max([*vocabulary.values(), *added])
    vocabulary |= {names[byte]: own + number for number, byte in enumerate(missing)}
    byte_ids = [vocabulary[name] for name in names]
    bytes_of = _unescaped if by_bytes else _unmapped
    spelling = [b""] * (own + len(missing))
    for piece, token in vocabulary.items():
        spelling[token] = bytes_of(piece)
    forbidden = {unknown}
    for token in added.keys() - set(byte_ids):  # a byte is a byte, even where its character is also the padding token
        content, special = added[token]["content"], added[token]["special"]
        spelling[token] = b"" if special else content.encode("utf-8")
        if special or not content.isspace():
            forbidden.add(token)
    engine = Engine(
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        spelling=spelling,
        byte_ids=byte_ids,
        forbidden=frozenset(forbidden) - {None},
    )
    for probe in ("Two  words,\nand 3 more.", " x"):
        if b"".join(spelling[token] for token in engine.encode(probe)) != probe.encode():
            raise AnyglotError(f"gives {probe!r} back altered; take a tokenizer that keeps every character")
    return engine


def lossless(description: dict[str, Any], by_bytes: bool) -> dict[str, Any]:
    """A tokenizer.json without what alters text, adds ids to it or recognises tokens inside it."""
    plain = {**description, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    plain["model"] = {**description["model"], "dropout": None} if "dropout" in description["model"] else plain["model"]
    space = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    replaces = any(step == space for step in _steps(description.get("normalizer"), "normalizers"))
    plain["normalizer"] = space if by_bytes and replaces else None
    for step in _steps(plain.get("pre_tokenizer"), "pretokenizers"):
        if step["type"] == "ByteLevel":
            step["add_prefix_space"] = False
        if step["type"] == "Metaspace":
            step["prepend_scheme"] = "never"
    return plain


def _steps(part: dict[str, Any] | None, members: str) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, which is one step or a sequence of them."""
    return list(part.get(members, [part])) if part else []


@cache
def _byte_characters() -> dict[str, int]:
    """The visible character by which byte-level tokenizers write each byte: itself, or one from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return {chr(byte if byte in visible else next(others)): byte for byte in range(256)}


def _unmapped(piece: str) -> bytes:
    """The bytes of a byte-level piece; none if it holds another character, as only control tokens do."""
    byte_of = _byte_characters()
    return bytes([byte_of[char] for char in piece]) if byte_of.keys() >= set(piece) else b""
