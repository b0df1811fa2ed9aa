"""The control ids of a pretrained language model: what it has around documents and around the turns of a chat.

They belong to its text tokenizer, but no text becomes them: they are only ever added as integers.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from anyglot.errors import AnyglotError, ConfigError

RUNS = ("bos", "eos", "system", "user", "assistant", "end_of_turn")
PROBES = {"system": "Alpha", "user": "Bravo", "assistant": "Charlie"}  # words that no template has


@dataclass(frozen=True)
class Marks:
    """Runs of a text tokenizer's ids that mark documents and turns. Each begins with a reserved id.

    bos, eos: around a plain document; eos also ends a chat. system, user, assistant: begin a turn, such as those of
    "<|im_start|>user\\n". end_of_turn: ends one. bos_in_chats: whether a chat begins with bos before its first turn.
    reserved: ids of the tokenizer that no text ever becomes.
    """

    bos: tuple[int, ...]
    eos: tuple[int, ...]
    system: tuple[int, ...]
    user: tuple[int, ...]
    assistant: tuple[int, ...]
    end_of_turn: tuple[int, ...]
    bos_in_chats: bool
    reserved: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in RUNS:
            run = getattr(self, name)
            if not run or run[0] not in self.reserved:
                raise AnyglotError(
                    f"the ids of {name} are {list(run)}; they must begin with one of the control ids, which text never "
                    f"becomes: {_few(self.reserved)}"
                )
        beginnings = ("system", "user", "assistant", "eos" if self.bos_in_chats else "bos")
        for names in (beginnings, (*beginnings[:3], "eos")):
            for one, other in permutations(names, 2):
                run = getattr(self, one)
                if getattr(self, other)[: len(run)] == run:
                    raise AnyglotError(f"the marks {one} and {other} cannot be told apart: both begin with {list(run)}")

    @property
    def ids(self) -> set[int]:
        """Every id that is in a mark or reserved."""
        return {*self.reserved, *(token for name in RUNS for token in getattr(self, name))}

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Marks":
        """The inverse of `to_json`. Raises TypeError for other keys."""
        fields: dict[str, Any] = {k: tuple(item) if isinstance(item, list) else item for k, item in value.items()}
        return Marks(**fields)


def chat_marks(directory: str | Path, document: Sequence[str], reserved: Collection[int]) -> Marks:
    """The marks of a Hugging Face tokenizer directory, its turns as its own chat template writes them.

    Args:
        document: the tokens that begin and end a plain document, such as ("<|endoftext|>", "<|endoftext|>").
        reserved: ids that text never becomes.
    Raises:
        ConfigError: no such token, or a template that does not put each message between two fixed runs of ids.
    """
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    known = tokenizer.get_vocab()
    for token in document:
        if known.get(token) not in reserved:
            names = [name for name, number in sorted(known.items(), key=lambda item: item[1]) if number in reserved]
            raise ConfigError(f"document: {token!r} is not among the control tokens of {directory}: {_few(names)}")
    if not tokenizer.chat_template:
        raise ConfigError(f"{directory}: its tokenizer has no chat template, so that the marks of turns are not known")
    begin, opening, end = _turn_marks(tokenizer, document[0], directory)

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False).input_ids)

    return Marks(
        bos=(known[document[0]],),
        eos=(known[document[1]],),
        system=ids(opening["system"]),
        user=ids(opening["user"]),
        assistant=ids(opening["assistant"]),
        end_of_turn=ids(end),
        bos_in_chats=bool(begin),
        reserved=tuple(sorted(reserved)),
    )


def _turn_marks(tokenizer: Any, bos: str, directory: str | Path) -> tuple[str, dict[str, str], str]:
    """What a chat begins with, what opens a turn of each role, and what ends it, read off a rendered chat."""
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": role, "content": PROBES[role]} for role in roles]
    pieces = re.split("|".join(PROBES.values()), tokenizer.apply_chat_template(messages, tokenize=False))
    end = pieces[-1]
    opening = {role: piece.removeprefix(end) for role, piece in zip(roles[1:], pieces[1:-1], strict=False)}
    opening["system"] = opening.get("user", "").replace("user", "system")
    begin = pieces[0].removesuffix(opening["system"])
    wanted = [begin + opening["system"], *(end + opening[role] for role in roles[1:] if role in opening), end]
    if not end or pieces != wanted or begin not in ("", bos) or "" in opening.values():
        raise ConfigError(
            f"{directory}: its chat template does not put every message between two fixed marks, or begins a chat with "
            f"something other than {bos!r} or nothing; leave `document` empty, and turns get marks of our own"
        )
    return begin, opening, end


def _few(items: Collection[Any]) -> str:
    shown = list(items)[:12]
    return ", ".join(map(str, shown)) + (", ..." if len(items) > len(shown) else "")
