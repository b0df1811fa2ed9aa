"""Documents to ids: every medium through its tokenizer once, then the grammar. What fails is reported and left out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from anyglot.data.documents import Document, Message, Part
from anyglot.data.preferences import CHOSEN, REJECTED
from anyglot.data.readers import Problem
from anyglot.errors import AnyglotError
from anyglot.lm.grammar import Grammar, Serialised, Span, Turn
from anyglot.lm.vocabulary import TEXT, Vocabulary

T = TypeVar("T")
WINDOW = 4  # batches of media read ahead, to put like sizes together
Codes = dict[str, "np.ndarray | Problem"]


class Encoder:
    """One tokenizer per modality and the grammar of their vocabulary.

    text: a TextTokenizer. tokenizers: modality -> ModalityTokenizer; all must be those of the vocabulary.
    batch: media per call of a tokenizer. max_document: tokens; longer plain text is cut, 0 never.
    Raises MismatchError if a tokenizer is not the vocabulary's.
    """

    def __init__(
        self, vocabulary: Vocabulary, text: Any, tokenizers: Mapping[str, Any], batch: int = 16, max_document: int = 0
    ) -> None:
        vocabulary.check({TEXT: text.fingerprint} | {name: t.fingerprint for name, t in tokenizers.items()})
        self.vocabulary, self.text, self.tokenizers = vocabulary, text, dict(tokenizers)
        self.grammar, self.batch, self.max_document = Grammar(vocabulary), batch, max_document

    def encode(
        self, documents: Sequence[Document], orders: Sequence[Sequence[str]] = (), drop_bad_parts: bool = False
    ) -> tuple[list[tuple[str, Serialised]], list[Problem]]:
        """Tokenise documents.

        Args:
            orders: what to make of each document, as lists of modalities: its parts in that order. Empty: as it is.
            drop_bad_parts: leave out a bad medium alone, instead of the document it is in.
        Returns:
            (id, tokens) of each document made; and what was left out, each with the reason. An order that names
            a modality that the document lacks is not made. Of a preference, both documents are made, or none.
        """
        variants = [(document, list(_variants(document, orders))) for document in documents]
        different: dict[str, _Medium] = {}
        for document, made in variants:
            for part in (part for _, turns in made for turn in turns for part in turn.parts):
                if part.type != TEXT and part.codes is None:
                    different.setdefault(part.key, _Medium(part, document.where))
        codes = self._codes(different)
        problems = [found for found in codes.values() if isinstance(found, Problem)]
        done: list[tuple[str, Serialised]] = []
        for document, made in variants:
            failed: list[str] = []
            before = len(done)
            if orders and (document.turns[0].role is not None or document.rejected):
                kind = "preference" if document.rejected else "chat"
                failed.append(f"a {kind} has its own order; orders are for plain documents")
                made = []
            for name, turns in made:
                try:
                    pieces = self._cut(
                        [self._turn(turn, codes, drop_bad_parts and not document.rejected) for turn in turns]
                    )
                    if document.rejected and len(pieces) > 1:
                        raise AnyglotError(f"an answer longer than max_document ({self.max_document}) is not cut")
                    serialised = [self.grammar.serialise(piece) for piece in pieces]
                except AnyglotError as error:
                    failed.append(str(error))
                    continue
                done += [(name if not i else f"{name}/{i + 1}", piece) for i, piece in enumerate(serialised)]
            if failed and document.rejected:
                del done[before:]
            if failed:
                reason = failed[0] + (f" (in {len(failed)} of {len(made)} orders)" if made and orders else "")
                problems.append(Problem(document.where, "skipped document", reason))
        return done, problems

    def _codes(self, different: Mapping[str, "_Medium"]) -> Codes:
        """Codes of media, by `Part.key`; a Problem where they cannot be had."""
        codes: Codes = {}
        for modality, tokenizer in self.tokenizers.items():
            of_this = [medium for medium in different.values() if medium.part.type == modality]
            for window in _batches(of_this, self.batch * WINDOW):
                media = [(medium, _read(tokenizer, medium)) for medium in window]
                good = [(medium, found) for medium, found in media if not isinstance(found, Problem)]
                good.sort(key=lambda item: item[1].size if isinstance(item[1], np.ndarray) else len(item[1]))
                codes.update({m.part.key: found for m, found in media if isinstance(found, Problem)})
                for batch in _batches(good, self.batch):
                    codes.update(_encode_batch(tokenizer, batch))
        return codes

    def _turn(self, message: Message, codes: Codes, drop_bad_parts: bool) -> Turn:
        """A message with its parts as codes. Raises AnyglotError for the first part that has none."""
        turn = Turn(message.role)
        for part in message.parts:
            try:
                turn.spans.append(Span(part.type, self._part(part, codes), message.learned(part)))
            except AnyglotError:
                if not drop_bad_parts or part.type == TEXT:
                    raise
        return turn

    def _part(self, part: Part, codes: Codes) -> np.ndarray:
        if part.type == TEXT:
            return np.array(self.text.encode(part.text or ""), dtype=np.int64)
        if part.type not in self.vocabulary.modality_names:
            raise AnyglotError(f"no tokenizer for {part.type} among: {', '.join(self.vocabulary.modality_names)}")
        if part.codes is not None:
            made_with = self.vocabulary.modality(part.type).fingerprint
            if part.tokenizer not in ("", made_with):
                raise AnyglotError(f"{part.type} codes of tokenizer {part.tokenizer}, not {made_with}")
            return part.codes
        found = codes.get(part.key)
        if found is None:
            raise AnyglotError(f"no tokenizer for {part.type} was given; name its directory under `tokenizers`")
        if isinstance(found, Problem):
            raise AnyglotError(f"{found.kind}: {found.where}")
        return found

    def _cut(self, turns: list[Turn]) -> list[list[Turn]]:
        """Documents of at most `max_document` tokens: plain text is cut anywhere, media and chats never."""
        lengths = [[len(self.grammar.serialise_span(span)) for span in turn.spans] for turn in turns]
        total, plain = sum(map(sum, lengths)), turns[0].role is None
        if not total:
            raise AnyglotError("nothing is left of the document")
        marks = len(self.grammar.serialise([Turn(turn.role) for turn in turns]).ids)  # of document and turns
        if not self.max_document or total + marks <= self.max_document:
            return [turns]
        if not plain:
            raise AnyglotError(f"a chat longer than max_document ({self.max_document} tokens) is not cut")
        room = self.max_document - marks
        pieces: list[list[Span]] = [[]]
        left = room
        for span, length in zip(turns[0].spans, lengths[0], strict=True):
            if span.modality != TEXT and length > room:
                raise AnyglotError(
                    f"{span.modality} of {length} tokens does not fit into max_document ({self.max_document})"
                )
            while span.modality == TEXT and length > left:
                pieces[-1].append(Span(TEXT, span.codes[:left], span.loss))
                span, length = Span(TEXT, span.codes[left:], span.loss), length - left
                pieces.append([])
                left = room
            if length > left:
                pieces.append([])
                left = room
            pieces[-1].append(span)
            left -= length
        return [[Turn(None, spans)] for spans in pieces if spans]


class _Medium(NamedTuple):
    """A part to be encoded, and the first document that holds it."""

    part: Part
    where: str

    @property
    def name(self) -> str:
        return self.where if self.part.path is None else str(self.part.path)


def _variants(document: Document, orders: Sequence[Sequence[str]]) -> Iterator[tuple[str, list[Message]]]:
    """(id, turns) of what each order makes of a document: all its parts of the named modalities, in that order."""
    if document.rejected:
        yield document.id + CHOSEN, document.turns
        yield document.id + REJECTED, document.rejected
        return
    if not orders:
        yield document.id, document.turns
        return
    parts = [part for turn in document.turns for part in turn.parts]
    for order in orders:
        chosen = [[part for part in parts if part.type == modality] for modality in order]
        if all(chosen):
            yield f"{document.id}#{'-'.join(order)}", [Message(None, [part for group in chosen for part in group])]


def _read(tokenizer: Any, medium: _Medium) -> Any:
    """The medium of a part in memory, or a Problem: why it cannot be read."""
    part = medium.part
    if part.in_memory:
        return part.data
    try:
        return tokenizer.read(part.data if part.path is None else part.path)
    except Exception as error:  # decoders raise many types; a bad file must never stop a corpus
        return Problem(medium.name, f"unreadable {part.type}", _reason(error))


def _encode_batch(tokenizer: Any, batch: Sequence[tuple[_Medium, Any]]) -> Codes:
    """Codes of a batch of media; if the batch fails, one by one, to find which of them is to blame."""
    try:
        encoded = tokenizer.encode([found for _, found in batch])
        return {medium.part.key: np.asarray(codes) for (medium, _), codes in zip(batch, encoded, strict=True)}
    except Exception as error:
        if len(batch) > 1:
            return {key: codes for item in batch for key, codes in _encode_batch(tokenizer, [item]).items()}
        medium = batch[0][0]
        kind = f"{medium.part.type} cannot be encoded"
        return {medium.part.key: Problem(medium.name, kind, _reason(error))}


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, AnyglotError) else f"{type(error).__name__}: {text}"
