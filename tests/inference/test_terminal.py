"""Pictures drawn with characters, and text that cannot command a terminal."""

import numpy as np
import pytest
from PIL import Image

from anyglot.inference.terminal import half_blocks, printable


def drawn(pixels, columns=80, rows=40):
    """What a terminal shows: the colours of the upper and lower half of each character, `[rows, columns, 2, 3]`."""
    text = half_blocks(Image.fromarray(pixels), columns, rows)
    assert set(text.plain) <= {"\u2580", "\n"}
    lines = text.plain.splitlines()
    styles = [span.style for span in text.spans if text.plain[span.start] != "\n"]
    cells = [[tuple(colour.triplet) for colour in (style.color, style.bgcolor)] for style in styles]
    return np.array(cells).reshape(len(lines), len(lines[0]), 2, 3)


def test_a_character_is_two_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    shown = drawn(pixels)
    assert shown.shape == (3, 5, 2, 3)
    assert np.array_equal(shown.transpose(0, 2, 1, 3).reshape(6, 5, 3), pixels)


def test_an_odd_row_is_doubled():
    pixels = np.arange(9, dtype=np.uint8).reshape(3, 1, 3)
    assert drawn(pixels)[-1, 0].tolist() == [[6, 7, 8], [6, 7, 8]]


@pytest.mark.parametrize(("height", "width"), [(100, 40), (40, 100), (1, 500), (500, 1)])
def test_a_large_picture_is_scaled_down_to_fit(height, width):
    shown = drawn(np.zeros((height, width, 3), np.uint8), columns=20, rows=10)
    assert shown.shape[0] <= 10
    assert shown.shape[1] <= 20
    assert max(shown.shape[0] / 10, shown.shape[1] / 20) > 0.9  # and fills it one way


def test_text_commands_no_terminal():
    assert printable("a\tb\nc é 🐈") == "a\tb\nc é 🐈"
    assert printable("\x1b]0;title\x07\r\x00\x7f\x9b2J") == "␛]0;title␇␍␀␡\ufffd2J"
