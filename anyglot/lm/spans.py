"""What a token stream is made of, as the language model sees it: turns of spans of codes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from anyglot.lm.vocabulary import TEXT


@dataclass(eq=False)
class Span:
    """One run of one modality.

    codes: for text its ids, int `[n]`; else int `[*grid, levels]`. loss: whether a model is to learn to write it.
    """

    modality: str
    codes: np.ndarray
    loss: bool = True

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Span)
            and (self.modality, self.loss) == (other.modality, other.loss)
            and np.array_equal(self.codes, other.codes)
        )

    __hash__ = None  # type: ignore[assignment]  # holds an array


@dataclass
class Turn:
    """Who says what. role: "system", "user" or "assistant"; None in a plain document, which is one such turn."""

    role: str | None
    spans: list[Span] = field(default_factory=list)


class SpanRange(NamedTuple):
    """Where a span lies in the ids of a document: with its opener, header and closer."""

    modality: str
    start: int
    length: int


@dataclass(eq=False)
class Serialised:
    """A document as ids.

    ids: int32 `[n]`, from bos to eos. loss: bool `[n]`, whether a model learns to predict this very id.
    spans: where each span lies, in order; packing never cuts inside one that is not text.
    """

    ids: np.ndarray
    loss: np.ndarray
    spans: list[SpanRange]


def normalise(turns: Sequence[Turn]) -> list[Turn]:
    """The document as reading its ids gives it back: the normal form.

    Adjacent text spans are one span, a text span without ids is none, a document without turns is one plain
    turn without spans, codes are int64, and every span has `loss` (ids do not tell; loss flags lie beside them).
    """
    return [Turn(turn.role, _merged(turn.spans)) for turn in turns] or [Turn(None)]


def _merged(spans: Sequence[Span]) -> list[Span]:
    merged: list[Span] = []
    for span in spans:
        codes = np.asarray(span.codes, dtype=np.int64)
        if span.modality != TEXT:
            merged.append(Span(span.modality, codes))
        elif not codes.size:
            continue
        elif merged and merged[-1].modality == TEXT:
            merged[-1] = Span(TEXT, np.concatenate([merged[-1].codes, codes]))
        else:
            merged.append(Span(TEXT, codes))
    return merged
