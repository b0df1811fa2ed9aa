"""Records of preferences: what was asked, the answer that was chosen, and the one that was rejected."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from anyglot.data.documents import DocumentError, Message, Part, Resolver, parse_part

CHOSEN, REJECTED = "#chosen", "#rejected"  # what the names of the two documents of a pair end with


class Pair(NamedTuple):
    """Two documents that begin alike. Only what they do not share may bear loss."""

    chosen: list[Message]
    rejected: list[Message]


def parse_pair(
    record: Mapping[str, Any], parse_messages: Callable[[Sequence[Any]], list[Message]], resolve: Resolver
) -> Pair:
    """A record of a preference, as `trl` and most data sets have it.

    Args:
        record: `chosen` and `rejected`, each a list of messages, or a string or list of parts for a plain document.
            `prompt`, of the same kind, stands before both; without it they begin alike, as whole conversations. It is
            also not needed, and not read, where lists of messages do not begin with the assistant.
        parse_messages: what messages mean; it is called for those of the prompt, the chosen and the rejected answer.
    Raises:
        DocumentError: answers of different kinds, answers that are the same or empty, or what `parse_message` raises.
    """
    chosen, rejected, prompt = record["chosen"], record["rejected"], record.get("prompt")
    kinds = {_kind(name, record[name]) for name in ("chosen", "rejected")}
    if len(kinds) > 1:
        raise DocumentError("'chosen' and 'rejected' must be of one kind: both messages, or both strings or parts")
    if chosen == rejected:
        raise DocumentError("'chosen' and 'rejected' are the same")
    if kinds == {"parts"}:
        asked = [] if prompt is None else _parts(prompt, resolve)
        for part in asked:
            part.loss = False
        return Pair(
            [Message(None, asked + _parts(chosen, resolve))], [Message(None, asked + _parts(rejected, resolve))]
        )
    if chosen[0].get("role") == "assistant" and prompt is not None:
        before = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        chosen, rejected = [*before, *chosen], [*before, *rejected]
        shared = len(before)
    else:
        shared = _alike(chosen, rejected)
        if not shared:
            raise DocumentError("'chosen' and 'rejected' begin with different messages, and there is no 'prompt'")
        if shared == min(len(chosen), len(rejected)):
            raise DocumentError("one of 'chosen' and 'rejected' is only the beginning of the other")
    asked_messages = parse_messages(chosen[:shared])
    for part in (part for message in asked_messages for part in message.parts):
        part.loss = False
    return Pair(*([*asked_messages, *parse_messages(answer[shared:])] for answer in (chosen, rejected)))


def _alike(first: list[Any], second: list[Any]) -> int:
    """With how many equal messages both begin."""
    differ = (index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(differ, min(len(first), len(second)))


def _kind(name: str, value: Any) -> str:
    """Whether an answer is "messages" or the "parts" of a plain document."""
    if isinstance(value, str) and value:
        return "parts"
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return "messages" if "role" in value[0] else "parts"
    raise DocumentError(f"{name!r} must be a string, a list of messages or a list of parts, and not be empty")


def _parts(value: Any, resolve: Resolver) -> list[Part]:
    if isinstance(value, str):
        return [Part("text", text=value)]
    if not isinstance(value, list):
        raise DocumentError(f"'prompt' must be a string or a list of parts, not {type(value).__name__}")
    return [parse_part(item, resolve) for item in value]
