"""What lmms-eval's tasks ask, as our messages, and our replies as its tasks read them."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anyglot.data.documents import ROLES, Message, Part
from anyglot.errors import AnyglotError, MediaError
from anyglot.eval.until import cut
from anyglot.inference.anyglot import Anyglot
from anyglot.inference.command import write_part
from anyglot.lm.vocabulary import TEXT

PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def messages_of(turns: Sequence[Mapping[str, Any]], chat: bool, max_side: int = 0) -> list[Message]:
    """A task's chat messages, `{"role", "content": [{"type", "text" or "url"}]}`.

    Args:
        chat: False joins all of them into one plain document. max_side: larger pictures are shrunk to it, 0 for none.
    Raises:
        AnyglotError: a role or a kind of content that we do not know.
    """
    messages = []
    for turn in turns:
        if turn.get("role") not in ROLES:
            raise AnyglotError(f"message role {turn.get('role')!r} is not one of {', '.join(ROLES)}")
        content = turn["content"]
        parts = (
            [Part(TEXT, text=content)] if isinstance(content, str) else [part_of(item, max_side) for item in content]
        )
        messages.append(Message(ROLES[turn["role"]], parts))
    return messages if chat else [Message(None, [part for message in messages for part in message.parts])]


def part_of(item: Mapping[str, Any], max_side: int = 0) -> Part:
    """One content part: media come as objects of other libraries, or as files. Raises AnyglotError, MediaError."""
    kind = item.get("type")
    if kind == "text":
        return Part(TEXT, text=str(item["text"]))
    given = item.get("url")
    if kind == "image":
        return Part("image", data=_picture(given, max_side))
    if kind == "audio" or (kind == "video" and isinstance(given, Mapping) and "array" in given):  # which it calls so
        return Part("speech", path=_file(given)) if isinstance(given, str) else Part("speech", data=_sound(given))
    if kind == "video" and isinstance(given, str):
        return Part("video", path=_file(given))
    raise AnyglotError(f"content of type {kind!r} given as {type(given).__name__} is not known to us")


def answer_of(model: Anyglot, parts: Sequence[Part], stops: Sequence[str], out: Path, name: str) -> str:
    """A reply as tasks read it: its text; with media, JSON of the text and of the files, written to `<out>/<name>...`.

    Pictures are under "images", as lmms-eval has it; other media, of which it knows nothing, under their modality.
    """
    text = cut("".join(part.text or "" for part in parts if part.type == TEXT), stops)
    files: dict[str, list[str]] = {}
    for number, part in enumerate(parts):
        if part.type != TEXT and part.data is not None:
            path = write_part(model, part, out, f"{name}-{number:02d}-{part.type}")
            files.setdefault("images" if part.type == "image" else part.type, []).append(str(path))
    return json.dumps({"text": text, "images": [], **files}, ensure_ascii=False) if files else text


def _picture(given: Any, max_side: int) -> bytes:
    """The bytes of a picture's file: as it is, or made anew without loss of what is a picture in memory, or shrunk."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(given, str):
        data = _file(given).read_bytes()
        if not max_side:
            return data
        try:
            given = Image.open(io.BytesIO(data))
            given.load()
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise MediaError(f"picture of {len(data)} bytes: cannot be read ({error})") from error
    if not isinstance(given, Image.Image):
        raise AnyglotError(f"a picture given as {type(given).__name__} is not known to us")
    if given.mode not in PNG_MODES:
        given = given.convert("RGB")
    if max_side and max(given.size) > max_side:
        given = given.convert("RGBA" if "A" in given.mode or "transparency" in given.info else "RGB")
        given.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    made = io.BytesIO()
    given.save(made, "PNG", exif=given.getexif())
    return made.getvalue()


def _sound(given: Any) -> bytes:
    """The bytes of a wav file of `{"array", "sampling_rate"}`, or of torchcodec's decoder, as `datasets` gives them."""
    import soundfile

    if hasattr(given, "get_all_samples"):
        samples = given.get_all_samples()
        array, rate = np.asarray(samples.data).T, samples.sample_rate  # [samples, channels]
    elif isinstance(given, Mapping) and {"array", "sampling_rate"} <= set(given):
        array, rate = np.asarray(given["array"]), given["sampling_rate"]
    else:
        raise AnyglotError(f"a sound given as {type(given).__name__} is not known to us")
    made = io.BytesIO()
    soundfile.write(made, array.astype(np.float32), int(rate), format="WAV", subtype="FLOAT")
    return made.getvalue()


def _file(given: str) -> Path:
    path = Path(given.removeprefix("file://"))
    if "://" in str(given)[:12] and not given.startswith("file://"):
        raise MediaError(f"remote URL {given[:100]!r} is not fetched; download it and give its path")
    if not path.is_file():
        raise MediaError(f"{given}: no such file")
    return path
