"""Causal ConvNeXt blocks over time (ConvNeXt, arXiv 2201.03545; for speech: Vocos, arXiv 2306.00814)."""

import torch
from torch import Tensor, nn

from anyglot.tokenizers.networks.causal import Causal, CausalConv1d, CausalSequential, State


class ConvNeXtBlock(Causal):
    """Depthwise causal convolution, then a pointwise MLP, on `[batch, time, channels]`, with a scaled skip."""

    def __init__(self, channels: int, hidden: int, kernel: int, scale: float) -> None:
        super().__init__()
        self.depthwise = CausalConv1d(channels, channels, kernel, groups=channels)
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels)
        )
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        y, state = self.depthwise(x.transpose(1, 2), state)
        return x + self.scale * self.mlp(y.transpose(1, 2)), state


def convnext_stack(inputs: int, channels: int, blocks: int, kernel: int) -> CausalSequential:
    """`[batch, time, inputs]` to `[batch, time, channels]`: linear, norm, blocks (each scaled by 1 / blocks), norm."""
    return CausalSequential(
        nn.Linear(inputs, channels),
        nn.LayerNorm(channels),
        *(ConvNeXtBlock(channels, 3 * channels, kernel, scale=1 / blocks) for _ in range(blocks)),
        nn.LayerNorm(channels),
    )
