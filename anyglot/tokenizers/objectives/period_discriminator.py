"""Multi-period discriminator of HiFi-GAN (arXiv 2010.05646, section 2.3)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import leaky_relu, pad
from torch.nn.utils.parametrizations import weight_norm


class PeriodDiscriminator(nn.Module):
    """2-D convolutions over the waveform folded to rows of `period` samples; each column is convolved by itself."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, channels, 4 * channels, 16 * channels, 32 * channels]
        layers = [nn.Conv2d(inputs, outputs, (5, 1), (3, 1), (2, 0)) for inputs, outputs in pairwise(widths)]
        layers.append(nn.Conv2d(widths[-1], widths[-1], (5, 1), padding=(2, 0)))
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.score = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`[batch, samples]` to scores `[batch, 1, rows', period]` and the features of each layer."""
        audio = pad(audio, (0, -audio.shape[1] % self.period))
        x = audio.reshape(audio.shape[0], 1, -1, self.period)
        features = []
        for layer in self.layers:
            x = leaky_relu(layer(x), 0.1)
            features.append(x)
        return self.score(x), features


class MultiPeriodDiscriminator(nn.Module):
    """One `PeriodDiscriminator` per period (samples); primes, so that none sees what another does."""

    def __init__(self, periods: Sequence[int], channels: int) -> None:
        super().__init__()
        self.periods = nn.ModuleList(PeriodDiscriminator(period, channels) for period in periods)

    def forward(self, audio: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """`[batch, samples]` to a list of scores and a list of lists of features, one per period."""
        results = [period(audio) for period in self.periods]
        return [score for score, _ in results], [features for _, features in results]
