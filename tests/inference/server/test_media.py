"""What comes in from outside: hostile files are refused by what they claim, before they are decoded."""

import ast
import base64
import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import anyglot.inference.server
from anyglot.errors import AnyglotError, MediaError
from anyglot.inference.server import media, wire
from anyglot.inference.server.config import Limits
from anyglot.inference.server.media import decode_media
from anyglot.tokenizers import molecules
from tests.inference.server.serving import at_most, png, url, wav

LIMITS = Limits()
SERVER = Path(anyglot.inference.server.__file__).parent
DECODERS = {  # names by which any decoder of anything that comes from outside is called
    "read", "open", "SoundFile", "read_picture", "read_sound", "read_clip", "read_motion", "from_smiles", "b64decode",
    "MolFromSmiles", "load", "loads", "frombuffer", "urlopen", "get", "post", "request", "measure_clip",
}  # fmt: skip
HARMLESS = {  # (file, call): of bytes that no client sent
    ("guard.py", "get"),  # a header
    ("guard.py", "b64decode"),  # a key, compared and forgotten
    ("media_routes.py", "read"),  # the bytes of an upload, as they are
    # of dicts and queues
    ("service.py", "get"), ("worker.py", "get"), ("chat.py", "get"), ("config.py", "get"), ("metrics.py", "get"),
    ("service.py", "read"),  # its own method: runs a function in a thread
    ("app.py", "get"), ("chat.py", "post"), ("media_routes.py", "post"),  # routes
    ("app.py", "read"),
}  # fmt: skip


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield getattr(node.func, "attr", getattr(node.func, "id", ""))


def test_media_are_decoded_in_one_place_only():
    seen = {(path.name, name) for path in SERVER.glob("*.py") for name in calls(path) if name in DECODERS}
    assert {name for path, name in seen if path == "media.py"} >= {"read", "SoundFile", "read_picture", "b64decode"}
    assert {(path, name) for path, name in seen if path != "media.py"} <= HARMLESS


def test_nothing_is_unpickled_or_fetched():
    words = " ".join(path.read_text() for path in SERVER.glob("*.py"))
    for word in (
        "pickle",
        "torch.load",
        "allow_pickle",
        "urllib",
        "import requests",
        "httpx",
        "aiohttp",
        "eval(",
        "exec(",
    ):
        assert word not in words


@pytest.fixture
def tokenizers(model):
    return model.tokenizers


def refused(tokenizers, modality, content, limits=LIMITS):
    """The message of a refusal that did not take much memory."""
    with at_most(mib=400), pytest.raises(MediaError) as caught:
        decode_media(modality, content, tokenizers, limits)
    return str(caught.value)


def png_claiming(width, height, kind=b"IHDR"):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 2**20)
    return b"\x89PNG\r\n\x1a\n" + chunk(kind, header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0" + b"\0" * 100,
        b"RIFF\0\0\0\0WEBPVP8 ",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"GIF89a\xff\xff\xff\xff",
        png()[:60],
        png_claiming(2**31 - 1, 2**31 - 1),
        png_claiming(100_000, 1),
        png_claiming(8000, 8000),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",  # Pillow would start Ghostscript
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"II*\0" + b"\0" * 64,
        b"BM" + b"\0" * 64,
        b"8BPS" + b"\0" * 64,
    ],
)
def test_hostile_pictures_are_refused(tokenizers, data):
    refused(tokenizers, "image", data)


def test_pictures_that_are_too_large_for_the_tokenizer_are_shrunk(tokenizers):
    assert tokenizers["image"].config.max_side == 16
    assert decode_media("image", png(12, 8), tokenizers, LIMITS).shape == (8, 12, 3)
    assert decode_media("image", png(400, 100), tokenizers, LIMITS).shape == (4, 16, 3)
    assert decode_media("image", png(3000, 1), tokenizers, LIMITS).shape == (1, 16, 3)
    assert "max_side=1000" in refused(tokenizers, "image", png(3000, 1), replace(LIMITS, image_side=1000))


def test_only_one_frame_of_an_animation_is_read(tokenizers):
    file = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(50)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert decode_media("image", file.getvalue(), tokenizers, LIMITS).shape == (8, 8, 3)


def flac_claiming(rate, samples):
    """A FLAC file whose header claims another rate and length: 20 bits of the one, 36 of the other."""
    data = bytearray(wav(4000, 16000, kind="FLAC"))
    packed = int.from_bytes(data[18:26], "big")
    packed = (packed & ~(0xFFFFF << 44) & ~0xFFFFFFFFF) | rate << 44 | samples
    data[18:26] = packed.to_bytes(8, "big")
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0data\xff\xff\xff\xff",
        b"OggS" + b"\0" * 200,
        b"ID3\x04" + b"\0" * 200,
        b"\xff\xfb" + b"\0" * 200,
        b"fLaC" + b"\0" * 200,
        b"FORM\0\0\0\0AIFF",
        wav(9000, 191_999),  # a rate that shares no factor with any other: gigabytes to resample
        wav(2_000_000, 8000),
        wav(40_000, 8000, channels=500),
        flac_claiming(16000, 2**36 - 1),
        flac_claiming(655_350, 2**30),
        flac_claiming(1, 4000),
    ],
)
def test_hostile_sounds_are_refused(tokenizers, data):
    limits = replace(LIMITS, media_bytes=2**30)
    refused(tokenizers, "speech", data, limits)


def test_sounds_are_measured_by_their_samples_whatever_they_claim(tokenizers):
    assert "sound_samples=1000" in refused(tokenizers, "speech", wav(600, 800, 2), replace(LIMITS, sound_samples=1000))
    assert "sound_seconds=0.5" in refused(tokenizers, "speech", wav(600, 800), replace(LIMITS, sound_seconds=0.5))
    assert len(decode_media("speech", wav(600, 800, 2), tokenizers, LIMITS)) == 600
    assert len(decode_media("speech", wav(1600, 16000, kind="FLAC"), tokenizers, LIMITS)) == 80


class Clips:
    """Stands in for a video tokenizer: takes what the server lets through."""

    def read(self, data):
        return data


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    pytest.importorskip("av", reason="pip install 'anyglot[video]' to test videos")
    from anyglot.tokenizers.clips import write_clip

    def make(frames, side=16, ending="mp4"):
        path = tmp_path_factory.mktemp("clips") / f"clip.{ending}"
        write_clip(np.zeros((frames, side, side, 3), np.uint8), 10, path)
        return path.read_bytes()

    return make


@pytest.mark.parametrize("ending", ["mp4", "webm", "gif"])
def test_videos_are_counted_before_they_are_decoded(clip, ending):
    data = clip(30, ending=ending)
    assert decode_media("video", data, {"video": Clips()}, LIMITS) is data
    for limits in (replace(LIMITS, video_frames=29), replace(LIMITS, video_pixels=30 * 16 * 16 - 1)):
        assert "video_frames" in refused({"video": Clips()}, "video", data, limits)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"#EXTM3U\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\0\0\0\x18ftypmp42" + b"\0" * 100,
        b"\x1a\x45\xdf\xa3" + b"\0" * 100,
        b"GIF89a\xff\xff\xff\xff\0\0\0",
        b"RIFF\0\0\0\0AVI LIST",
    ],
)
def test_hostile_videos_are_refused(data):
    pytest.importorskip("av", reason="pip install 'anyglot[video]' to test videos")
    refused({"video": Clips()}, "video", data)


def test_a_modality_that_the_model_lacks_is_named(tokenizers):
    for modality, content in (("video", b"x"), ("graph", wire.Graph(smiles="C")), ("nothing", b"")):
        assert repr(modality) in refused(tokenizers, modality, content)


class Molecules:
    """Stands in for a molecule tokenizer that takes any."""

    def read(self, data):
        return molecules.read(data)


def test_molecules_are_limited():
    pytest.importorskip("rdkit", reason="pip install 'anyglot[graph]' to test molecules")
    tokenizers = {"graph": Molecules()}
    assert len(decode_media("graph", wire.Graph(smiles="CCO"), tokenizers, LIMITS)) == 3


@pytest.mark.parametrize(
    "smiles", ["C" * 1001, "C" * 300, "", "(" * 900, "C1" * 400, "nothing", f"[{'9' * 900}C]", "C\0", "C.C", "C\nC"]
)
def test_hostile_molecules_are_refused(smiles):
    pytest.importorskip("rdkit", reason="pip install 'anyglot[graph]' to test molecules")
    refused({"graph": Molecules()}, "graph", wire.Graph(smiles=smiles))


@pytest.mark.parametrize(
    "given", ["", "data:", "data:,x", "data:image/png,x", "data:image/png;base64,@@", "data:;base64,A",
              "http://169.254.169.254/latest", "https://example.org/a.png", "file:///etc/passwd", "/etc/passwd",
              "data:image/png;base64", "DATA:image/png;base64 ,AAAA", "ftp://x/y", "//x/y"]
)  # fmt: skip
def test_only_data_urls_are_read(tokenizers, given):
    part = wire.ImagePart(type="image_url", image_url=wire.Url(url=given))
    with pytest.raises(MediaError):
        media.part_of(part, tokenizers, LIMITS)


def test_bytes_are_counted_before_base64_is_undone(tokenizers, monkeypatch):
    limits = replace(LIMITS, media_bytes=1000)
    monkeypatch.setattr(media.base64, "b64decode", lambda *a, **k: pytest.fail("decoded"))
    part = wire.ImagePart(type="image_url", image_url=wire.Url(url=url(b"\0" * 2000)))
    with pytest.raises(MediaError, match="media_bytes=1000"):
        media.part_of(part, tokenizers, limits)


SEEDS = [png(), png(100, 1), wav(), wav(2000, 8000, kind="FLAC"), wav(2000, 8000, 2, kind="OGG")]


@settings(max_examples=150, derandomize=True, database=None)
@given(data=st.data())
def test_damaged_files_are_refused_or_read_and_nothing_else(model, data):
    seed = data.draw(st.sampled_from(SEEDS))
    content = bytearray(seed)
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(st.integers(0, min(len(seed), 200) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(seed)))])
    for modality in ("image", "speech"):
        try:
            medium = decode_media(modality, content, model.tokenizers, LIMITS)
            model.tokenizers[modality].encode([medium])
        except AnyglotError:
            pass


def test_base64_of_uploads_is_the_same_everywhere(tokenizers):
    data = base64.b64encode(wav()).decode()
    parts = [
        wire.InputAudioPart(type="input_audio", input_audio=wire.InputAudio(data=data)),
        wire.AudioPart(type="audio_url", audio_url=wire.Url(url=f"data:audio/wav;base64,{data}")),
        wire.FilePart(type="file", file=wire.File(modality="speech", data=data)),
    ]
    sounds = [media.part_of(part, tokenizers, LIMITS).data for part in parts]
    assert all(np.array_equal(sound, sounds[0]) for sound in sounds)
