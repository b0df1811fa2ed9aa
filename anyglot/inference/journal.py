"""What a command has answered so far: a line for each answer, so that the same command goes on where it stopped."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anyglot.data.documents import Message
from anyglot.errors import AnyglotError
from anyglot.files import write_text
from anyglot.lm.vocabulary import TEXT


class Journal:
    """The answers to numbered questions, in a file of JSON lines whose first is the settings that they were made with.

    Args:
        path: the file. settings: fit for JSON.
    Raises:
        AnyglotError: the file holds answers that were made with other settings, or is no journal.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.answers: dict[int, dict[str, Any]] = {}  # number of the question -> its answer
        self._digests: dict[int, str] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if lines:
            self._check(lines[0], settings)
        kept = [json.dumps(settings, ensure_ascii=False)]
        for line in lines[1:]:
            try:
                number, digest, answer = json.loads(line)
            except ValueError:  # torn by a kill: what it was of is asked again
                continue
            self.answers[number], self._digests[number] = answer, digest
            kept.append(line)
        write_text(path, "".join(f"{line}\n" for line in kept))

    def has(self, number: int, question: Sequence[Message]) -> bool:
        """Whether this question was answered. The answer to another one of this number is forgotten."""
        if self._digests.get(number) == _digest(question):
            return True
        self.answers.pop(number, None)
        return False

    def keep(self, number: int, question: Sequence[Message], answer: dict[str, Any]) -> None:
        """Write an answer down, whole or not at all."""
        self.answers[number], self._digests[number] = answer, _digest(question)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([number, self._digests[number], answer], ensure_ascii=False) + "\n")

    def _check(self, line: str, settings: Mapping[str, Any]) -> None:
        mend = "give another --out, or delete it"
        try:
            before = dict(json.loads(line))
        except (ValueError, TypeError) as error:
            raise AnyglotError(f"{self.path}: damaged; {mend}") from error
        for key in sorted(before.keys() | settings.keys()):
            one, other = before.get(key), settings.get(key)
            if one != other:
                raise AnyglotError(f"{self.path}: holds answers of {key} {one!r}, not of {other!r}; {mend}")


def _digest(question: Sequence[Message]) -> str:
    """Equal for questions that say the same; a file counts by its path."""
    said: list[object] = []
    for message in question:
        said.append(message.role)
        for part in message.parts:
            codes = None if part.codes is None else part.codes.tolist()
            said.append([part.type, part.text, codes, None if part.type == TEXT or codes else part.key])
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
