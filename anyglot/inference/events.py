"""What a model writes, as events while it is written: text by whole characters, media by chunks where they can be had.

`index` counts the parts of a reply: a run of text is one, a medium is one. `parts_of` puts events together again.
"""

import codecs
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from anyglot.data.documents import Part
from anyglot.errors import MediaError
from anyglot.lm import parser
from anyglot.lm.automaton import Rules
from anyglot.lm.spans import Span
from anyglot.lm.streams import Frames, unfactor
from anyglot.lm.vocabulary import TEXT
from anyglot.tokenizers.base import Medium, ModalityTokenizer, StreamingDecoder

if TYPE_CHECKING:
    from anyglot.inference.anyglot import Anyglot

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextDelta:
    """More text; never a part of a character."""

    text: str


@dataclass(frozen=True)
class SpanStart:
    """A medium begins. grid: lengths of its code's axes, 0 for one that is known only at its end."""

    index: int
    modality: str
    grid: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class MediaChunk:
    """More of a medium that is being written: float32 `[samples]` of a sound, uint8 `[frames, height, width, 3]` of a
    film. rate: samples or frames a second."""

    index: int
    modality: str
    data: np.ndarray
    rate: float


@dataclass(frozen=True, eq=False)
class MediaReady:
    """A medium is whole: `data` (all chunks joined, if there were any; None where the codes stand for nothing), and
    `codes`."""

    index: int
    part: Part


@dataclass(frozen=True)
class Finish:
    """Nothing follows. reason: "stop", "length" or "cancelled"; the tokens count ids."""

    reason: str
    prompt_tokens: int
    written_tokens: int


Event = TextDelta | SpanStart | MediaChunk | MediaReady | Finish


def parts_of(events: Iterable[Event]) -> list[Part]:
    """The parts that events told of."""
    parts: list[Part] = []
    for event in events:
        _join(parts, event)
    return parts


class EventStream:
    """The events of one reply, fed with the ids after its prompt, one or many at a time.

    parts: what has been written so far: media that are whole, and text up to its last whole character.

    Args:
        model: gives the grammar, and decodes. prompt: ids from bos on; media in it are not decoded.
    Raises:
        GrammarError: the prompt is not a document's start.
    """

    def __init__(self, model: "Anyglot", prompt: Sequence[int]) -> None:
        self.parts: list[Part] = []
        self._model = model
        self._parser = parser.Parser(model.grammar)
        self._prompt_tokens, self._written_tokens = len(prompt), 0
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._chunks: _Chunks | None = None  # of the medium being written, if it can be decoded meanwhile
        self._begun: list[parser.Event] = []  # a span that the prompt begins and the reply ends is of the reply
        for event in self._parser.feed(prompt):
            if isinstance(event, parser.CodeDelta):
                self._begun.append(event)
            else:
                self._begun = [event] if isinstance(event, parser.SpanStart) else []

    def feed(self, ids: Sequence[int]) -> list[Event]:
        """The events of more ids. Raises GrammarError for ids that are no document; it is of no use afterwards."""
        read, self._begun = [*self._begun, *self._parser.feed(ids)], []
        self._written_tokens += len(ids)
        return [self._told(event) for each in read for event in self._of(each)]

    def finish(self, reason: str) -> list[Event]:
        """The last events. What is left of a character becomes U+FFFD; a medium that was cut off is none."""
        rest = [self._told(event) for event in self._text(b"", final=True)]
        return [*rest, Finish(reason, self._prompt_tokens, self._written_tokens)]

    def _told(self, event: Event) -> Event:
        _join(self.parts, event)
        return event

    def _of(self, event: parser.Event) -> Iterator[Event]:
        """The events of one of the parser's; each is told before the next is made, whose index counts it."""
        if isinstance(event, parser.TextDelta):
            yield from self._text(self._model.text.to_bytes(event.ids))
        elif isinstance(event, parser.SpanStart):
            yield from self._text(b"", final=True)
            yield SpanStart(len(self.parts), event.modality, event.grid)
            tokenizer = self._model.tokenizers[event.modality]
            if isinstance(tokenizer, StreamingDecoder):
                rules = self._model.grammar.rules_of(event.modality)
                self._chunks = _Chunks(len(self.parts), tokenizer, rules, event.grid)
        elif isinstance(event, parser.CodeDelta) and self._chunks:
            yield from self._chunks.add(event.levels, event.codes)
        elif isinstance(event, parser.SpanEnd):
            span = event.span
            data: Medium | None
            if self._chunks:
                yield from self._chunks.add((), (), last=True)
                data = np.concatenate(self._chunks.made)
                self._chunks = None
            else:
                data = _decoded(self._model.tokenizers[span.modality], span)
            yield MediaReady(len(self.parts), Part(span.modality, data=data, codes=span.codes))

    def _text(self, data: bytes, final: bool = False) -> Iterator[Event]:
        text = self._utf8.decode(data, final)
        if text:
            yield TextDelta(text)


class _Chunks:
    """What the codes of a medium make of it while they are written. made: its chunks so far."""

    def __init__(self, index: int, tokenizer: StreamingDecoder, rules: Rules, grid: Sequence[int]) -> None:
        self.index, self.tokenizer, self.rules = index, tokenizer, rules
        self.frames = Frames(grid[1:], rules.levels)
        self.state: Any = None
        self.made: list[np.ndarray] = []

    def add(self, levels: Sequence[int], codes: Sequence[int], last: bool = False) -> list[MediaChunk]:
        """Take more codes, as written; give what they make."""
        frames = self.frames.feed(levels, codes)
        if not len(frames) and not last:
            return []
        whole = torch.from_numpy(unfactor(frames, self.rules.spec.levels, self.rules.factors))
        data, self.state = self.tokenizer.decode_chunk(whole, self.state, last)
        self.made.append(data)
        return [MediaChunk(self.index, self.rules.name, data, self.tokenizer.rate)] if len(data) else []


def _join(parts: list[Part], event: Event) -> None:
    """Add to parts what an event tells of them."""
    if isinstance(event, TextDelta):
        said = parts.pop().text if parts and parts[-1].type == TEXT else ""
        parts.append(Part(TEXT, text=f"{said}{event.text}"))
    elif isinstance(event, MediaReady):
        parts.append(event.part)


def _decoded(tokenizer: ModalityTokenizer, span: Span) -> Medium | None:
    """The medium that a span's codes stand for; None, with a warning, where they stand for nothing."""
    try:
        return tokenizer.decode([torch.from_numpy(span.codes)])[0]
    except MediaError as error:
        logger.warning("%s codes that stand for nothing: %s", span.modality, error)
        return None
