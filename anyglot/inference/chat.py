"""`anyglot chat`: a conversation in the terminal, with files as attachments and media as answers."""

import codecs
import mimetypes
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from anyglot.data.documents import Message, Part
from anyglot.errors import AnyglotError, MediaError
from anyglot.inference.anyglot import Anyglot
from anyglot.inference.command import load_config, load_model, make_part, write_part
from anyglot.lm.parser import Parser, SpanStart, TextDelta
from anyglot.lm.vocabulary import TEXT

HELP = """Type a message. A word @FILE attaches a file where it stands: what is this? @cat.png
/to MODALITY   answer with this modality only (/to alone: whatever the model likes)
/new           forget the conversation
/quit          leave (as does end of input)"""
OF_MIME = {"image": "image", "audio": "speech", "video": "video"}  # first half of a MIME type -> modality


def parts_of(line: str) -> list[Part]:
    """The parts of a typed message: its words, and its `@FILE` attachments in their places.

    `@modality=FILE` says of which modality a file is; else its suffix does. Raises MediaError naming the file.
    """
    parts: list[Part] = []
    words: list[str] = []

    def flush() -> None:
        if words:
            parts.append(Part(TEXT, text=" ".join(words)))
            words.clear()

    try:
        tokens = shlex.split(line) if "@" in line else [line]
    except ValueError:  # an apostrophe is no quotation here
        tokens = line.split()
    for token in tokens:
        if not token.startswith("@") or token == "@":
            words.append(token)
            continue
        modality, equals, name = token[1:].partition("=")
        if not equals:
            name = token[1:]
            kind = (mimetypes.guess_type(name)[0] or "").split("/")[0]
            if kind not in OF_MIME:
                raise MediaError(f"{name}: its suffix does not tell a modality; write @MODALITY={name}")
            modality = OF_MIME[kind]
        flush()
        parts.append(make_part(modality, name))
    flush()
    return parts


def run(checkpoint: Path, out: Path, seed: int, overrides: Sequence[str]) -> None:
    """Talk until the input ends. Media that the model answers with are written to `out`."""
    console = Console()
    config = load_config(overrides)
    model = load_model(checkpoint, config)
    console.print(f"This model reads and writes {', '.join(model.vocabulary.modality_names)}. /help tells how to talk.")
    messages: list[Message] = []
    to: str | None = None
    answers = 0
    while True:
        try:
            line = console.input("[bold green]you>[/] ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        word, _, argument = line.partition(" ")
        if not line:
            continue
        if word == "/quit":
            return
        if word == "/help":
            console.print(HELP, markup=False, highlight=False)
        elif word == "/new":
            messages = []
        elif word == "/to":
            to = argument.strip() or None
        elif word.startswith("/"):
            console.print(f"no command {word}; /help lists them", markup=False)
        else:
            try:
                said = [*messages, Message("user", parts_of(line))]
                (reply,) = model.write([said], to, config.max_tokens, seed + answers, _teller(model, said, console))
            except AnyglotError as error:  # the conversation goes on as if the line had not been typed
                console.print(f"[red]{error}[/]", highlight=False)
                continue
            for number, part in enumerate(reply.parts):
                if part.type != TEXT:
                    path = write_part(model, part, out, f"{answers:02d}-{number}-{part.type}")
                    console.print(f"[bold]{part.type}[/]  {path}")
            answers += 1
            messages = [*said, Message("assistant", reply.parts)]


def _teller(model: Anyglot, messages: Sequence[Message], console: Console) -> Callable[[int, int], None]:
    """What prints an answer while it is written: text as it comes, and that a medium has begun."""
    parser = Parser(model.grammar)
    parser.feed(model.prompt(messages))
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    console.print("[bold blue]model>[/] ", end="")

    def tell(_index: int, token: int) -> None:
        for event in parser.feed([token]):
            if isinstance(event, TextDelta):
                text = decoder.decode(model.text.to_bytes(event.ids))
                console.print(text, end="", markup=False, highlight=False)
            elif isinstance(event, SpanStart):
                console.print(f"\n[dim]writing {event.modality} ...[/]")
        if token in (model.vocabulary.eos, model.vocabulary.end_of_turn):
            console.print()

    return tell
