"""`anyglot chat`: a conversation in the terminal, with files as attachments and media as answers."""

import mimetypes
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from rich.console import Console
from rich.markup import escape

from anyglot.data.documents import Message, Part
from anyglot.errors import AnyglotError, MediaError
from anyglot.inference.anyglot import Anyglot
from anyglot.inference.command import load_config, load_model, make_part, write_part
from anyglot.inference.events import Event, Finish, MediaReady, SpanStart, TextDelta, parts_of
from anyglot.inference.terminal import drawn, printable
from anyglot.lm.vocabulary import TEXT

HELP = """Type a message. A word @FILE attaches a file where it stands: what is this? @cat.png
               @"my cat.png" has a blank in its name, @speech=cat.bin says what it is
/to MODALITY   answer with this modality only (/to alone: whatever the model likes)
/new           forget the conversation
/quit          leave (as does end of input)"""
ATTACHED = re.compile(r"""(?<!\S)@(?:(\w+)=)?(?:"([^"]+)"|(\S+))""")  # @FILE, @"a file", @modality=FILE
OF_MIME = {"image": "image", "audio": "speech", "video": "video"}  # first half of a MIME type -> modality


def typed_parts(line: str, suffixes: Mapping[str, str] = MappingProxyType({})) -> list[Part]:
    """The parts of a typed message: its words as they are, and its `@FILE` attachments in their places.

    `@modality=FILE` says of which modality a file is; else its suffix does.

    Args:
        suffixes: file ending -> modality, of files that are no pictures, sounds or videos.
    Raises:
        MediaError: naming the file.
    """
    parts: list[Part] = []
    end = 0
    for match in ATTACHED.finditer(line):
        parts += _words(line[end : match.start()])
        name, end = match[2] or match[3], match.end()
        kind = (mimetypes.guess_type(name)[0] or "").split("/")[0]
        modality = match[1] or OF_MIME.get(kind) or suffixes.get(Path(name).suffix)
        if modality is None:
            raise MediaError(f"{name}: its suffix does not tell a modality; write @MODALITY={name}")
        parts.append(make_part(modality, name))
    return parts + _words(line[end:])


def suffixes_of(model: Anyglot) -> dict[str, str]:
    """File ending -> modality, where only one of the model's modalities is written to such files."""
    endings = [tokenizer.suffix for tokenizer in model.tokenizers.values()]
    return {t.suffix: name for name, t in model.tokenizers.items() if endings.count(t.suffix) == 1}


def _words(text: str) -> list[Part]:
    return [Part(TEXT, text=text.strip())] if text.strip() else []


def run(checkpoint: Path, out: Path, seed: int, overrides: Sequence[str]) -> None:
    """Talk until the input ends. Media that the model answers with are written to `out`."""
    console = Console()
    config = load_config(overrides)
    model = load_model(checkpoint, config)
    console.print(f"This model reads and writes {', '.join(model.vocabulary.modality_names)}. /help tells how to talk.")
    suffixes = suffixes_of(model)
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
                said = [*messages, Message("user", [_read(model, part) for part in typed_parts(line, suffixes)])]
                written = model.stream(said, to, config.max_tokens, seed + answers, config.guidance)
                parts = _show(console, model, written, out, f"{answers:02d}")
            except AnyglotError as error:  # the conversation goes on as if the line had not been typed
                console.print(f"[red]{escape(str(error))}[/]", highlight=False, soft_wrap=True)
                continue
            answers += 1
            messages = [*said, Message("assistant", parts)]


def _read(model: Anyglot, part: Part) -> Part:
    """A part with its codes: a file is read once, and may be gone when the next message is typed."""
    return part if part.type == TEXT else Part(part.type, codes=model.encode([part])[0].codes)


def _show(console: Console, model: Anyglot, written: Iterator[Event], out: Path, name: str) -> list[Part]:
    """Print an answer while it is written, write its media to `<out>/<name>-...`; return its parts.

    An interrupt stops the answer, not the conversation.
    """
    told: list[Event] = []
    begun = True  # a line of output
    console.print("[bold blue]model>[/] ", end="")
    try:
        for event in written:
            told.append(event)
            if isinstance(event, TextDelta):
                console.out(printable(event.text), end="", highlight=False)
                begun = not event.text.endswith("\n")
                continue
            if begun and isinstance(event, SpanStart | Finish):
                console.print()
                begun = False
            if isinstance(event, SpanStart):
                console.print(f"[dim]writing {event.modality} ...[/]")
            elif isinstance(event, MediaReady):
                _show_medium(console, model, event.part, out, f"{name}-{event.index}-{event.part.type}")
            elif isinstance(event, Finish) and event.reason == "length":
                console.print("[dim]cut off: max_tokens are written, or the model has no more positions[/]")
    except KeyboardInterrupt:
        console.print("\n[dim]stopped[/]")
    return parts_of(told)


def _show_medium(console: Console, model: Anyglot, part: Part, out: Path, name: str) -> None:
    """Write a medium to a file and name it; draw it besides, if a picture shows it and the terminal has colours."""
    if part.data is None:
        console.print(f"[bold]{part.type}[/]  its codes stand for nothing", highlight=False)
        return
    path = write_part(model, part, out, name)
    console.print(f"[bold]{part.type}[/]  {escape(str(path))}", highlight=False, soft_wrap=True)
    tokenizer = model.tokenizers[part.type]
    if console.is_terminal and console.color_system and tokenizer.preview_suffix == ".png":
        console.print(drawn(tokenizer, part.data, console.width, console.height - 4))
