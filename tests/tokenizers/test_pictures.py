import io

import numpy as np
import pytest
from PIL import Image

from anyglot.errors import MediaError
from anyglot.tokenizers.pictures import read_picture


def encoded(picture, format="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def read(source, max_side=64, max_pixels=4096):
    return read_picture(source, max_side, max_pixels)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_rgb_comes_back_exactly_from_path_and_bytes(pixels, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(pixels)))
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes()):
        picture = read(source)
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, pixels)


def test_transparency_is_composited_on_white(pixels):
    alpha = np.full((5, 7, 1), 255, np.uint8)
    alpha[:, :3] = 0
    alpha[:, 3] = 51
    picture = read(encoded(Image.fromarray(np.concatenate([pixels, alpha], 2), "RGBA")))
    assert (picture[:, :3] == 255).all()
    np.testing.assert_allclose(picture[:, 3], 255 * 0.8 + pixels[:, 3] * 0.2, atol=1)
    np.testing.assert_array_equal(picture[:, 4:], pixels[:, 4:])


def test_palettes_with_and_without_transparency():
    paletted = Image.new("P", (2, 1))
    paletted.putpalette([255, 0, 0, 0, 0, 255])
    paletted.putdata([0, 1])
    np.testing.assert_array_equal(read(encoded(paletted)), [[[255, 0, 0], [0, 0, 255]]])
    np.testing.assert_array_equal(read(encoded(paletted, transparency=0)), [[[255, 255, 255], [0, 0, 255]]])


def test_greys_of_one_eight_and_sixteen_bits():
    deep = np.array([[0, 257 * 10, 65535]], np.uint16)
    np.testing.assert_array_equal(read(encoded(Image.fromarray(deep)))[0, :, 0], [0, 10, 255])
    np.testing.assert_array_equal(read(encoded(Image.fromarray(deep), "TIFF"))[0, :, 1], [0, 10, 255])
    np.testing.assert_array_equal(read(encoded(Image.fromarray(np.array([[0, 200]], np.uint8))))[0, :, 2], [0, 200])
    np.testing.assert_array_equal(read(encoded(Image.new("1", (1, 1), 1))), [[[255, 255, 255]]])
    with pytest.raises(MediaError, match="floating-point"):
        read(encoded(Image.fromarray(np.zeros((1, 1), np.float32)), "TIFF"))


def test_exif_orientation_turns_the_picture(pixels):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    turned = read(encoded(Image.fromarray(pixels), exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(pixels, -1))


def test_cmyk_jpeg_and_first_frame_of_an_animation():
    assert read(encoded(Image.new("CMYK", (3, 2)), "JPEG")).shape == (2, 3, 3)
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read(animated)[0, 0].tolist() == [255, 0, 0]


def huge_png(width, height):
    """A PNG whose header promises a huge picture; there is hardly any data behind it."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(20000, 20000), (65, 1), (1, 65)])
def test_limits_hold_before_any_pixel_is_decoded(width, height, tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    path.write_bytes(huge_png(width, height))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("pixels were decoded"))
    with pytest.raises(MediaError, match=r"huge\.png: .*max_pixels=4096") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_max_pixels_holds_beside_max_side():
    with pytest.raises(MediaError, match="64 x 64 pixels"):
        read(encoded(Image.new("RGB", (64, 64))), max_pixels=4095)


def damaged():
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)))
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    return {
        "empty.png": (b"", "empty file"),
        "text.png": (b"hello", "not a picture"),
        "cut.png": (whole[: len(whole) // 2], "damaged picture"),
        "header.png": (whole[:20], "not a picture|damaged"),
        "bits.png": (bytes(flipped), "damaged picture"),
    }


@pytest.mark.parametrize("name", damaged())
def test_damage_is_one_line_that_names_the_file(name, tmp_path):
    data, reason = damaged()[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(MediaError, match=f"{name}: .*(?:{reason})") as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(MediaError, match=r"none\.png: No such file"):
        read(tmp_path / "none.png")
    with pytest.raises(MediaError, match="Is a directory"):
        read(tmp_path)
