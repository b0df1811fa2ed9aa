"""Clips in and out of video files: frames as uint8, limits checked by the header before a frame is decoded."""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anyglot.errors import AnyglotError, MediaError
from anyglot.files import atomic_path

# A list of videos would be read as one, from wherever it says: no protocol to follow it with is allowed.
ALONE = {"protocol_whitelist": "none"}


def _frames_of(pixels: int) -> dict[str, str]:
    """Options of decoders: no frame of many more pixels, whatever it says of itself. Opening a file decodes its first.

    FFmpeg counts the edges that it pads frames with, up to a megapixel here; what frames really have is checked by us.
    """
    return {"max_pixels": str(2 * pixels + 2**20)}


CODECS = {  # by a file's ending: codec, pixels, options
    "mp4": ("libx264", "yuv420p", {"crf": "16"}),
    "webm": ("libvpx-vp9", "yuv420p", {"crf": "20", "b:v": "0", "cpu-used": "5"}),
    "gif": ("gif", "rgb8", {}),
}


def read_clip(
    source: str | Path | bytes, fps: float, shorter_side: int, max_pixels: int, max_frames: int
) -> np.ndarray:
    """An mp4, webm, gif... file or its bytes as uint8 `[frames, height, width, 3]`.

    Args:
        fps: frames a second of the result: at each of its times the frame that is on show; 0 for all frames.
        shorter_side: pixels that the shorter side is scaled down to; 0 for as it is.
        max_pixels, max_frames: more pixels a frame, or frames in the result, are refused.
    Raises:
        MediaError: naming the file: unreadable, without video, or beyond a limit.
    """
    av = _av()
    name = f"{len(source)} bytes of video" if isinstance(source, bytes) else str(source)
    frames: list[np.ndarray] = []
    try:
        with (
            io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file,
            av.open(file, options=_frames_of(max_pixels), container_options=ALONE) as container,
        ):
            if not container.streams.video:
                raise MediaError(f"{name}: no video in it; remove it from the list")
            stream = container.streams.video[0]
            width, height = stream.codec_context.width, stream.codec_context.height
            stream.codec_context.options = _frames_of(max_pixels)
            if width * height > max_pixels:
                raise MediaError(
                    f"{name}: {width} x {height} pixels a frame, more than max_pixels={max_pixels}; shrink it or raise "
                    "the limit"
                )
            scale = min(1.0, shorter_side / min(width, height)) if shorter_side else 1.0
            size = {"width": round(width * scale), "height": round(height * scale)}
            start: float | None = None
            for frame in container.decode(stream):
                start = frame.time if start is None else start
                due = 1 if not fps or frame.time is None else int((frame.time - start) * fps + 1e-6) + 1 - len(frames)
                if due <= 0 and fps:
                    continue
                if len(frames) + due > max_frames:  # before they are made: a frame may be on show for years
                    raise MediaError(
                        f"{name}: more than max_frames={max_frames} frames at {fps or 'its own'} a second; cut it or "
                        "raise the limit"
                    )
                frames += [frame.to_ndarray(format="rgb24", **size)] * due
    except (av.FFmpegError, OSError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else "not a video file that can be decoded"
        raise MediaError(f"{name}: {reason}; give an mp4, webm or gif file, or remove it from the list") from error
    if not frames:
        raise MediaError(f"{name}: no frames in it; remove it from the list")
    return np.stack(frames)


class ClipSize(NamedTuple):
    """width, height: in pixels, as the header says. frames: pieces of compressed video."""

    width: int
    height: int
    frames: int


def measure_clip(data: bytes, kind: str, most: int, max_pixels: int) -> ClipSize:
    """How large a video file is, by its header and by counting, without decoding more than opening it does.

    Args:
        kind: FFmpeg's name of its format; it is read as no other. most: frames after which counting stops.
        max_pixels: of a frame; larger ones are not decoded to look at them.
    Raises:
        MediaError: unreadable, without video, or with frames that are too large.
    """
    av = _av()
    try:
        source = io.BytesIO(data)
        with av.open(source, format=kind, options=_frames_of(max_pixels), container_options=ALONE) as container:
            if not container.streams.video:
                raise MediaError(f"{len(data)} bytes of video: no video in it")
            stream = container.streams.video[0]
            frames = 0
            for packet in container.demux(stream):
                frames += packet.size > 0
                if frames > most:
                    break
            size = ClipSize(stream.codec_context.width, stream.codec_context.height, frames)
            if not all(size) or size.width * size.height > max_pixels:
                raise MediaError(
                    f"{len(data)} bytes of video: {frames} frames of {size.width} x {size.height} pixels; "
                    f"give some, of at most {max_pixels} pixels each"
                )
            return size
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"{len(data)} bytes of video: not a video file that can be decoded") from error


def write_clip(frames: np.ndarray, fps: float, path: str | Path) -> None:
    """Write uint8 `[frames, height, width, 3]`, atomically: H.264 in MP4, VP9 in WebM, or GIF by the path's ending."""
    av = _av()
    ending = Path(path).suffix.lstrip(".").lower()
    codec, pixels, options = CODECS.get(ending, CODECS["mp4"])
    if pixels == "yuv420p":  # its chroma is halved: sides must be even
        frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format=ending or "mp4") as container:
        stream = container.add_stream(codec, rate=Fraction(fps or 24).limit_denominator(1000))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        stream.options = options
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise AnyglotError("video files need PyAV: pip install 'anyglot[video]'") from error
    return av
