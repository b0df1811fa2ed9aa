"""`anyglot chat`: a conversation in the terminal, with files as attachments and media as answers."""

import codecs
import mimetypes
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from anyglot.data.documents import Message, Part
from anyglot.errors import AnyglotError, MediaError
from anyglot.inference.anyglot import Anyglot
from anyglot.inference.command import load_config, load_model, make_part, write_part
from anyglot.lm.parser import Parser, SpanStart, TextDelta
from anyglot.lm.vocabulary import TEXT

HELP = """Type a message. A word @FILE attaches a file where it stands: what is this? @cat.png
               @"my cat.png" has a blank in its name, @speech=cat.bin says what it is
/to MODALITY   answer with this modality only (/to alone: whatever the model likes)
/new           forget the conversation
/quit          leave (as does end of input)"""
ATTACHED = re.compile(r"""(?<!\S)@(?:(\w+)=)?(?:"([^"]+)"|(\S+))""")  # @FILE, @"a file", @modality=FILE
OF_MIME = {"image": "image", "audio": "speech", "video": "video"}  # first half of a MIME type -> modality


def parts_of(line: str) -> list[Part]:
    """The parts of a typed message: its words as they are, and its `@FILE` attachments in their places.

    `@modality=FILE` says of which modality a file is; else its suffix does. Raises MediaError naming the file.
    """
    parts: list[Part] = []
    end = 0
    for match in ATTACHED.finditer(line):
        parts += _words(line[end : match.start()])
        name, end = match[2] or match[3], match.end()
        kind = (mimetypes.guess_type(name)[0] or "").split("/")[0]
        modality = match[1] or OF_MIME.get(kind)
        if modality is None:
            raise MediaError(f"{name}: its suffix does not tell a modality; write @MODALITY={name}")
        parts.append(make_part(modality, name))
    return parts + _words(line[end:])


def _words(text: str) -> list[Part]:
    return [Part(TEXT, text=text.strip())] if text.strip() else []


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
            wanted, known = argument.strip() or None, model.vocabulary.modality_names
            if wanted in (None, *known):
                to = wanted
            else:
                console.print(f"this model writes no {wanted!r}; it knows: {', '.join(known)}", markup=False)
        elif word.startswith("/"):
            console.print(f"no command {word}; /help lists them", markup=False)
        else:
            try:
                said = [*messages, Message("user", [_read(model, part) for part in parts_of(line)])]
                (reply,) = model.write([said], to, config.max_tokens, seed + answers, _teller(model, said, console))
            except AnyglotError as error:  # the conversation goes on as if the line had not been typed
                console.print(f"[red]{escape(str(error))}[/]", highlight=False, soft_wrap=True)
                continue
            for number, part in enumerate(reply.parts):
                if part.type != TEXT and part.data is None:
                    console.print(f"[bold]{part.type}[/]  its codes stand for nothing", highlight=False)
                elif part.type != TEXT:
                    path = write_part(model, part, out, f"{answers:02d}-{number}-{part.type}")
                    console.print(f"[bold]{part.type}[/]  {escape(str(path))}", highlight=False, soft_wrap=True)
            answers += 1
            messages = [*said, Message("assistant", reply.parts)]


def _read(model: Anyglot, part: Part) -> Part:
    """A part with its codes: a file is read once, and may be gone when the next message is typed."""
    return part if part.type == TEXT else Part(part.type, codes=model.encode([part])[0].codes)


def _teller(model: Anyglot, messages: Sequence[Message], console: Console) -> Callable[[int, int], None]:
    """What prints an answer while it is written: text as it comes, and that a medium has begun."""
    parser = Parser(model.grammar)
    parser.feed(model.prompt(messages))
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    console.print("[bold blue]model>[/] ", end="")

    def tell(_index: int, token: int) -> None:
        for event in parser.feed([token]):
            if isinstance(event, TextDelta):
                console.out(decoder.decode(model.text.to_bytes(event.ids)), end="", highlight=False)
            elif isinstance(event, SpanStart):
                console.print(f"\n[dim]writing {event.modality} ...[/]")
        if token in (model.vocabulary.eos, model.vocabulary.end_of_turn):
            console.out(decoder.decode(b"", final=True), highlight=False)

    return tell
