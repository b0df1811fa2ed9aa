"""What a model wrote, in a terminal: text that cannot command it, and pictures of two pixels a character."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from rich.color import Color
from rich.style import Style
from rich.text import Text

from anyglot.tokenizers.base import Medium, ModalityTokenizer

# Control characters but line ends and tabs, as the pictures that Unicode has of them; those above 127 have none.
VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
VISIBLE |= dict.fromkeys(range(128, 160), 0xFFFD)
UPPER_HALF = "\u2580"  # drawn in its colour; the lower half of its cell shows the background


def printable(text: str) -> str:
    """Text without what a terminal would obey, such as escape sequences."""
    return text.translate(VISIBLE)


def drawn(tokenizer: ModalityTokenizer, medium: Medium, columns: int, rows: int) -> Text:
    """The picture that previews a medium, in at most so many columns and rows."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"preview{tokenizer.preview_suffix}"
        tokenizer.preview(medium, path)
        with Image.open(path) as image:
            return half_blocks(image.convert("RGB"), columns, rows)


def half_blocks(image: Image.Image, columns: int, rows: int) -> Text:
    """An RGB picture as lines of half blocks, scaled down to fit, never up; an odd last row is doubled."""
    scale = min(1.0, columns / image.width, 2 * rows / image.height)
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    pixels = np.asarray(image.resize(size))  # [height, width, 3]
    pixels = np.pad(pixels, ((0, len(pixels) % 2), (0, 0), (0, 0)), mode="edge")
    text = Text(no_wrap=True, end="")
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        for above, below in zip(upper, lower, strict=True):
            text.append(UPPER_HALF, Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        text.append("\n")
    return text
