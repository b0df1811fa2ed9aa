"""Multi-scale STFT discriminator of EnCodec (arXiv 2210.13438, section 3.4)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch.nn.utils.parametrizations import weight_norm


class STFTDiscriminator(nn.Module):
    """2-D convolutions over one complex STFT, its real and imaginary part as two channels."""

    def __init__(self, window: int, channels: int) -> None:
        super().__init__()
        self.window = window
        self.taper: Tensor
        self.register_buffer("taper", torch.hann_window(window), persistent=False)
        shapes = [(2, 1, 1)] + [(channels, dilation, 2) for dilation in (1, 2, 4)]
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, channels, (3, 9), (1, stride), (dilation, 4), (dilation, 1))
            for inputs, dilation, stride in shapes
        ]
        layers.append(nn.Conv2d(channels, channels, (3, 3), padding=(1, 1)))
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.score = weight_norm(nn.Conv2d(channels, 1, (3, 3), padding=(1, 1)))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`[batch, samples]` to scores `[batch, 1, frames, bins']` and the features of each layer."""
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(
                audio.float(), self.window, self.window // 4, window=self.taper, normalized=True, return_complex=True
            )
        x = torch.stack([spectrum.real, spectrum.imag], dim=1).transpose(2, 3)  # [batch, 2, frames, bins]
        features = []
        for layer in self.layers:
            x = leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.score(x), features


class MultiScaleSTFTDiscriminator(nn.Module):
    """One `STFTDiscriminator` per window length (samples)."""

    def __init__(self, windows: Sequence[int], channels: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(STFTDiscriminator(window, channels) for window in windows)

    def forward(self, audio: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """`[batch, samples]` to a list of scores and a list of lists of features, one per scale."""
        results = [scale(audio) for scale in self.scales]
        return [score for score, _ in results], [features for _, features in results]
