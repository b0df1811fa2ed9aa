"""What one record of a data set means: six schemas that people already have, each made into a Document."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anyglot.data.documents import (
    MODALITY,
    ROLES,
    Document,
    DocumentError,
    Message,
    Part,
    Resolver,
    medium,
    parse_message,
    parse_part,
    with_loss,
)
from anyglot.data.preferences import Pair, parse_pair

PLACEHOLDER = re.compile(r"\n?<\|?(image|video|audio|speech)\|?>\n?")
MEDIA_KEYS = {"image": "image", "images": "image", "video": "video", "videos": "video"}
MEDIA_KEYS |= {"audio": "speech", "audios": "speech", "speech": "speech"}
SPEAKERS = {**ROLES, "human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant"}
TEXT_KEYS = ("text", "caption")


def parse_record(record: Any, resolve: Resolver, where: str, schema: str = "auto") -> Document:
    """Make a Document of a record.

    Args:
        record: `{"parts"}`, `{"messages"}`, LLaVA/ShareGPT `{"conversations", "image"}`, OBELICS
            `{"images", "texts"}`, a preference `{"prompt", "chosen", "rejected"}`, or plain columns such as
            `{"text", "image"}`; `id` and `split` beside them.
        resolve: what a relative reference means.
        where: file and line, row or sample; it is also the document's id where the record has none.
        schema: a name of SCHEMAS, or "auto": recognised by its keys.
    Raises:
        DocumentError: what is wrong with the record.
    """
    if not isinstance(record, Mapping):
        raise DocumentError(f"expected an object, found {type(record).__name__}")
    given = {key: value for key, value in record.items() if value is not None}
    found = SCHEMAS[recognise(given) if schema == "auto" else schema](given, resolve)
    turns, rejected = found if isinstance(found, Pair) else (found, [])
    turns, rejected = ([turn for turn in some if turn.parts] for some in (turns, rejected))
    if not turns:
        raise DocumentError("the document has no parts")
    split = given.get("split")
    return Document(str(given.get("id", where)), turns, None if split is None else str(split), where, rejected)


def recognise(record: Mapping[str, Any]) -> str:
    """The schema whose keys `record` has. Raises DocumentError that lists what would have been known."""
    if "chosen" in record and "rejected" in record:
        return "preference"
    for name in ("parts", "messages", "conversations"):
        if name in record:
            return name
    if "images" in record and "texts" in record:
        return "interleaved"
    if any(key in TEXT_KEYS or key in MODALITY for key in record):
        return "columns"
    known = "parts, messages, conversations, chosen with rejected, images with texts, or columns named text, image, ..."
    raise DocumentError(f"keys {', '.join(map(str, record)) or '(none)'} are no known kind of document; known: {known}")


def _parts(record: Mapping[str, Any], resolve: Resolver) -> list[Message]:
    return [Message(None, [parse_part(part, resolve) for part in _list(record, "parts")])]


def _messages(record: Mapping[str, Any], resolve: Resolver) -> list[Message]:
    """Chat messages. Media may stand in their own columns, claimed by `<image>` or by parts without content."""
    supply = _Supply(record, resolve)
    turns = _said(_list(record, "messages"), supply, resolve)
    supply.finish()
    return turns


def _said(messages: Sequence[Any], supply: "_Supply", resolve: Resolver) -> list[Message]:
    """Messages, the media of whose placeholders and bare parts come from `supply`, if it has any."""
    if supply.empty:
        return [parse_message(message, resolve) for message in messages]
    turns = []
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, str):
            turns.append(Message(_role(message, "role"), with_loss(message, supply.split(content))))
        elif isinstance(content, list):
            bare = [isinstance(item, Mapping) and sum(v is not None for v in item.values()) == 1 for item in content]
            parts = [
                supply.take(MODALITY.get(str(item["type"]), str(item["type"])))
                if alone and "type" in item
                else parse_part(item, resolve)
                for item, alone in zip(content, bare, strict=True)
            ]
            turns.append(Message(_role(message, "role"), with_loss(message, parts)))
        else:
            turns.append(parse_message(message, resolve))
    return turns


def _conversations(record: Mapping[str, Any], resolve: Resolver) -> list[Message]:
    """LLaVA and ShareGPT: `from`/`value` turns; each placeholder, in any turn, stands for the next medium."""
    supply = _Supply(record, resolve)
    turns = []
    for turn in _list(record, "conversations"):
        if not isinstance(turn, Mapping) or not isinstance(turn.get("value", turn.get("content")), str):
            raise DocumentError("every turn of 'conversations' needs 'from' and a string 'value'")
        role = _role(turn, "from" if "from" in turn else "role")
        turns.append(Message(role, supply.split(turn.get("value", turn.get("content")))))
    supply.finish()
    return turns


def _interleaved(record: Mapping[str, Any], resolve: Resolver) -> list[Message]:
    """OBELICS: lists of equal length, exactly one of image and text at each position."""
    images, texts = _list(record, "images"), _list(record, "texts")
    if len(images) != len(texts):
        raise DocumentError(f"{len(images)} images but {len(texts)} texts; the lists must be of equal length")
    parts = []
    for position, (image, text) in enumerate(zip(images, texts, strict=True)):
        if (image is None) == (text is None):
            raise DocumentError(f"position {position}: exactly one of image and text must be given")
        parts.append(Part("text", text=str(text)) if image is None else medium("image", image, resolve))
    return [Message(None, parts)]


def _columns(record: Mapping[str, Any], resolve: Resolver) -> list[Message]:
    """Aligned columns in the record's own order: `{"text": ..., "image": ...}`; a list gives several parts."""
    parts = []
    for key, value in record.items():
        modality = "text" if key in TEXT_KEYS else MEDIA_KEYS.get(key, MODALITY.get(key))
        if modality is None:
            continue  # metadata
        for item in value if isinstance(value, list) else [value]:
            if modality == "text" and not isinstance(item, str):
                raise DocumentError(f"{key!r} must be a string, not {type(item).__name__}")
            parts.append(Part("text", text=item) if modality == "text" else medium(modality, item, resolve))
    return [Message(None, parts)]


def _preference(record: Mapping[str, Any], resolve: Resolver) -> Pair:
    """Two answers to one prompt. Their media may stand in their own columns, as those of messages."""
    for key in ("chosen", "rejected"):
        if key not in record:
            raise DocumentError(f"a preference needs {key!r}")
    supply = _Supply(record, resolve)
    pair = parse_pair(record, lambda messages: _said(messages, supply, resolve), resolve)
    supply.finish()
    return pair


SCHEMAS: dict[str, Callable[[Mapping[str, Any], Resolver], list[Message] | Pair]] = {
    "parts": _parts,
    "messages": _messages,
    "conversations": _conversations,
    "interleaved": _interleaved,
    "columns": _columns,
    "preference": _preference,
}


class _Supply:
    """The media columns of a record, handed out in order, and the account of them."""

    def __init__(self, record: Mapping[str, Any], resolve: Resolver) -> None:
        self.left: dict[str, list[Part]] = {}
        for key, modality in MEDIA_KEYS.items():
            value = record.get(key, [])
            items = value if isinstance(value, list) else [value]
            if items:
                parts = [medium(modality, item, resolve) for item in items]
                self.left.setdefault(modality, []).extend(parts)
        self.given = {modality: len(parts) for modality, parts in self.left.items()}
        self.asked: dict[str, int] = {}

    @property
    def empty(self) -> bool:
        return not self.given

    def take(self, modality: str) -> Part:
        self.asked[modality] = self.asked.get(modality, 0) + 1
        parts = self.left.get(modality)
        return parts.pop(0) if parts else Part(modality)  # `finish` refuses the document with the whole count

    def split(self, text: str) -> list[Part]:
        """Text with placeholders, as parts. One newline on either side of a placeholder belongs to it."""
        pieces = PLACEHOLDER.split(text)  # text, modality, text, modality, ..., text
        parts = []
        for index, piece in enumerate(pieces):
            if index % 2:
                parts.append(self.take(MODALITY[piece]))
            elif piece:
                parts.append(Part("text", text=piece))
        return parts

    def finish(self) -> None:
        for modality in {**self.given, **self.asked}:
            asked, given = self.asked.get(modality, 0), self.given.get(modality, 0)
            if asked != given:
                raise DocumentError(f"{asked} {modality} placeholder(s) but {given} {modality} file(s)")


def _list(record: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = record.get(key)
    if not isinstance(value, list):
        raise DocumentError(f"{key!r} must be a list, not {type(value).__name__}")
    return value


def _role(turn: Mapping[str, Any], key: str) -> str:
    role = SPEAKERS.get(str(turn.get(key)))
    if role is None:
        raise DocumentError(f"speaker {turn.get(key)!r} under {key!r} is not one of {', '.join(SPEAKERS)}")
    return role
