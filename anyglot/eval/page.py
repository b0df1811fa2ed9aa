"""What the template of reports shows: media as data URIs, so that a page is one file; words; figures for people."""

import base64
from pathlib import Path
from typing import Any

from anyglot.errors import AnyglotError
from anyglot.eval.plots import spectrogram_png

TEMPLATE = Path(__file__).with_name("report.html")
MEDIA_TYPES = {
    **{".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp"},
    **{".wav": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"},
    **{".mp4": "video/mp4", ".webm": "video/webm"},
}
WORDS = (".txt", ".json", ".smi")  # shown as they are


def template(run: Path) -> Any:
    """The template, to render. Media are named relative to `run`; one that cannot be read is an AnyglotError."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["uri"] = lambda path: _uri(run / path)
    environment.filters["spectrogram"] = lambda path: data_uri(spectrogram_png(run / path), "image/png")
    environment.filters["words"] = lambda path: _words(run / path)
    environment.filters["number"] = number
    environment.tests["words"] = lambda path: path.endswith(WORDS)
    environment.tests["sound"] = lambda path: _media_type(path).startswith("audio/")
    environment.tests["film"] = lambda path: _media_type(path).startswith("video/")
    return environment.from_string(TEMPLATE.read_text("utf-8"))


def can_show(path: Path) -> bool:
    """Whether a file is there and of a kind that the page shows."""
    return path.is_file() and (path.suffix in WORDS or bool(_media_type(path)))


def number(value: Any, digits: int | None = 2) -> str:
    """A figure as it is shown: `digits` decimals for fractions (None: four digits that matter), thousands separated;
    other values as they are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "not measured" if value is None else str(value)
    if digits is None:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def data_uri(content: bytes, media_type: str) -> str:
    """Content as a link to itself."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _words(path: Path) -> str:
    """What a text file says."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise AnyglotError(f"{path}: the report names it, but it cannot be read ({error})") from error


def _uri(path: Path) -> str:
    if not _media_type(path):
        raise AnyglotError(f"{path}: the report shows {', '.join(MEDIA_TYPES)} files")
    try:
        return data_uri(path.read_bytes(), _media_type(path))
    except OSError as error:
        raise AnyglotError(f"{path}: the report names it, but it cannot be read ({error.strerror})") from error


def _media_type(path: str | Path) -> str:
    return MEDIA_TYPES.get(Path(path).suffix.lower(), "")
