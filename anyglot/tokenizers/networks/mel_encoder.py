"""A cheap causal speech encoder: log-mel spectrogram, then ConvNeXt blocks at the frame rate.

It costs a hundredth of a SEANet at the same hop, since nothing learned runs at the sample rate. The phase is lost;
at a few kbps a code has no room for it anyway, and the decoder makes up its own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from anyglot.tokenizers.networks.causal import State
from anyglot.tokenizers.networks.convnext import convnext_stack


@dataclass
class MelEncoderConfig:
    """hop: samples per code. stacked: mel spectra per code, hop / stacked samples apart. window: samples of each.
    The rest is the ConvNeXt stack, at one step per code."""

    hop: int = 320
    stacked: int = 2
    window: int = 512
    mels: int = 80
    channels: int = 256
    blocks: int = 4
    kernel: int = 7


class MelEncoder(nn.Module):
    """Waveform to latents: `[batch, frames * hop]` to `[batch, frames, dim]`.

    Latent t depends on samples below (t + 1) * hop: windows end where their part of the frame ends.
    """

    def __init__(self, config: MelEncoderConfig, dim: int, sample_rate: int) -> None:
        from torchaudio.functional import melscale_fbanks

        super().__init__()
        if config.hop % config.stacked or config.window < config.hop // config.stacked:
            raise ValueError(f"hop {config.hop} must be `stacked` steps, none longer than the window {config.window}")
        self.hop, self.stacked, self.window = config.hop, config.stacked, config.window
        self.history = config.window - config.hop // config.stacked
        bins = config.window // 2 + 1
        filters = melscale_fbanks(bins, 0.0, sample_rate / 2, config.mels, sample_rate, norm="slaney")
        self.filters: Tensor
        self.taper: Tensor
        self.register_buffer("filters", filters, persistent=False)  # [bins, mels]
        self.register_buffer("taper", torch.hann_window(config.window), persistent=False)
        self.net = convnext_stack(config.mels * config.stacked, config.channels, config.blocks, config.kernel)
        self.project = nn.Linear(config.channels, dim)

    def forward(self, audio: Tensor, state: State = None) -> tuple[Tensor, State]:
        history, net_state = state or (None, None)
        audio = pad(audio, (self.history, 0)) if history is None else torch.cat([history, audio], dim=1)
        latents, net_state = self.net(self._spectra(audio), net_state)
        return self.project(latents), (audio[:, audio.shape[1] - self.history :], net_state)

    def _spectra(self, audio: Tensor) -> Tensor:
        """Log-mel spectra, `[batch, frames, stacked * mels]`, about zero mean and unit scale for speech."""
        with torch.autocast(audio.device.type, enabled=False):
            windows = audio.float().unfold(1, self.window, self.hop // self.stacked)
            magnitude = torch.fft.rfft(windows * self.taper).abs()
            spectra = ((magnitude @ self.filters).clamp(min=1e-4).log() + 3) / 3
        return spectra.reshape(audio.shape[0], -1, self.stacked * spectra.shape[2])
