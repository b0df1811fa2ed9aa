"""1-D convolutional encoder and decoder for motion, the shape of T2M-GPT (Zhang et al., arXiv:2301.06052) and MoMask.

Motions are channel-last, `[batch, frames, features]`, latents `[batch, frames / stride, dim]`.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import relu

from anyglot.errors import ConfigError


@dataclass
class MotionConvConfig:
    """patch: how many frames are folded into one place first; more than 1 makes small networks faster. width: of all
    hidden layers. halvings: how often the number of places is halved then. blocks: residual blocks at each length but
    that of the frames, whose dilation is dilation^0, dilation^1, ...; largest first."""

    patch: int = 1
    width: int = 512
    halvings: int = 2
    blocks: int = 3
    dilation: int = 3

    def __post_init__(self) -> None:
        if min(self.patch, self.width) < 1 or self.halvings < 0 or self.blocks < 0 or self.dilation < 1:
            raise ConfigError("network: patch, width and dilation must be >= 1, halvings and blocks >= 0")

    @property
    def stride(self) -> int:
        """Frames per code."""
        return int(self.patch * 2**self.halvings)


class DilatedBlock(nn.Module):
    """x + conv1(relu(conv3(relu(x)))) over `[batch, width, frames]`, the conv3 dilated."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.wide = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(relu(self.wide(relu(x))))


def _blocks(config: MotionConvConfig) -> list[nn.Module]:
    return [DilatedBlock(config.width, config.dilation**power) for power in reversed(range(config.blocks))]


class MotionEncoder(nn.Module):
    """Motions `[batch, frames, features]`, frames a multiple of the stride, to `[batch, frames / stride, dim]`."""

    def __init__(self, config: MotionConvConfig, features: int, dim: int) -> None:
        super().__init__()
        self.patch, width = config.patch, config.width
        layers: list[nn.Module] = [nn.Conv1d(features * self.patch, width, 3, padding=1)]
        layers += [nn.ReLU()] if self.patch == 1 else _blocks(config)
        for _ in range(config.halvings):
            layers += [nn.Conv1d(width, width, 4, stride=2, padding=1), *_blocks(config)]
        self.layers = nn.Sequential(*layers, nn.Conv1d(width, dim, 3, padding=1))

    def forward(self, motions: Tensor) -> Tensor:
        batch, frames, features = motions.shape
        folded = motions.reshape(batch, frames // self.patch, self.patch * features)
        return self.layers(folded.transpose(1, 2)).transpose(1, 2)


class MotionDecoder(nn.Module):
    """Latents `[batch, n, dim]` to motions `[batch, n * stride, features]`."""

    def __init__(self, config: MotionConvConfig, features: int, dim: int) -> None:
        super().__init__()
        self.patch, width = config.patch, config.width
        layers: list[nn.Module] = [nn.Conv1d(dim, width, 3, padding=1)]
        layers += [nn.ReLU()] if self.patch == 1 else []
        for _ in range(config.halvings):
            layers += [*_blocks(config), nn.Upsample(scale_factor=2), nn.Conv1d(width, width, 3, padding=1)]
        last: list[nn.Module] = (
            [nn.Conv1d(width, width, 3, padding=1), nn.ReLU()] if self.patch == 1 else _blocks(config)
        )
        last += [nn.Conv1d(width, features * self.patch, 3, padding=1)]
        self.layers = nn.Sequential(*layers, *last)

    def forward(self, latents: Tensor) -> Tensor:
        folded = self.layers(latents.transpose(1, 2)).transpose(1, 2)
        return folded.reshape(len(latents), -1, folded.shape[2] // self.patch)
