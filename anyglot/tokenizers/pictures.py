"""Reading picture files: limits from the header before any pixel, then upright RGB on white, whatever the format."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anyglot.errors import MediaError

if TYPE_CHECKING:
    from PIL import Image

GREY_16 = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def read_picture(
    source: str | Path | bytes, max_side: int, max_pixels: int, formats: tuple[str, ...] | None = None
) -> np.ndarray:
    """A picture as uint8 `[height, width, 3]`.

    EXIF orientation is applied, transparency composited on white, palettes resolved, 16-bit greys scaled to 8 bits;
    of an animation the first frame is taken.

    Args:
        source: a path, or the bytes of a file.
        max_side, max_pixels: limits, checked against the header, so that a huge picture is never decoded.
        formats: Pillow's names of those that are read; None for all.
    Raises:
        MediaError: one line that names the file: missing, empty, damaged, no picture, or over a limit.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    name = f"{len(source)} bytes of picture" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise MediaError(f"{name}: {error.strerror or error}; check the path") from error
    if not data:
        raise MediaError(f"{name}: empty file; restore it, or remove it from the list")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is stated and stricter
            picture = Image.open(io.BytesIO(data), formats=formats)
        width, height = picture.size
        if max(width, height) > max_side or width * height > max_pixels:
            raise MediaError(
                f"{name}: {width} x {height} pixels, more than max_side={max_side} or max_pixels={max_pixels}; "
                "resize it or raise the limit"
            )
        picture.load()
        return np.array(_on_white(ImageOps.exif_transpose(_eight_bits(picture, name))))
    except Image.DecompressionBombError as error:
        raise MediaError(f"{name}: more pixels than max_pixels={max_pixels}; resize it or raise the limit") from error
    except UnidentifiedImageError as error:
        raise MediaError(f"{name}: not a picture that can be read; convert it to PNG or JPEG, or remove it") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError) as error:  # Pillow's many
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MediaError(f"{name}: damaged picture ({reason}); restore it, or remove it from the list") from error


def _eight_bits(picture: "Image.Image", name: str) -> "Image.Image":
    """Scale 16-bit greys to 8 bits; other modes pass. Pillow itself would clip them to white."""
    from PIL import Image

    if picture.mode == "F":
        raise MediaError(f"{name}: floating-point pixels have no stated white; save it with 8 or 16 bits")
    if picture.mode not in GREY_16:
        return picture
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise MediaError(f"{name}: 32-bit grey values; save it with 8 or 16 bits")
    grey = Image.fromarray(np.round(values / 257).astype(np.uint8))
    grey.info = {key: value for key, value in picture.info.items() if key == "exif"}
    return grey


def _on_white(picture: "Image.Image") -> "Image.Image":
    from PIL import Image

    if picture.mode in ("RGB", "L", "1", "CMYK", "YCbCr", "LAB", "HSV") and "transparency" not in picture.info:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")
