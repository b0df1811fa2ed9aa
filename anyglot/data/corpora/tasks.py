"""What the language model is taught about names: the aligned parts, a shuffled control, questions with answers, and
which of two answers is the better one."""

from collections.abc import Iterator, Sequence
from typing import Any

from anyglot.data.corpora.names import Name


def part(name: Name, modality: str) -> dict[str, str]:
    """A name's part of one modality: its text, or the path of its picture or recording."""
    if modality == "text":
        return {"type": "text", "text": name.text}
    folder, suffix = {"image": ("images", "png"), "speech": ("speech", "wav")}[modality]
    return {"type": modality, "path": f"{folder}/{name.stem}.{suffix}"}


def aligned(names: Sequence[Name]) -> Iterator[dict[str, Any]]:
    """Text, picture and recording of each name."""
    for name in names:
        parts = [part(name, modality) for modality in ("text", "image", "speech")]
        yield {"id": name.stem, "split": "train", "parts": parts}


def shuffled(names: Sequence[Name]) -> Iterator[dict[str, Any]]:
    """Each name with the picture of the next: a model trained on it can learn pictures, but not whose they are."""
    for name, other in zip(names, [*names[1:], *names[:1]], strict=True):
        yield {"id": name.stem, "split": "train", "parts": [part(name, "text"), part(other, "image")]}


def chats(names: Sequence[Name]) -> Iterator[dict[str, Any]]:
    """Four questions about each name, with their answers: to draw it, to say it, what is seen, what was said."""
    for name in names:
        text, image, speech = (part(name, modality) for modality in ("text", "image", "speech"))
        for kind, question, answer in (
            ("draw", [{"type": "text", "text": f"draw {name.text}"}], image),
            ("say", [{"type": "text", "text": f"say {name.text}"}], speech),
            ("see", [image, {"type": "text", "text": "what is this?"}], text),
            ("hear", [speech, {"type": "text", "text": "what was said?"}], text),
        ):
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": [answer]}]
            yield {"id": f"{name.stem}#{kind}", "split": "train", "messages": turns}


def preferences(names: Sequence[Name]) -> Iterator[dict[str, Any]]:
    """Two questions about each name: to draw and to say it. Rejected is what the next name looks or sounds like."""
    if len(names) < 2:
        return
    for name, other in zip(names, [*names[1:], *names[:1]], strict=True):
        for verb, modality in (("draw", "image"), ("say", "speech")):
            prompt = [{"role": "user", "content": [{"type": "text", "text": f"{verb} {name.text}"}]}]
            answers = ([{"role": "assistant", "content": [part(each, modality)]}] for each in (name, other))
            record = {"id": f"{name.stem}#{verb}", "split": "train", "prompt": prompt}
            yield record | dict(zip(("chosen", "rejected"), answers, strict=True))
