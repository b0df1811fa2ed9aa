"""Whether what a model wrote is right. Each modality's check is the class `Check` of `anyglot/eval/<modality>.py`."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from anyglot.data.documents import Document
from anyglot.eval.answers import Answer, share_right
from anyglot.eval.documents import text_of
from anyglot.eval.scores import Score
from anyglot.inference.anyglot import Anyglot
from anyglot.lm.vocabulary import TEXT


class Check(Protocol):
    """Says of a modality's answers whether they are right.

    It is made of the modality's tokenizer and the training documents, whose media may be mistaken for the right one.
    """

    def judge(self, answers: Sequence[Answer]) -> dict[str, Score]:
        """Mark each answer right or wrong, with a note; return the figures of all (there is at least one)."""
        ...


class TextCheck:
    """Text must be what the document says, but for blanks around."""

    def judge(self, answers: Sequence[Answer]) -> dict[str, Score]:
        """`exact`: the share of right ones."""
        for answer in answers:
            part = answer.part(TEXT)
            answer.right = part is not None and (part.text or "").strip() == text_of(answer.document).strip()
        return {"exact": share_right(answers)}


class Checks:
    """The checks of all modalities of a model, each made when it is first needed.

    Args:
        training: documents whose media may be mistaken for the right one.
    """

    def __init__(self, model: Anyglot, training: Sequence[Document]) -> None:
        self.tokenizers, self.training = model.tokenizers, training
        self._checks: dict[str, Check] = {TEXT: TextCheck()}

    def judge(self, target: str, answers: Sequence[Answer]) -> dict[str, Score]:
        """Mark each answer right or wrong, and return the figures of all; none for a modality that has no check."""
        if not answers:
            return {}
        if target not in self._checks:
            if find_spec(f"anyglot.eval.{target}") is None:
                return {}
            module: Any = import_module(f"anyglot.eval.{target}")
            self._checks[target] = module.Check(self.tokenizers[target], self.training)
        return self._checks[target].judge(answers)
