"""Parts and documents: content as users write it (Hugging Face blocks, OpenAI parts, our codes), normalised."""

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anyglot.errors import AnyglotError
from anyglot.tokenizers.registered import registered

MODALITY = {  # the names that content parts give their types -> our modality
    "text": "text", "input_text": "text", "output_text": "text",
    "image": "image", "image_url": "image", "input_image": "image",
    "speech": "speech", "audio": "speech", "audio_url": "speech", "input_audio": "speech",
    "video": "video", "video_url": "video", "input_video": "video",
    "motion": "motion", "action": "action", "graph": "graph", "item": "item",
}  # fmt: skip
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

Resolver = Callable[[str], Path | bytes]
"""What a relative reference in a record means: a file, or bytes that came with the record."""


class DocumentError(AnyglotError):
    """A record is not a document: which key is wrong, and what was expected."""


@dataclass
class Part:
    """One piece of content: `text`, or one of `path`, `data`, `codes`.

    type: "text" or a modality. data: a file's bytes, or a medium in memory (see ModalityTokenizer).
    codes: int64 `[*grid, levels]`, made by the tokenizer whose fingerprint is `tokenizer` ("" = not stated).
    loss: whether the language model learns to write it; None leaves it to the role.
    """

    type: str
    text: str | None = None
    path: Path | None = None
    data: Any = None
    codes: np.ndarray | None = None
    tokenizer: str = ""
    loss: bool | None = None

    @property
    def in_memory(self) -> bool:
        """Whether `data` is the medium itself."""
        return self.data is not None and not isinstance(self.data, bytes)

    @cached_property
    def key(self) -> str:
        """Equal for two parts that hold the same file or the same bytes, or array, or object."""
        if self.path is not None:
            return f"{self.type}:{self.path}"
        if self.in_memory and not isinstance(self.data, np.ndarray):
            return f"{self.type}:object:{id(self.data)}"
        content = self.data if isinstance(self.data, bytes) else np.ascontiguousarray(self.data).tobytes()
        return f"{self.type}:sha256:{hashlib.sha256(content).hexdigest()}"


class Message(NamedTuple):
    """The parts that one speaker says. role: "system", "user", "assistant", or None in a plain document."""

    role: str | None
    parts: list[Part]

    def learned(self, part: Part) -> bool:
        """Whether `part` bears loss: as it says itself, else what the assistant or a plain document says."""
        return part.loss if part.loss is not None else self.role in (None, "assistant")


@dataclass
class Document:
    """An ordered list of parts: a plain document is one message without a role, a chat has several with roles.

    where: file and line, row or sample that it comes from, for messages about it. rejected: of a preference, whose
    `turns` are what was chosen, what was rejected.
    """

    id: str
    turns: list[Message] = field(default_factory=list)
    split: str | None = None
    where: str = ""
    rejected: list[Message] = field(default_factory=list)


def files_below(folder: Path) -> Resolver:
    """References are paths, relative ones below `folder`."""
    return lambda reference: folder / reference


def no_files(reference: str) -> Path:
    """References are refused: for content that comes from strangers."""
    raise DocumentError(f"{reference[:80]!r}: files cannot be named here; send the content as a data: URL or base64")


def parse_message(value: Any, resolve: Resolver) -> Message:
    """A chat message `{"role": ..., "content": str | [parts]}`. Raises DocumentError."""
    if not isinstance(value, Mapping) or value.get("role") not in ROLES:
        role = value.get("role") if isinstance(value, Mapping) else value
        raise DocumentError(f"message role {role!r} is not one of {', '.join(ROLES)}")
    content = value.get("content")
    if isinstance(content, str):
        parts = [Part("text", text=content)]
    elif isinstance(content, list):
        parts = [parse_part(item, resolve) for item in content]
    else:
        raise DocumentError(f"message content must be a string or a list of parts, not {type(content).__name__}")
    return Message(ROLES[value["role"]], with_loss(value, parts))


def with_loss(message: Mapping[str, Any], parts: list[Part]) -> list[Part]:
    """The parts of a message, with its `loss` where they have none of their own."""
    if isinstance(message.get("loss"), bool):
        for part in parts:
            part.loss = message["loss"] if part.loss is None else part.loss
    return parts


def parse_part(value: Any, resolve: Resolver) -> Part:
    """One content part: a Hugging Face block, an OpenAI part, or one with our `codes`.

    Args:
        value: `{"type": "text", "text": ...}`, or a medium with exactly one of the keys path, url (data: only),
            base64, bytes, codes, content (what its file would hold, where that is text: a molecule's SMILES), or the
            type's own name (`{"type": "image", "image": ...}`), or OpenAI's `image_url` / `input_audio` objects.
            Keys whose value is None are absent (Parquet fills them in).
        resolve: what a relative reference means.
    Raises:
        DocumentError: an unknown type, no content or two, a remote URL, bad base64.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
        raise DocumentError(f"a part must be an object with a 'type', not {str(value)[:60]!r}")
    kind, given = value["type"], {key: item for key, item in value.items() if item is not None}
    known = MODALITY | {name: name for name in registered()}
    if kind not in known:
        raise DocumentError(f"unknown part type {kind!r}; known: {', '.join(known)}")
    modality, loss = known[kind], given.get("loss")
    if loss is not None and not isinstance(loss, bool):
        raise DocumentError(f"part key 'loss' must be true or false, not {loss!r}")
    if modality == "text":
        if not isinstance(given.get("text"), str):
            raise DocumentError("a text part needs a string under 'text'")
        return Part("text", text=given["text"], loss=loss)
    carriers = {
        "path",
        "url",
        "base64",
        "bytes",
        "codes",
        "content",
        *(name for name, m in known.items() if m == modality),
    }
    present = [key for key in given if key in carriers]
    if len(present) != 1:
        raise DocumentError(
            f"a part of type {kind!r} needs exactly one of path, url, base64, bytes, codes, content or {modality!r}, "
            f"found {', '.join(present) or 'none'}"
        )
    carrier, content = present[0], given[present[0]]
    part = _codes(modality, content, given) if carrier == "codes" else _medium(modality, carrier, content, resolve)
    part.loss = loss
    return part


def medium(modality: str, content: Any, resolve: Resolver) -> Part:
    """A medium given without an enclosing part: a path or data: URL, bytes, an array, or `{"bytes", "path"}`."""
    return _medium(modality, modality, content, resolve)


def _medium(modality: str, carrier: str, content: Any, resolve: Resolver) -> Part:
    if isinstance(content, Mapping):  # OpenAI's {"url"} and {"data", "format"}; datasets' {"bytes", "path"}
        for key in ("bytes", "url", "data", "path"):
            if content.get(key) is not None:
                return _medium(modality, "base64" if key == "data" else key, content[key], resolve)
        raise DocumentError(f"{modality}: nothing under 'bytes', 'url', 'data' or 'path'")
    if isinstance(content, bytes | np.ndarray):
        return Part(modality, data=content)
    if not isinstance(content, str):
        raise DocumentError(f"{modality}: {carrier!r} must be a string, not {type(content).__name__}")
    if carrier == "base64":
        return Part(modality, data=_base64(modality, content))
    if carrier == "content":
        try:
            return Part(modality, data=content.encode())
        except UnicodeEncodeError as error:
            raise DocumentError(
                f"{modality}: 'content' holds a lone surrogate (half a character) at character {error.start}"
            ) from error
    scheme = content.split(":", 1)[0].lower() if ":" in content[:12] else ""
    if scheme == "data":
        header, _, payload = content.partition(",")
        if not header.endswith(";base64"):
            raise DocumentError(f"{modality}: a data: URL must be base64, not {header[:60]!r}")
        return Part(modality, data=_base64(modality, payload))
    if scheme in ("http", "https", "ftp", "file", "s3", "gs"):
        raise DocumentError(f"{modality}: remote URL {content[:100]!r} is not fetched; download it and give its path")
    if carrier == "bytes":
        raise DocumentError(f"{modality}: 'bytes' must be bytes; give text under 'base64'")
    found = resolve(content)
    return Part(modality, data=found) if isinstance(found, bytes) else Part(modality, path=found)


def _codes(modality: str, content: Any, given: Mapping[str, Any]) -> Part:
    try:
        codes = np.array(content)
    except ValueError as error:
        raise DocumentError(f"{modality}: 'codes' must be one rectangular array [*grid, levels]") from error
    if codes.dtype.kind not in "iu" or codes.ndim == 0:
        raise DocumentError(f"{modality}: 'codes' must be an array [*grid, levels] of whole numbers")
    return Part(modality, codes=codes.astype(np.int64), tokenizer=str(given.get("tokenizer", "")))


def _base64(modality: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DocumentError(f"{modality}: not valid base64 ({error})") from error
