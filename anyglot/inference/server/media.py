"""Media as they come from outside, into memory. `decode_media` is the only way in, for every route.

What a file claims about itself is held against the limits before it is decoded, and only kinds of files that are
expected reach a decoder. Nothing is fetched: content is a `data:` URL or base64.
"""

import base64
import binascii
import io
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from anyglot.data.documents import Part
from anyglot.errors import AnyglotError, MediaError
from anyglot.inference.server import wire
from anyglot.inference.server.config import Limits
from anyglot.tokenizers.base import Medium, ModalityTokenizer
from anyglot.tokenizers.pictures import read_picture

logger = logging.getLogger(__name__)

# First bytes -> the only formats that a decoder is given. Others are more ways in than anybody needs.
PICTURES = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"RIFF": "WEBP"}
SOUNDS = {b"RIFF": ("WAV", "WAVEX"), b"fLaC": ("FLAC",), b"OggS": ("OGG",), b"ID3": ("MP3",), b"\xff": ("MP3",)}
VIDEOS = {b"\x1a\x45\xdf\xa3": "matroska", b"GIF87a": "gif", b"GIF89a": "gif"}  # and MP4, whose mark is not first
# Resampling from a rate that shares no factor with the tokenizer's takes gigabytes; these are the rates of real sounds.
RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000)

Content = bytes | wire.Motion | wire.Graph | wire.Item


def part_of(part: wire.TextPart | wire.MediaPart, tokenizers: Mapping[str, ModalityTokenizer], limits: Limits) -> Part:
    """A content part of a request, decoded. Raises MediaError that names the part."""
    match part:
        case wire.TextPart():
            return Part("text", text=part.text)
        case wire.ImagePart():
            modality, content = "image", _of_url(part.image_url.url, limits)
        case wire.InputAudioPart():
            modality, content = "speech", _of_base64(part.input_audio.data, limits)
        case wire.AudioPart():
            modality, content = "speech", _of_url(part.audio_url.url, limits)
        case wire.VideoPart():
            modality, content = "video", _of_url(part.video_url.url, limits)
        case wire.MotionPart():
            return Part("motion", data=decode_media("motion", part.motion, tokenizers, limits))
        case wire.GraphPart():
            return Part("graph", data=decode_media("graph", part.graph, tokenizers, limits))
        case wire.ItemPart():
            return Part("item", data=decode_media("item", part.item, tokenizers, limits))
        case wire.FilePart():
            modality, content = part.file.modality, _of_base64(part.file.data, limits)
    return Part(modality, data=decode_media(modality, content, tokenizers, limits))


def decode_media(
    modality: str, content: Content, tokenizers: Mapping[str, ModalityTokenizer], limits: Limits
) -> Medium:
    """A medium in memory, as its tokenizer takes it.

    Args:
        content: a file's bytes, or what stands for one in a request.
        tokenizers: by modality; each has limits of its own besides.
    Raises:
        MediaError: a modality that the model does not read, content that is none of it, or beyond a limit.
    """
    tokenizer = tokenizers.get(modality)
    if tokenizer is None:
        raise MediaError(f"this model reads no {modality!r}; it reads: {', '.join(['text', *tokenizers])}")
    try:
        return _decode(modality, content, tokenizer, limits)
    except AnyglotError:
        raise
    except Exception as error:  # libraries raise every kind of error for files that are broken on purpose
        logger.info("%s that cannot be decoded", modality, exc_info=error)
        raise MediaError(f"{modality}: cannot be decoded; export it again") from error


def _decode(modality: str, content: Content, tokenizer: ModalityTokenizer, limits: Limits) -> Medium:
    if isinstance(content, bytes):
        if len(content) > limits.media_bytes:
            raise MediaError(f"{modality}: {len(content)} bytes, more than media_bytes={limits.media_bytes}")
        return FILES.get(modality, _file)(content, tokenizer, limits)
    match content:
        case wire.Motion():
            return _motion(content, tokenizer, limits)
        case wire.Graph():
            return _graph(content, tokenizer, limits)
        case wire.Item():
            return _item(content, tokenizer)


def _of_url(url: str, limits: Limits) -> bytes:
    header, comma, payload = url.partition(",")
    if header[:5].lower() != "data:" or not comma or not header.lower().endswith(";base64"):
        raise MediaError("only data: URLs in base64 are read, nothing is fetched: data:image/png;base64,...")
    return _of_base64(payload, limits)


def _of_base64(text: str, limits: Limits) -> bytes:
    if len(text) > limits.media_bytes * 4 // 3 + 4:
        raise MediaError(f"a medium of more than media_bytes={limits.media_bytes}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError("a medium whose base64 is damaged; send it again") from error


def _image(data: bytes, tokenizer: ModalityTokenizer, limits: Limits) -> np.ndarray:
    """Pixels `[height, width, 3]`, shrunk to what the tokenizer takes."""
    from PIL import Image

    kind = next((kind for mark, kind in PICTURES.items() if data.startswith(mark)), None)
    if kind is None or (kind == "WEBP" and data[8:12] != b"WEBP"):
        raise MediaError("image: not a PNG, JPEG, WebP or GIF file")
    picture = read_picture(data, limits.image_side, limits.image_pixels, (kind,))
    config: Any = getattr(tokenizer, "config", None)
    side = getattr(config, "max_side", limits.image_side)
    pixels = getattr(config, "max_pixels", side * side)
    height, width = picture.shape[:2]
    scale = min(1.0, side / max(height, width), (pixels / (height * width)) ** 0.5)
    if scale == 1.0:
        return picture
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _sound(data: bytes, tokenizer: ModalityTokenizer, limits: Limits) -> Medium:
    import soundfile

    kinds = next((kinds for mark, kinds in SOUNDS.items() if data.startswith(mark)), ())
    if not kinds:
        raise MediaError("audio: not a WAV, FLAC, Ogg or MP3 file")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            kind, frames, rate, channels = file.format, file.frames, file.samplerate, file.channels
    except (soundfile.LibsndfileError, ValueError) as error:
        raise MediaError("audio: not a sound file that can be decoded") from error
    if kind not in kinds:
        raise MediaError("audio: not a WAV, FLAC, Ogg or MP3 file")
    own: Any = getattr(getattr(tokenizer, "config", None), "sample_rate", 0)
    if rate not in (*RATES, own):
        raise MediaError(f"audio: {rate} samples a second; send one of {', '.join(map(str, RATES))}")
    if frames > limits.sound_seconds * rate or frames * channels > limits.sound_samples:
        raise MediaError(
            f"audio: {frames} samples of {channels} channels at {rate} a second, more than "
            f"sound_seconds={limits.sound_seconds:g} or sound_samples={limits.sound_samples}"
        )
    return tokenizer.read(data)


def _video(data: bytes, tokenizer: ModalityTokenizer, limits: Limits) -> Medium:
    from anyglot.tokenizers.clips import measure_clip

    kind = next((kind for mark, kind in VIDEOS.items() if data.startswith(mark)), None)
    kind = "mp4" if data[4:8] == b"ftyp" else kind
    if kind is None:
        raise MediaError("video: not an MP4, WebM, Matroska or GIF file")
    size = measure_clip(data, kind, limits.video_frames, limits.image_pixels)
    if size.frames > limits.video_frames or size.frames * size.width * size.height > limits.video_pixels:
        raise MediaError(
            f"video: {size.frames} or more frames of {size.width} x {size.height} pixels, more than "
            f"video_frames={limits.video_frames} or video_pixels={limits.video_pixels}; cut or shrink it"
        )
    return tokenizer.read(data)


def _file(data: bytes, tokenizer: ModalityTokenizer, _limits: Limits) -> Medium:
    """A file of a modality for which no server knows more than its tokenizer does."""
    return tokenizer.read(data)


def _motion_file(data: bytes, tokenizer: ModalityTokenizer, limits: Limits) -> Medium:
    """Features of a .bvh or .npy file. A .bvh is measured first: a joint without channels costs it nothing."""
    from anyglot.tokenizers.skeletons.bvh import measure_bvh

    joints, frames = measure_bvh(data) if data.lstrip().startswith(b"HIERARCHY") else (0, 0)
    _check_motion(frames, joints, limits)
    motion: np.ndarray = tokenizer.read(data)
    _check_motion(len(motion), 0, limits)
    return motion


def _graph_file(data: bytes, tokenizer: ModalityTokenizer, limits: Limits) -> Medium:
    """The molecule of a .smi file: a line of SMILES, maybe with a name behind a blank or tab."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MediaError("graph: not a text file with SMILES; export the molecule again") from error
    return _graph(wire.Graph(smiles=text.strip().replace("\t", " ")), tokenizer, limits)


FILES: dict[str, Callable[[bytes, ModalityTokenizer, Limits], Medium]] = {
    "image": _image,
    "speech": _sound,
    "video": _video,
    "motion": _motion_file,
    "graph": _graph_file,
}


def _check_motion(frames: int, joints: int, limits: Limits) -> None:
    if frames > limits.motion_frames or joints > limits.motion_joints:
        raise MediaError(
            f"motion: {frames} frames of {joints} joints, more than motion_frames={limits.motion_frames} or "
            f"motion_joints={limits.motion_joints}"
        )


def _motion(motion: wire.Motion, tokenizer: ModalityTokenizer, limits: Limits) -> np.ndarray:
    """Features float32 `[frames, features]`."""
    from anyglot.tokenizers.motion import MotionTokenizer
    from anyglot.tokenizers.skeletons import humanml3d

    assert isinstance(tokenizer, MotionTokenizer)
    frames = motion.joints if motion.features is None else motion.features
    longest = max(map(len, frames), default=0)
    _check_motion(len(frames), longest if motion.features is None else 0, limits)
    if motion.fps != tokenizer.config.fps:
        raise MediaError(f"motion: {motion.fps:g} frames a second; this model's motions have {tokenizer.config.fps:g}")
    if not frames or any(len(frame) != longest for frame in frames):
        raise MediaError("motion: has no frames, or not all of one size")
    if motion.features is not None:
        return np.array(motion.features, dtype=np.float32)
    if tokenizer.config.skeleton != "humanml3d":
        raise MediaError("motion: this model's motions cannot be made from joints; send `features`")
    if any(point is None for frame in motion.joints for point in frame):
        raise MediaError("motion: a joint that is not seen; this model's motions need all of them")
    values = np.array(motion.joints, dtype=np.float64)
    if np.abs(values).max() > 1e6:
        raise MediaError("motion: joints further than 1,000 km away")
    if values.shape[1] != humanml3d.JOINTS or len(values) < 2:
        raise MediaError(f"motion: {values.shape[1]} joints; give {humanml3d.JOINTS} of each of two frames or more")
    return humanml3d.to_features(values).astype(np.float32)


def _graph(graph: wire.Graph, tokenizer: ModalityTokenizer, limits: Limits) -> Medium:
    if len(graph.smiles) > limits.smiles:
        raise MediaError(f"graph: a SMILES of {len(graph.smiles)} characters, more than smiles={limits.smiles}")
    if not graph.smiles.isprintable():
        raise MediaError("graph: a SMILES of other than printable characters")
    molecule = tokenizer.read(graph.smiles.encode())
    if len(molecule) > limits.nodes:
        raise MediaError(f"graph: {len(molecule)} nodes, more than nodes={limits.nodes}")
    return molecule


def _item(item: wire.Item, tokenizer: ModalityTokenizer) -> Medium:
    if item.title is None:
        if item.id.lstrip().startswith("{"):  # which would be read as an item in JSON
            raise MediaError(f"item {item.id[:40]!r} is not in the catalogue")
        return tokenizer.read(item.id.encode())
    return tokenizer.read(json.dumps({"id": item.id, "text": item.title}).encode())
