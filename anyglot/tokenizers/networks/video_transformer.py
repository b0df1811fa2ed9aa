"""Causal transformers for video, where one frame is a picture (C-ViViT of Phenaki, Villegas et al., arXiv:2210.02399).

Frames are cut into patches, the first frame by itself, further ones in groups of `time_stride`. A group begins as the
mean of its frames, each seen as the first frame is, and what moves is added by weights that start at zero: so what is
learnt of pictures serves clips. Layers see along the
axes that they are named for (`video_attention.KINDS`), so one file serves C-ViViT (space, then time), OmniTokenizer
(windows, then time; arXiv:2406.09399) and BSQ-ViT (jointly, block-wise causal; arXiv:2406.07548). Same interface as
`causal_video`: `output, state = network(input, state)`, streaming by construction.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from anyglot.errors import ConfigError
from anyglot.tokenizers.networks.causal import Causal, CausalSequential, State
from anyglot.tokenizers.networks.video_attention import KINDS, GridAttention


@dataclass
class VideoTransformerConfig:
    """Shape of both networks; the decoder has the layers in reverse order.

    patch: side of a patch in pixels. group: frames of a patch, after the first frame. width, heads: of the layers.
    layers: the kind of each (`video_attention.KINDS`). window: side of the squares of "window" layers, in patches.
    """

    patch: int = 8
    group: int = 2
    width: int = 256
    heads: int = 4
    layers: list[str] = field(default_factory=lambda: ["space", "space", "time", "time"])
    window: int = 4

    def __post_init__(self) -> None:
        if min(self.patch, self.group, self.heads, self.window) < 1:
            raise ConfigError("network: patch, group, heads and window must be 1 or more")
        if self.width < 1 or self.width % 4 or self.width % self.heads:
            raise ConfigError(f"network.width: must be a multiple of 4 and of heads={self.heads}, got {self.width}")
        if not self.layers or not set(self.layers) <= set(KINDS):
            raise ConfigError(f"network.layers: one or more of {', '.join(KINDS)}, got {self.layers}")

    @property
    def stride(self) -> int:
        """Pixels per code along each side."""
        return self.patch

    @property
    def time_stride(self) -> int:
        """Frames per code, after the first, which has a code of its own."""
        return self.group


class Layer(Causal):
    """Attention, then a network of two layers, each added to what went in."""

    def __init__(self, config: VideoTransformerConfig, kind: str) -> None:
        super().__init__()
        width = config.width
        self.norm = nn.LayerNorm(width)
        self.attention = GridAttention(width, config.heads, kind, config.window)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        y, state = self.attention(self.norm(x), state)
        x = x + y
        return x + self.mlp(x), state


class VideoTransformerEncoder(nn.Module):
    """Clips `[batch, 3, time, height, width]`, sides multiples of the patch, to latents, and the stream's state."""

    def __init__(self, config: VideoTransformerConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        values = 3 * config.patch**2
        self.first = nn.Linear(values, config.width)
        self.further = nn.Linear(values * config.group, config.width)
        nn.init.zeros_(self.further.weight)
        nn.init.zeros_(self.further.bias)
        self.layers = CausalSequential(*(Layer(config, kind) for kind in config.layers))
        self.exit = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, dim))

    def forward(self, clips: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Latents `[batch, frames, rows, columns, dim]`, as many as are complete; frames that fill no group wait in the
        state."""
        patches = pixel_unshuffle(clips.transpose(1, 2), self.config.patch).permute(0, 1, 3, 4, 2)
        begin = patches[:, :1] if state is None else patches[:, :0]
        waiting, layers = (patches[:, 1:], None) if state is None else (torch.cat([state[0], patches], 1), state[1])
        group = self.config.group
        count = waiting.shape[1] // group
        groups, waiting = waiting[:, : count * group], waiting[:, count * group :]
        groups = groups.reshape(len(groups), count, group, *groups.shape[2:])
        moving = self.further(groups.permute(0, 1, 3, 4, 2, 5).flatten(-2))
        x = torch.cat([self.first(begin), self.first(groups.mean(2)) + moving], 1)
        x, layers = self.layers(x + places(x), layers)
        return self.exit(x), (waiting, layers)


class VideoTransformerDecoder(nn.Module):
    """Latents `[batch, frames, rows, columns, dim]` to clips `[batch, 3, time, height, width]`, and the state."""

    def __init__(self, config: VideoTransformerConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        values = 3 * config.patch**2
        self.entrance = nn.Linear(dim, config.width)
        self.layers = CausalSequential(*(Layer(config, kind) for kind in reversed(config.layers)))
        self.norm = nn.LayerNorm(config.width)
        self.first = nn.Linear(config.width, values)
        self.further = nn.Linear(config.width, values * config.group)
        nn.init.zeros_(self.further.weight)
        nn.init.zeros_(self.further.bias)

    def forward(self, latents: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Every latent frame gives a group of frames at once, the first of a stream one."""
        x = self.entrance(latents)
        x, layers = self.layers(x + places(x), state)
        x = self.norm(x)
        alone = 1 if state is None else 0
        later = x[:, alone:]
        still = self.first(later)[..., None, :]  # [batch, time, rows, columns, 1, values]
        moving = self.further(later).reshape(*still.shape[:-2], self.config.group, still.shape[-1])
        groups = (still + moving).permute(0, 1, 4, 2, 3, 5).flatten(1, 2)
        frames = torch.cat([self.first(x[:, :alone]), groups], 1)
        return pixel_shuffle(frames.permute(0, 1, 4, 2, 3), self.config.patch).transpose(1, 2), layers


def places(x: Tensor) -> Tensor:
    """Sines and cosines that tell places of a frame apart, `[rows, columns, width]`, half of them for either axis."""
    rows, columns, width = x.shape[2:]
    speeds = 100.0 ** (-torch.arange(width // 4, device=x.device) / (width // 4))

    def along(count: int) -> Tensor:
        angles = torch.arange(count, device=x.device)[:, None] * speeds
        return torch.cat([angles.sin(), angles.cos()], 1)

    down, across = along(rows)[:, None].expand(-1, columns, -1), along(columns)[None].expand(rows, -1, -1)
    return torch.cat([down, across], -1).to(x.dtype)
