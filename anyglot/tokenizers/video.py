"""Video tokenizer: causal encoder, any quantizer, causal decoder.

The networks are 3-D convolutions (MAGVIT-v2, Yu et al., arXiv:2310.05737) or transformers (C-ViViT, Villegas et al.,
arXiv:2210.02399).

The first frame has codes of its own, every further `time_stride` frames share theirs: a clip of one frame is a picture,
and the same weights code both. Encoder and decoder are causal and stream.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from anyglot.config import typed
from anyglot.errors import AnyglotError, ConfigError, MediaError
from anyglot.tokenizers import quantizers
from anyglot.tokenizers.clips import read_clip, write_clip
from anyglot.tokenizers.module import TokenizerModule
from anyglot.tokenizers.networks.causal import State
from anyglot.tokenizers.networks.causal_video import VideoConvConfig, VideoDecoder, VideoEncoder
from anyglot.tokenizers.networks.video_transformer import (
    VideoTransformerConfig,
    VideoTransformerDecoder,
    VideoTransformerEncoder,
)
from anyglot.tokenizers.quantizers.base import Quantized
from anyglot.tokenizers.spec import Axis, CodeSpec

SHAPES: dict[str, type[Any]] = {"conv": VideoConvConfig, "transformer": VideoTransformerConfig}


@dataclass
class VideoConfig:
    """network: {"type": "conv" (the default) or "transformer", and the fields of `VideoConvConfig` or
    `VideoTransformerConfig`}: shape of encoder and decoder. quantizer: {"type": ..., and its fields}. dim: width of the
    latents. fps: frames a second that clips are read and written at, 0 for all of a file. shorter_side: pixels that
    files are scaled down to, 0 for as they are. max_side, max_pixels, max_frames: larger frames and longer clips are
    refused.
    batch_pixels: how many pixels, of all frames, `encode` and `decode` put through the network at once."""

    network: dict[str, Any] = field(default_factory=dict)
    quantizer: dict[str, Any] = field(default_factory=dict)
    dim: int = 18
    fps: float = 8.0
    shorter_side: int = 0
    max_side: int = 1024
    max_pixels: int = 1024 * 1024
    max_frames: int = 257
    batch_pixels: int = 1024 * 1024

    def __post_init__(self) -> None:
        if self.fps < 0 or self.shorter_side < 0:
            raise ConfigError(f"fps and shorter_side must be 0 or more, got {self.fps:g} and {self.shorter_side}")
        if min(self.dim, self.max_side, self.max_pixels, self.max_frames, self.batch_pixels) < 1:
            raise ConfigError("dim, max_side, max_pixels, max_frames and batch_pixels must be 1 or more")
        self.shape()

    def shape(self) -> VideoConvConfig | VideoTransformerConfig:
        """The network's fields, checked. Raises ConfigError."""
        fields = dict(self.network)
        kind = fields.pop("type", "conv")
        if kind not in SHAPES:
            raise ConfigError(f"network.type: one of {', '.join(SHAPES)}, got {kind!r}")
        return typed(SHAPES[kind], fields, "network")


@dataclass
class Reconstruction:
    """output: `[batch, 3, time, height, width]`, about [-1, 1]. quantized: of the latents, `[batch, frames, rows,
    columns, dim]`."""

    output: Tensor
    quantized: Quantized


class VideoTokenizer(TokenizerModule):
    """The `ModalityTokenizer` for video; as a module, the autoencoder that training sees."""

    modality: ClassVar[str] = "video"
    config_class: ClassVar[type] = VideoConfig
    config: VideoConfig
    suffix: ClassVar[str] = ".mp4"

    def __init__(self, config: VideoConfig) -> None:
        super().__init__(config)
        shape = config.shape()
        self.encoder: nn.Module
        self.decoder: nn.Module
        if isinstance(shape, VideoConvConfig):
            self.encoder, self.decoder = VideoEncoder(shape, config.dim), VideoDecoder(shape, config.dim)
        else:
            self.encoder = VideoTransformerEncoder(shape, config.dim)
            self.decoder = VideoTransformerDecoder(shape, config.dim)
        self.quantizer = quantizers.build(config.quantizer, config.dim, "quantizer")
        self.stride, self.time_stride = shape.stride, shape.time_stride

    @property
    def spec(self) -> CodeSpec:
        """Time is open; height and width are written in a header."""
        side = -(-self.config.max_side // self.stride)
        frames = 1 + -(-(self.config.max_frames - 1) // self.time_stride)
        axes = (
            Axis("time", "open", frames, self.time_stride),
            Axis("height", "sized", side, self.stride),
            Axis("width", "sized", side, self.stride),
        )
        return CodeSpec("video", self.quantizer.levels, axes, rate=self.config.fps / self.time_stride)

    def forward(self, clips: Tensor, mask: Tensor | None = None) -> Reconstruction:
        """Clips `[batch, 3, 1 + n * time_stride, height, width]` in [-1, 1], sides multiples of the stride.

        mask: bool `[batch, frames, rows, columns]`, False where a code is padding that the quantizer must not learn
        from. Raises AnyglotError for other sides or numbers of frames.
        """
        if (clips.shape[2] - 1) % self.time_stride or clips.shape[3] % self.stride or clips.shape[4] % self.stride:
            raise AnyglotError(
                f"clips of {clips.shape[2]} frames of {clips.shape[3]} x {clips.shape[4]} pixels do not fit: frames "
                f"must be 1 more than a multiple of {self.time_stride}, sides multiples of {self.stride}"
            )
        quantized = self.quantizer(self.encoder(clips)[0].float(), mask)
        return Reconstruction(self.decoder(quantized.vectors)[0].float(), quantized)

    @torch.no_grad()
    def encode(self, media: Sequence[np.ndarray]) -> list[Tensor]:
        """Clips, uint8 `[frames, height, width, 3]`, to codes `[time, rows, columns, levels]`, on the CPU.

        Clips are padded by repeating the last frame, row and column. Those of one grid go through together.
        Raises MediaError.
        """
        grids = [self._checked(clip, f"clip {index}") for index, clip in enumerate(media)]
        codes: dict[int, Tensor] = {}
        for grid, batch in self._batches(grids):
            padded = np.stack([self._padded(media[index], grid) for index in batch])
            codes.update(zip(batch, self.quantizer.encode(self.encoder(self._tensor(padded))[0]).cpu(), strict=True))
        return [codes[index].clone() for index in range(len(media))]

    @torch.no_grad()
    def decode(self, codes: Sequence[Tensor], sizes: Sequence[tuple[int, int, int]] | None = None) -> list[np.ndarray]:
        """Codes `[time, rows, columns, levels]` to clips, uint8, cropped to `sizes` (frames, height, width).

        Raises AnyglotError for codes of another shape.
        """
        for code in codes:
            if code.ndim != 4 or code.numel() == 0:
                raise AnyglotError(f"video codes must be [time, rows, columns, levels], got {list(code.shape)}")
        clips: dict[int, np.ndarray] = {}
        for _, batch in self._batches([(code.shape[0], code.shape[1], code.shape[2]) for code in codes]):
            stacked = torch.stack([codes[index] for index in batch]).to(self.device)
            clips.update(zip(batch, _frames(self.decoder(self.quantizer.decode(stacked))[0]), strict=True))
        if sizes is None:
            return [clips[index] for index in range(len(codes))]
        return [clips[index][:frames, :height, :width] for index, (frames, height, width) in enumerate(sizes)]

    @torch.no_grad()
    def encode_stream(self, frames: Tensor, state: State = None) -> tuple[Tensor, State]:
        """The next frames of a stream, `[batch, 3, n, height, width]` in [-1, 1], to the codes that are complete.

        Returns codes `[batch, time, rows, columns, levels]` and the state to pass with the next frames. Chunks of any
        length, empty ones too, give together what the whole gives; frames that do not fill a code wait in the state.
        """
        count, _, _, height, width = frames.shape
        none = (count, 0, height // self.stride, width // self.stride, len(self.quantizer.levels))
        if frames.shape[2] == 0:
            return frames.new_zeros(none, dtype=torch.int64), state
        latents, state = self.encoder(frames, state)
        if latents.shape[1] == 0:
            return frames.new_zeros(none, dtype=torch.int64), state
        return self.quantizer.encode(latents), state

    @torch.no_grad()
    def decode_stream(self, codes: Tensor, state: State = None) -> tuple[Tensor, State]:
        """The next codes, `[batch, time, rows, columns, levels]`, to frames `[batch, 3, n, height, width]`."""
        if codes.shape[1] == 0:  # whoever begins a stream with nothing has not begun it
            count, _, rows, columns, _ = codes.shape
            none = torch.zeros(count, 3, 0, rows * self.stride, columns * self.stride, device=self.device)
            return none, state
        return self.decoder(self.quantizer.decode(codes), state)

    @property
    def rate(self) -> float:
        """Frames a second; 0 where it is that of each file."""
        return self.config.fps

    def decode_chunk(self, codes: Tensor, state: State = None, last: bool = False) -> tuple[np.ndarray, State]:
        """The next codes of one clip, `[time, rows, columns, levels]`, time >= 0, to frames; see `StreamingDecoder`.

        A colour may differ by 1 from that of `decode`, which multiplies all frames at once and so rounds otherwise.
        """
        frames, state = self.decode_stream(codes[None].to(self.device), state)
        return _frames(frames)[0], state

    def read(self, source: str | Path | bytes) -> np.ndarray:
        """A video file or its bytes as uint8 `[frames, height, width, 3]`, at `fps`. Raises MediaError."""
        config = self.config
        clip = read_clip(source, config.fps, config.shorter_side, config.max_pixels, config.max_frames)
        self._checked(clip, f"{len(source)} bytes of video" if isinstance(source, bytes) else str(source))
        return clip

    def write(self, media: np.ndarray, path: str | Path) -> None:
        """Write a clip, atomically, as MP4 or GIF."""
        write_clip(media, self.config.fps, path)

    def _checked(self, clip: np.ndarray, name: str) -> tuple[int, int, int]:
        """The grid of a clip: codes along time, rows, columns."""
        if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[3] != 3 or clip.size == 0:
            raise MediaError(
                f"{name}: expected uint8 [frames, height, width, 3], got {clip.dtype} {list(clip.shape)}; use `read`"
            )
        frames, height, width = clip.shape[:3]
        limits = self.config
        if max(height, width) > limits.max_side or height * width > limits.max_pixels or frames > limits.max_frames:
            raise MediaError(
                f"{name}: {frames} frames of {width} x {height} pixels, more than max_side={limits.max_side}, "
                f"max_pixels={limits.max_pixels} or max_frames={limits.max_frames}; cut it, shrink it or raise them"
            )
        return 1 + -(-(frames - 1) // self.time_stride), -(-height // self.stride), -(-width // self.stride)

    def _padded(self, clip: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
        wanted = (1 + (grid[0] - 1) * self.time_stride, grid[1] * self.stride, grid[2] * self.stride)
        missing = [(0, want - have) for want, have in zip(wanted, clip.shape[:3], strict=True)]
        return np.pad(clip, (*missing, (0, 0)), mode="edge")

    def _tensor(self, clips: np.ndarray) -> Tensor:
        """uint8 `[batch, time, height, width, 3]` to float `[batch, 3, time, height, width]` in [-1, 1]."""
        return torch.from_numpy(clips).to(self.device).permute(0, 4, 1, 2, 3).float().div(127.5).sub(1)

    def _batches(self, grids: Sequence[tuple[int, int, int]]) -> Iterator[tuple[tuple[int, int, int], list[int]]]:
        """Indices in batches of one grid, each at most batch_pixels (but at least one clip)."""
        members: dict[tuple[int, int, int], list[int]] = {}
        for index, grid in enumerate(grids):
            members.setdefault(grid, []).append(index)
        for grid, indices in members.items():
            pixels = grid[0] * self.time_stride * grid[1] * grid[2] * self.stride**2
            count = max(1, self.config.batch_pixels // pixels)
            for start in range(0, len(indices), count):
                yield grid, indices[start : start + count]


def _frames(output: Tensor) -> np.ndarray:
    """Float `[batch, 3, time, height, width]` in [-1, 1] to uint8 `[batch, time, height, width, 3]`, rounded."""
    scaled = output.float().clamp(-1, 1).add(1).mul(127.5).round()
    return scaled.to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous().cpu().numpy()


TOKENIZER = VideoTokenizer
