"""SEANet, the convolutional encoder and decoder of SoundStream and EnCodec (arXiv 2107.03312, 2210.13438), causal."""

from dataclasses import dataclass, field
from math import prod

from torch import Tensor, nn

from anyglot.tokenizers.networks.causal import (
    Causal,
    CausalConv1d,
    CausalConvTranspose1d,
    CausalLSTM,
    CausalResidual,
    CausalSequential,
    State,
)


@dataclass
class SEANetConfig:
    """channels: at full rate; doubled at each stride. strides: from the waveform down; the decoder mirrors them.
    residual_layers: units per stride, dilated 1, 2, 4... lstm_layers: 0 for none."""

    channels: int = 32
    strides: list[int] = field(default_factory=lambda: [2, 4, 5, 8])
    kernel: int = 7
    residual_layers: int = 1
    lstm_layers: int = 2


class SEANetEncoder(nn.Module):
    """Waveform to latents: `[batch, frames * hop]` to `[batch, frames, dim]`, hop = product of the strides.

    Latent t depends on samples below (t + 1) * hop.
    """

    def __init__(self, config: SEANetConfig, dim: int, sample_rate: int) -> None:
        super().__init__()
        self.hop = prod(config.strides)
        channels = config.channels
        layers: list[nn.Module] = [CausalConv1d(1, channels, config.kernel, normalised=True)]
        for stride in config.strides:
            layers += [_residual_unit(channels, 2**index) for index in range(config.residual_layers)]
            layers += [nn.ELU(), CausalConv1d(channels, 2 * channels, 2 * stride, stride, normalised=True)]
            channels *= 2
        layers += [*_lstm(channels, config), nn.ELU(), CausalConv1d(channels, dim, config.kernel, normalised=True)]
        self.net = CausalSequential(*layers)

    def forward(self, audio: Tensor, state: State = None) -> tuple[Tensor, State]:
        latents, state = self.net(audio[:, None], state)
        return latents.transpose(1, 2), state


class SEANetDecoder(nn.Module):
    """Latents to waveform: `[batch, frames, dim]` to `[batch, frames * hop]`. No latency: `delay` is 0 samples."""

    delay = 0

    def __init__(self, config: SEANetConfig, dim: int) -> None:
        super().__init__()
        self.hop = prod(config.strides)
        channels = config.channels * 2 ** len(config.strides)
        layers: list[nn.Module] = [CausalConv1d(dim, channels, config.kernel, normalised=True)]
        layers += _lstm(channels, config)
        for stride in reversed(config.strides):
            layers += [
                nn.ELU(),
                CausalConvTranspose1d(channels, channels // 2, 2 * stride, stride, normalised=True),
            ]
            channels //= 2
            layers += [_residual_unit(channels, 2**index) for index in range(config.residual_layers)]
        layers += [nn.ELU(), CausalConv1d(channels, 1, config.kernel, normalised=True)]
        self.net = CausalSequential(*layers)

    def forward(self, vectors: Tensor, state: State = None, last: bool = True) -> tuple[Tensor, State]:
        audio, state = self.net(vectors.transpose(1, 2), state)
        return audio[:, 0], state


def _residual_unit(channels: int, dilation: int) -> Causal:
    hidden = channels // 2
    return CausalResidual(
        CausalSequential(
            nn.ELU(),
            CausalConv1d(channels, hidden, 3, dilation=dilation, normalised=True),
            nn.ELU(),
            CausalConv1d(hidden, channels, 1, normalised=True),
        )
    )


def _lstm(channels: int, config: SEANetConfig) -> list[nn.Module]:
    return [CausalLSTM(channels, config.lstm_layers)] if config.lstm_layers else []
