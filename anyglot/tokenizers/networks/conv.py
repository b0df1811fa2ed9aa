"""Convolutional encoder and decoder for pictures, the VQGAN shape (Esser et al., arXiv 2012.09841).

Pictures are `[batch, 3, height, width]`, latents channel-last `[batch, rows, columns, dim]`; inside, everything is
in the channels-last memory format, which convolutions in bf16 are fastest in.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle, scaled_dot_product_attention, silu

from anyglot.errors import ConfigError


@dataclass
class ConvConfig:
    """Shape of both networks; the decoder mirrors the encoder.

    patch: side of the pixel blocks folded into channels at the entrance (1: none, the classic VQGAN). It saves
        most of the arithmetic, which lies at full resolution.
    channels: width at each resolution, finest first; each further entry halves the resolution.
    blocks: residual blocks per resolution in the encoder. decoder_blocks: the same in the decoder.
    attention: self-attention over the coarsest grid, after its blocks.
    groups: of the group normalisation; must divide every width.
    """

    patch: int = 1
    channels: list[int] = field(default_factory=lambda: [64, 128, 256])
    blocks: int = 2
    decoder_blocks: int = 2
    attention: bool = True
    groups: int = 32

    def __post_init__(self) -> None:
        if self.patch < 1 or self.blocks < 0 or self.decoder_blocks < 0 or not self.channels:
            raise ConfigError("network: patch must be >= 1, blocks >= 0 and channels not empty")
        for width in self.channels:
            if width % self.groups:
                raise ConfigError(f"network.channels: {width} is not a multiple of network.groups ({self.groups})")

    @property
    def stride(self) -> int:
        """Pixels per code along each side."""
        return int(self.patch * 2 ** (len(self.channels) - 1))


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), `[batch, channels, height, width]`; starts as the identity."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        return x + self.conv2(silu(self.norm2(h)))


class AttentionBlock(nn.Module):
    """x + self-attention over all grid cells, heads of 64 channels; starts as the identity."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.heads = max(1, width // 64)
        self.norm = nn.GroupNorm(groups, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, columns = x.shape
        qkv = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)  # [batch, cells, 3 * width]
        q, k, v = qkv.reshape(batch, height * columns, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, height, columns, width)
        return x + self.out(mixed.permute(0, 3, 1, 2))


class Downsample(nn.Conv2d):
    """Halve height and width by a convolution of stride 2."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out, 3, stride=2, padding=1)


class Upsample(nn.Module):
    """Double height and width: nearest neighbour, then a convolution (no checkerboard)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))


class Encoder(nn.Module):
    """Pictures `[batch, 3, height, width]`, sides multiples of the stride, to latents `[batch, rows, columns, dim]`."""

    def __init__(self, config: ConvConfig, dim: int) -> None:
        super().__init__()
        widths = config.channels
        self.patch = config.patch
        self.entrance = nn.Conv2d(3 * config.patch**2, widths[0], 3, padding=1)
        layers: list[nn.Module] = []
        for level, width in enumerate(widths):
            if level:
                layers.append(Downsample(widths[level - 1], width))
            layers += [ResidualBlock(width, config.groups) for _ in range(config.blocks)]
        if config.attention:
            layers.append(AttentionBlock(widths[-1], config.groups))
        self.layers = nn.Sequential(*layers)
        self.norm = nn.GroupNorm(config.groups, widths[-1])
        self.exit = nn.Conv2d(widths[-1], dim, 1)
        self.to(memory_format=torch.channels_last)

    def forward(self, pictures: Tensor) -> Tensor:
        x = pixel_unshuffle(pictures, self.patch).contiguous(memory_format=torch.channels_last)
        x = self.layers(self.entrance(x))
        return self.exit(silu(self.norm(x))).permute(0, 2, 3, 1)


class Decoder(nn.Module):
    """Latents `[batch, rows, columns, dim]` to pictures `[batch, 3, rows * stride, columns * stride]`."""

    def __init__(self, config: ConvConfig, dim: int) -> None:
        super().__init__()
        widths = config.channels
        self.patch = config.patch
        self.entrance = nn.Conv2d(dim, widths[-1], 3, padding=1)
        layers: list[nn.Module] = []
        if config.attention:
            layers.append(AttentionBlock(widths[-1], config.groups))
        for level in reversed(range(len(widths))):
            layers += [ResidualBlock(widths[level], config.groups) for _ in range(config.decoder_blocks)]
            if level:
                layers.append(Upsample(widths[level], widths[level - 1]))
        self.layers = nn.Sequential(*layers)
        self.norm = nn.GroupNorm(config.groups, widths[0])
        self.exit = nn.Conv2d(widths[0], 3 * config.patch**2, 3, padding=1)
        self.to(memory_format=torch.channels_last)

    def forward(self, latents: Tensor) -> Tensor:
        x = latents.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        x = self.layers(self.entrance(x))
        return pixel_shuffle(self.exit(silu(self.norm(x))), self.patch)
