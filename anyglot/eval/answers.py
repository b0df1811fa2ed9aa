"""What a model answered when it was asked, and whether that is right."""

from collections.abc import Sequence
from dataclasses import dataclass

from anyglot.data.documents import Document, Part
from anyglot.inference.anyglot import Reply


@dataclass
class Answer:
    """One generation: what was asked with, and what came. A modality's `Check` says whether it is right, and a note."""

    document: Document
    reply: Reply
    right: bool | None = None
    note: str = ""

    def part(self, modality: str) -> Part | None:
        """The part of a modality that was written and could be decoded, if any."""
        written = (part for part in self.reply.parts if part.type == modality)
        return next((part for part in written if part.data is not None or part.text is not None), None)


def share_right(answers: Sequence[Answer]) -> float:
    """How many of the answers were marked right, 0 to 1."""
    return sum(bool(answer.right) for answer in answers) / len(answers)
