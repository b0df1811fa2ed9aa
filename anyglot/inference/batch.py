"""`anyglot generate --prompts`: answer every document of a file, and write the answers as documents."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from anyglot.config import to_mapping
from anyglot.data.documents import Document, Message, Part
from anyglot.data.readers import Problem, read, slices
from anyglot.errors import AnyglotError
from anyglot.eval.records import fingerprint_of
from anyglot.files import write_text
from anyglot.inference.anyglot import Anyglot, Reply
from anyglot.inference.command import load_config, load_model, model_folder, write_part
from anyglot.inference.engine import Engine
from anyglot.inference.journal import Journal
from anyglot.lm.vocabulary import TEXT

T = TypeVar("T")
REPLIES = "replies.jsonl"
JOURNAL = "journal.jsonl"


def generate(
    checkpoint: Path, prompts: Path, to: str | None, out: Path, seed: int, batch: int, overrides: Sequence[str]
) -> None:
    """Answer every document of `prompts`: `<out>/replies.jsonl`, and the media that it names beside it.

    A plain document is gone on with. A chat is answered; one that ends with an answer, without that. Document i draws
    from seed + i, whatever is written beside it. A document that cannot be answered is named on stderr, and costs no
    other. Every answer is kept as soon as it is there, and the same command goes on with those that are missing.

    Args:
        batch: how many are written side by side; the next begins when one of them ends.
    Raises:
        AnyglotError: nothing could be loaded, or `out` holds answers that were made otherwise; or, when all others are
            written, some documents could not be answered.
    """
    config = load_config(overrides)
    pieces = slices(prompts)
    model = load_model(checkpoint, config)
    model.check_target(to)  # once, not at every document
    weights = fingerprint_of(sorted(model_folder(checkpoint).glob("*.safetensors")))
    journal = Journal(out / JOURNAL, {"checkpoint": weights, "to": to, "seed": seed, **to_mapping(config)})
    reached, before = 0, 0
    failed: list[str] = []

    def fail(where: str, reason: object) -> None:
        failed.append(where)
        print(f"{where}: {reason}", file=sys.stderr)

    def unanswered() -> Iterator[tuple[tuple[int, Document], list[Message], int]]:
        nonlocal reached, before
        for number, document in enumerate(document for piece in pieces for document in read(piece)):
            reached = number + 1
            if isinstance(document, Problem):
                fail(document.where, document.reason)
            elif not (question := _question(document)):
                fail(document.where, "a chat without a question")
            elif journal.has(number, question):
                before += 1
            else:
                yield (number, document), question, seed + number

    try:
        for (number, document), reply in replies(model, unanswered(), to, batch, config.max_tokens, config.guidance):
            if isinstance(reply, AnyglotError):
                fail(document.where, reply)
            else:
                record = _record(model, document, reply, out, f"{number:05d}")
                journal.keep(number, _question(document), record)
        journal.answers = {number: answer for number, answer in journal.answers.items() if number < reached}
    finally:
        lines = [json.dumps(journal.answers[number], ensure_ascii=False) for number in sorted(journal.answers)]
        write_text(out / REPLIES, "".join(f"{line}\n" for line in lines))
    earlier = f", {before} of them from before" if before else ""
    print(f"{len(lines)} answers in {out / REPLIES}{earlier}")
    if failed:
        raise AnyglotError(f"{len(failed)} documents of {prompts} could not be answered, which are named above")


def replies(
    model: Anyglot,
    asked: Iterable[tuple[T, Sequence[Message], int]],
    to: str | None,
    batch: int,
    max_tokens: int = 2048,
    guidance: float = 1.0,
) -> Iterator[tuple[T, Reply | AnyglotError]]:
    """The reply to every prompt, or why there is none, in the order in which they end, each with its prompt's name.

    Args:
        asked: names, prompts, and the seeds that they draw from. batch: how many are written side by side.
    """
    engine = Engine(model.decoder, slots=batch if guidance == 1 else 2 * batch, reserve=False)
    begun: dict[int, tuple[T, Reply]] = {}  # by ticket

    def step() -> Iterator[tuple[T, Reply]]:
        for written in engine.step():
            reply = begun[written.ticket][1]
            reply.ids += written.ids
            if written.finish:
                reply.parts = model.read(reply.prompt, reply.ids)
                yield begun.pop(written.ticket)

    for name, messages, seed in asked:
        try:
            request = model.request(messages, to, max_tokens, seed, guidance)
            begun[engine.submit(request)] = name, Reply(request.prompt, [], [])
        except AnyglotError as error:
            yield name, error
        while engine.waiting:
            yield from step()
    while engine.busy:
        yield from step()


def _question(document: Document) -> list[Message]:
    """What to answer."""
    return document.turns[:-1] if document.turns[-1].role == "assistant" else document.turns


def _record(model: Anyglot, document: Document, reply: Reply, out: Path, name: str) -> dict[str, Any]:
    """A reply as a document of its own, its media written to files beside it."""
    parts = [_written(model, part, out, f"{name}-{index:02d}-{part.type}") for index, part in enumerate(reply.parts)]
    if document.turns[0].role is None:
        return {"id": document.id, "parts": parts}
    return {"id": document.id, "messages": [{"role": "assistant", "content": parts}]}


def _written(model: Anyglot, part: Part, out: Path, name: str) -> dict[str, Any]:
    if part.type == TEXT:
        return {"type": TEXT, "text": part.text}
    if part.data is None:  # codes that stand for nothing are at least kept
        assert part.codes is not None
        made_by = model.tokenizers[part.type].fingerprint
        return {"type": part.type, "codes": part.codes.tolist(), "tokenizer": made_by}
    return {"type": part.type, "path": write_part(model, part, out, name).name}
