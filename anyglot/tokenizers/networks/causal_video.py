"""Causal 3-D convolutions for video, where one frame is a picture (MAGVIT-v2, Yu et al., arXiv:2310.05737).

Frames are `[batch, channels, time, height, width]`, latents channel-last `[batch, time, rows, columns, dim]`. Every
layer is `output, state = layer(input, state)` as in `causal.py`: a clip is one chunk of a stream, so that streaming
equals offline by construction, for chunks of any length. Norms act on each frame alone, or the
future would leak through them.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm, interpolate, pad, pixel_shuffle, pixel_unshuffle, silu

from anyglot.errors import ConfigError
from anyglot.tokenizers.networks.causal import Causal, CausalResidual, CausalSequential, State
from anyglot.tokenizers.networks.video_attention import AxialAttention


@dataclass
class VideoConvConfig:
    """Shape of both networks; the decoder mirrors the encoder.

    patch: side of the pixel blocks folded into channels at the entrance. channels: width at each resolution, finest
    first; each further entry is a step down. halve_time: for each step, whether it halves the number of frames: T of
    them become 1 + ceil((T - 1) / 2), the first staying alone. halve_space: for each, whether it halves height and
    width; [] for all. kernel: of the convolutions over time. blocks, decoder_blocks: residual blocks per resolution.
    groups: of the group normalisation. factorised: each 3-D convolution is one over space, then one over time (VidTok,
    arXiv:2412.13061). axial_heads: heads of the axial attention (VideoGPT) after the residual blocks of the coarsest
    resolution, 0 for none.
    """

    patch: int = 1
    channels: list[int] = field(default_factory=lambda: [64, 128, 256])
    halve_time: list[bool] = field(default_factory=lambda: [True, True])
    halve_space: list[bool] = field(default_factory=list)
    kernel: int = 3
    blocks: int = 2
    decoder_blocks: int = 2
    groups: int = 32
    factorised: bool = False
    axial_heads: int = 0

    def __post_init__(self) -> None:
        if min(self.patch, self.groups, *self.channels, 1) < 1 or self.blocks < 0 or self.decoder_blocks < 0:
            raise ConfigError("network: patch, groups and channels must be 1 or more, blocks 0 or more")
        if not self.channels:
            raise ConfigError("network.channels: one width or more, got []")
        self.halve_space = self.halve_space or [True] * (len(self.channels) - 1)
        for key, entries in (("halve_time", self.halve_time), ("halve_space", self.halve_space)):
            if len(entries) != len(self.channels) - 1:
                raise ConfigError(
                    f"network.{key}: one entry for each step down, {len(self.channels) - 1}, got {len(entries)}"
                )
        if self.kernel < 2 and any(self.halve_time):
            raise ConfigError(f"network.kernel: must be 2 or more where time is halved, got {self.kernel}")
        if self.kernel < 1:
            raise ConfigError(f"network.kernel: must be 1 or more, got {self.kernel}")
        for width in self.channels:
            if width % self.groups:
                raise ConfigError(f"network.channels: {width} is not a multiple of network.groups ({self.groups})")
        if self.axial_heads < 0 or (self.axial_heads and self.channels[-1] % self.axial_heads):
            raise ConfigError(f"network.axial_heads: 0 or a divisor of {self.channels[-1]}, got {self.axial_heads}")

    @property
    def stride(self) -> int:
        """Pixels per code along each side."""
        return int(self.patch * 2 ** sum(self.halve_space))

    @property
    def time_stride(self) -> int:
        """Frames per code, after the first, which has a code of its own."""
        return int(2 ** sum(self.halve_time))


class CausalConv3d(Causal):
    """Convolution over `[batch, channels, time, height, width]` that sees past frames only.

    Zeros stand for the kernel - 1 frames before the start, so that one frame in gives one out, and T frames give
    1 + (T - 1) // time_stride. The state is the frames that the next output still needs.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, side: int = 3, time_stride: int = 1, stride: int = 1):
        super().__init__()
        self.kernel, self.time_stride, self.stride = kernel, time_stride, stride
        self.conv = nn.Conv3d(
            inputs, outputs, (kernel, side, side), (time_stride, stride, stride), (0, side // 2, side // 2)
        )

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        x = pad(x, (0, 0, 0, 0, self.kernel - 1, 0)) if state is None else torch.cat([state, x], dim=2)
        outputs = max(0, (x.shape[2] - self.kernel) // self.time_stride + 1)
        if outputs == 0:
            height, width = ((size - 1) // self.stride + 1 for size in x.shape[3:])
            return x.new_zeros(x.shape[0], self.conv.out_channels, 0, height, width), x
        used = (outputs - 1) * self.time_stride + self.kernel
        return self.conv(x[:, :, :used]), x[:, :, outputs * self.time_stride :]


class FrameNorm(nn.GroupNorm):
    """Group normalisation of each frame alone."""

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, time, height, width = x.shape
        if time == 0:
            return x
        frames = x.transpose(1, 2).reshape(batch * time, channels, height, width)
        frames = group_norm(frames, self.num_groups, self.weight, self.bias, self.eps)
        return frames.reshape(batch, time, channels, height, width).transpose(1, 2)


class Upsample3d(Causal):
    """Double height and width, and time, if asked: each frame becomes two, but the first of a stream stays one."""

    def __init__(
        self, inputs: int, outputs: int, config: VideoConvConfig, double_time: bool, double_space: bool
    ) -> None:
        super().__init__()
        self.double_time, self.double_space = double_time, double_space
        self.conv = _convolution(inputs, outputs * (2 if double_time else 1), config)

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        if self.double_space:
            x = interpolate(x, scale_factor=(1.0, 2.0, 2.0), mode="nearest") if x.shape[2] else _grown(x)
        y, new = self.conv(x, state)
        if self.double_time:
            batch, channels, time, height, width = y.shape
            y = y.reshape(batch, 2, channels // 2, time, height, width).permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
            if state is None:
                y = y[:, :, 1:]
        return y, new


def _grown(x: Tensor) -> Tensor:
    """No frames at twice the height and width; `interpolate` refuses none."""
    return x.new_zeros(*x.shape[:3], 2 * x.shape[3], 2 * x.shape[4])


def _convolution(
    inputs: int, outputs: int, config: VideoConvConfig, time_stride: int = 1, stride: int = 1
) -> CausalConv3d | CausalSequential:
    """A convolution over space and time, in one or, factorised, in two."""
    if not config.factorised:
        return CausalConv3d(inputs, outputs, config.kernel, 3, time_stride, stride)
    space = CausalConv3d(inputs, outputs, 1, 3, 1, stride)
    return CausalSequential(space, CausalConv3d(outputs, outputs, config.kernel, 1, time_stride, 1))


def _residual(width: int, config: VideoConvConfig) -> CausalResidual:
    second = _convolution(width, width, config)
    last = second if isinstance(second, CausalConv3d) else second.layers[-1]
    assert isinstance(last, CausalConv3d)
    nn.init.zeros_(last.conv.weight)  # starts as the identity
    first = _convolution(width, width, config)
    norms = (FrameNorm(config.groups, width) for _ in range(2))
    return CausalResidual(CausalSequential(next(norms), nn.SiLU(), first, next(norms), nn.SiLU(), second))


def _attention(config: VideoConvConfig) -> list[nn.Module]:
    return [AxialAttention(config.channels[-1], config.axial_heads)] if config.axial_heads else []


class VideoEncoder(nn.Module):
    """Clips `[batch, 3, time, height, width]`, sides multiples of the stride, to latents, and the stream's state."""

    def __init__(self, config: VideoConvConfig, dim: int) -> None:
        super().__init__()
        widths = config.channels
        self.patch = config.patch
        layers: list[nn.Module] = [_convolution(3 * config.patch**2, widths[0], config)]
        for level, width in enumerate(widths):
            if level:
                time_stride, stride = (2 if h[level - 1] else 1 for h in (config.halve_time, config.halve_space))
                layers.append(_convolution(widths[level - 1], width, config, time_stride, stride))
            layers += [_residual(width, config) for _ in range(config.blocks)]
        self.layers = CausalSequential(*layers, *_attention(config))
        self.norm = FrameNorm(config.groups, widths[-1])
        self.exit = CausalConv3d(widths[-1], dim, 1, side=1)

    def forward(self, clips: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Latents `[batch, frames, rows, columns, dim]`, as many frames as are complete, and the state."""
        frames = pixel_unshuffle(clips.transpose(1, 2), self.patch).transpose(1, 2)
        x, state = self.layers(frames, state)
        return self.exit(silu(self.norm(x)))[0].permute(0, 2, 3, 4, 1), state


class VideoDecoder(nn.Module):
    """Latents `[batch, frames, rows, columns, dim]` to clips `[batch, 3, time, height, width]`, and the state."""

    def __init__(self, config: VideoConvConfig, dim: int) -> None:
        super().__init__()
        widths = config.channels
        self.patch = config.patch
        layers: list[nn.Module] = [_convolution(dim, widths[-1], config), *_attention(config)]
        for level in reversed(range(len(widths))):
            layers += [_residual(widths[level], config) for _ in range(config.decoder_blocks)]
            if level:
                double = config.halve_time[level - 1], config.halve_space[level - 1]
                layers.append(Upsample3d(widths[level], widths[level - 1], config, *double))
        self.layers = CausalSequential(*layers)
        self.norm = FrameNorm(config.groups, widths[0])
        self.exit = _convolution(widths[0], 3 * config.patch**2, config)

    def forward(self, latents: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Every latent frame gives `time_stride` frames at once, the first of a stream one."""
        states = state or (None, None)
        x, layers = self.layers(latents.permute(0, 4, 1, 2, 3), states[0])
        x, last = self.exit(silu(self.norm(x)), states[1])
        return pixel_shuffle(x.transpose(1, 2), self.patch).transpose(1, 2), (layers, last)


@torch.no_grad()
def inflate(video: nn.Module, picture: nn.Module) -> None:
    """Begin a video network from a picture network of the same shape (`conv.Encoder`, `conv.Decoder`).

    A 2-D kernel becomes the last tap in time of a 3-D one, whose other taps are zero: at first every frame that is
    coded is coded as a picture. Raises ConfigError if the networks differ in shape.
    """
    kinds = (nn.Conv2d, nn.Conv3d, nn.GroupNorm)
    ours = [module for module in video.modules() if isinstance(module, kinds)]
    theirs = [module for module in picture.modules() if isinstance(module, kinds)]
    if len(ours) != len(theirs):
        raise ConfigError(
            f"the video network has {len(ours)} layers and the picture network {len(theirs)}: give both the same "
            "patch, channels and blocks, and no attention"
        )
    for layer, source in zip(ours, theirs, strict=True):
        kernel, bias = source.weight, source.bias
        assert bias is not None
        assert layer.bias is not None
        if isinstance(layer, nn.Conv3d) and layer.out_channels == 2 * kernel.shape[0]:  # doubles time: two equal frames
            kernel, bias = kernel.repeat(2, 1, 1, 1), bias.repeat(2)
        target = layer.weight[:, :, -1] if isinstance(layer, nn.Conv3d) else layer.weight
        if target.shape != kernel.shape:
            raise ConfigError(
                f"a layer of the video network is {list(target.shape)}, the picture's {list(kernel.shape)}"
            )
        layer.weight.zero_()
        target.copy_(kernel)
        layer.bias.copy_(bias)
