"""The image tokenizer (VQGAN, arXiv 2012.09841): pictures of any size to codes `[rows, columns, levels]` and back.

Sides are padded at the bottom and right, by repeating the last pixels, to multiples of the stride. The codes tell the
grid, not the pixels, so `decode` gives rows * stride by columns * stride pixels unless it is told the sizes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from anyglot.errors import AnyglotError, MediaError
from anyglot.files import atomic_path
from anyglot.tokenizers import quantizers
from anyglot.tokenizers.module import TokenizerModule
from anyglot.tokenizers.networks.conv import ConvConfig, Decoder, Encoder
from anyglot.tokenizers.pictures import read_picture
from anyglot.tokenizers.quantizers.base import Quantized
from anyglot.tokenizers.spec import Axis, CodeSpec


@dataclass
class ImageConfig:
    """network: shape of encoder and decoder. quantizer: {"type": ..., and its fields}. dim: width of the latents.
    max_side, max_pixels: larger pictures are refused, by their header, before a pixel is decoded.
    batch_pixels: how many pixels `encode` and `decode` put through the network at once."""

    network: ConvConfig = field(default_factory=ConvConfig)
    quantizer: dict[str, Any] = field(default_factory=dict)  # a default with keys would merge into the user's
    dim: int = 4
    max_side: int = 1024
    max_pixels: int = 1024 * 1024
    batch_pixels: int = 256 * 1024


@dataclass
class Reconstruction:
    """output: `[batch, 3, height, width]`, about [-1, 1]. quantized: of the latents, `[batch, rows, columns, dim]`."""

    output: Tensor
    quantized: Quantized


class ImageTokenizer(TokenizerModule):
    """The `ModalityTokenizer` for pictures; as a module, the autoencoder that training sees."""

    modality: ClassVar[str] = "image"
    config_class: ClassVar[type] = ImageConfig
    config: ImageConfig
    suffix: ClassVar[str] = ".png"

    def __init__(self, config: ImageConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config.network, config.dim)
        self.quantizer = quantizers.build(config.quantizer, config.dim, "quantizer")
        self.decoder = Decoder(config.network, config.dim)
        self.stride = config.network.stride

    @property
    def spec(self) -> CodeSpec:
        """Two sized axes, so that a header says how many rows and columns of codes follow."""
        size = -(-self.config.max_side // self.stride)
        axes = tuple(Axis(name, "sized", size=size, units=self.stride) for name in ("height", "width"))
        return CodeSpec("image", self.quantizer.levels, axes)

    def forward(self, pictures: Tensor, mask: Tensor | None = None) -> Reconstruction:
        """Pictures `[batch, 3, height, width]` in [-1, 1], sides multiples of the stride.

        mask: bool `[batch, rows, columns]`, False where a code is padding that the quantizer must not learn from.
        Raises AnyglotError for other sides.
        """
        if pictures.shape[2] % self.stride or pictures.shape[3] % self.stride:
            raise AnyglotError(
                f"pictures of {pictures.shape[2]} x {pictures.shape[3]} pixels are no multiple of the stride "
                f"{self.stride}; set the objective's height and width to multiples of it"
            )
        quantized = self.quantizer(self.encoder(pictures).float(), mask)
        return Reconstruction(self.decoder(quantized.vectors).float(), quantized)

    @torch.no_grad()
    def encode(self, media: Sequence[np.ndarray]) -> list[Tensor]:
        """Pictures, uint8 `[height, width, 3]`, to codes `[rows, columns, levels]`, on the CPU.

        Pictures of one grid go through together, so neighbours of other sizes do not matter. Raises MediaError.
        """
        grids = [self._checked(picture, f"picture {index}") for index, picture in enumerate(media)]
        codes: dict[int, Tensor] = {}
        for grid, batch in self._batches(grids):
            padded = np.stack([pad_to(media[index], grid[0] * self.stride, grid[1] * self.stride) for index in batch])
            with _exact(self.device):
                encoded = self.quantizer.encode(self.encoder(to_tensor(padded).to(self.device))).cpu()
            codes.update(zip(batch, encoded, strict=True))
        return [codes[index].clone() for index in range(len(media))]

    @torch.no_grad()
    def decode(self, codes: Sequence[Tensor], sizes: Sequence[tuple[int, int]] | None = None) -> list[np.ndarray]:
        """Codes `[rows, columns, levels]` to pictures, uint8, cropped to `sizes` (height, width) where those are known.

        Raises AnyglotError for codes that are no grid, or not of this codebook.
        """
        for code in codes:
            if code.ndim != 3 or code.numel() == 0:
                raise AnyglotError(f"image codes must be [rows, columns, levels], got {list(code.shape)}")
        pictures: dict[int, np.ndarray] = {}
        for _, batch in self._batches([(code.shape[0], code.shape[1]) for code in codes]):
            stacked = torch.stack([codes[index] for index in batch]).to(self.device)
            with _exact(self.device):
                output = to_pictures(self.decoder(self.quantizer.decode(stacked)))
            pictures.update(zip(batch, output, strict=True))
        if sizes is None:
            return [pictures[index] for index in range(len(codes))]
        return [pictures[index][:height, :width] for index, (height, width) in enumerate(sizes)]

    def read(self, source: str | Path | bytes) -> np.ndarray:
        """A picture file or its bytes, upright, on white. Raises MediaError. See `pictures.read_picture`."""
        return read_picture(source, self.config.max_side, self.config.max_pixels)

    def write(self, media: np.ndarray, path: str | Path) -> None:
        """Write a picture, atomically, in the format of the path's ending."""
        from PIL import Image

        with atomic_path(path) as temporary:
            Image.fromarray(media).save(temporary)

    def _checked(self, picture: np.ndarray, name: str) -> tuple[int, int]:
        """The grid of a picture: rows and columns of codes."""
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
            shape = list(picture.shape)
            raise MediaError(f"{name}: expected uint8 [height, width, 3], got {picture.dtype} {shape}; use `read`")
        height, width = picture.shape[:2]
        if max(height, width) > self.config.max_side or height * width > self.config.max_pixels:
            raise MediaError(
                f"{name}: {width} x {height} pixels, more than max_side={self.config.max_side} or "
                f"max_pixels={self.config.max_pixels}; resize it or raise the limit"
            )
        return -(-height // self.stride), -(-width // self.stride)

    def _batches(self, grids: Sequence[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], list[int]]]:
        """Indices in batches of one grid, each at most batch_pixels (but at least one picture)."""
        members: dict[tuple[int, int], list[int]] = {}
        for index, grid in enumerate(grids):
            members.setdefault(grid, []).append(index)
        for grid, indices in members.items():
            count = max(1, self.config.batch_pixels // (grid[0] * grid[1] * self.stride**2))
            for start in range(0, len(indices), count):
                yield grid, indices[start : start + count]


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 `[batch, height, width, 3]` to float `[batch, 3, height, width]` in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_pictures(output: Tensor) -> np.ndarray:
    """Float `[batch, 3, height, width]` in [-1, 1] to uint8 `[batch, height, width, 3]`, clipped and rounded."""
    scaled = output.float().clamp(-1, 1).add(1).mul(127.5).round()
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def pad_to(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Repeat the last row and column of a picture up to a size at least its own."""
    return np.pad(picture, ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)), mode="edge")


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """fp32 without autocast or TF32: codes must not depend on the settings of whoever asks for them."""
    with torch.autocast(device.type, enabled=False), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


TOKENIZER = ImageTokenizer
