"""What a model answered when it was asked, and whether that is right."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from anyglot.data.documents import Document, Part
from anyglot.eval.scores import Score
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


def share_right(answers: Sequence[Answer]) -> Score:
    """The share of the answers that were marked right."""
    return mean_of(answers, [bool(answer.right) for answer in answers])


def mean_of(answers: Sequence[Answer], values: Iterable[float], scale: str = "") -> Score:
    """The mean of a value for each answer; of truth values, a share."""
    return Score.mean([answer.document.id for answer in answers], values, scale)
