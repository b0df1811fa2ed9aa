"""`anyglot generate --prompts`: answer every document of a file, and write the answers as documents."""

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from anyglot.data.documents import Document, Message, Part
from anyglot.data.readers import Problem, read, slices
from anyglot.errors import AnyglotError
from anyglot.files import write_text
from anyglot.inference.anyglot import Anyglot, Reply
from anyglot.inference.command import GenerateConfig, load_config, load_model, write_part
from anyglot.lm.vocabulary import TEXT

REPLIES = "replies.jsonl"


def generate(
    checkpoint: Path, prompts: Path, to: str | None, out: Path, seed: int, batch: int, overrides: Sequence[str]
) -> None:
    """Answer every document of `prompts`: `<out>/replies.jsonl`, and the media that it names beside it.

    A plain document is gone on with. A chat is answered; one that ends with an answer, without that. Document i draws
    from seed + i, whatever `batch` of them is written together. A document that cannot be answered is named on stderr,
    and costs no other.

    Raises:
        AnyglotError: nothing could be loaded; or, when all others are written, some documents could not be answered.
    """
    config = load_config(overrides)
    pieces = slices(prompts)
    model = load_model(checkpoint, config)
    failed: list[str] = []
    lines: list[str] = []

    def fail(where: str, reason: object) -> None:
        failed.append(where)
        print(f"{where}: {reason}", file=sys.stderr)

    def documents() -> Iterator[Document]:
        for piece in pieces:
            for found in read(piece):
                if isinstance(found, Problem):
                    fail(found.where, found.reason)
                else:
                    yield found

    asked_for = documents()
    first = 0
    while group := list(islice(asked_for, batch)):
        asked = [_question(document.turns) for document in group]
        answers = _answers(model, asked, to, config, seed + first)
        for number, (document, answer) in enumerate(zip(group, answers, strict=True), start=first):
            if isinstance(answer, AnyglotError):
                fail(document.where, answer)
            else:
                lines.append(json.dumps(_record(model, document, answer, out, f"{number:05d}"), ensure_ascii=False))
        first += len(group)
    write_text(out / REPLIES, "".join(f"{line}\n" for line in lines))
    print(f"{len(lines)} answers in {out / REPLIES}")
    if failed:
        raise AnyglotError(f"{len(failed)} documents of {prompts} could not be answered, which are named above")


def _question(turns: list[Message]) -> list[Message]:
    """What to answer."""
    return turns[:-1] if turns[-1].role == "assistant" else turns


def _answers(
    model: Anyglot, prompts: Sequence[Sequence[Message]], to: str | None, config: GenerateConfig, seed: int
) -> list[Reply | AnyglotError]:
    """The reply to each prompt, or why there is none."""
    try:
        return [*model.write(prompts, to, config.max_tokens, seed, config.guidance)]
    except AnyglotError as error:
        if len(prompts) == 1:
            return [error]
    alone = [_answers(model, [prompt], to, config, seed + index) for index, prompt in enumerate(prompts)]
    return [answer for answers in alone for answer in answers]


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
