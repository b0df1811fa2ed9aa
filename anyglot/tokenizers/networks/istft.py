"""A cheap causal decoder: ConvNeXt blocks at the frame rate, then an inverse STFT (Vocos, arXiv 2306.00814)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from anyglot.tokenizers.networks.causal import State
from anyglot.tokenizers.networks.convnext import convnext_stack


@dataclass
class ISTFTDecoderConfig:
    """hop: samples per code. spectra: spectra per code, hop / spectra samples apart. window: samples of each,
    a multiple of that step. delay: samples by which the output lags its codes when streamed, at most window - step;
    half of that is Vocos's centred window. The rest is the ConvNeXt stack, at one step per spectrum."""

    hop: int = 320
    spectra: int = 1
    window: int = 1280
    delay: int = 640
    channels: int = 384
    blocks: int = 6
    kernel: int = 7


class ISTFTDecoder(nn.Module):
    """Latents to waveform: `[batch, frames, dim]` to `[batch, frames * hop]`.

    The spectrum of step t is a window over samples [t * step - delay, t * step - delay + window). Windows overlap and
    are added; a sample is complete when the last window over it is, `delay` samples after its codes. So a stream gives
    its first `delay` samples late and its last ones when `last` is set; offline is one chunk that is also the last.
    """

    def __init__(self, config: ISTFTDecoderConfig, dim: int) -> None:
        super().__init__()
        step = config.hop // config.spectra
        if config.hop % config.spectra or config.window % step:
            raise ValueError(f"hop {config.hop} must be `spectra` steps, and the window {config.window} whole steps")
        if not 0 <= config.delay <= config.window - step:
            raise ValueError(f"delay {config.delay} must lie in 0..window - step = {config.window - step}")
        self.hop, self.step, self.window, self.delay = config.hop, step, config.window, config.delay
        self.spread = nn.Linear(dim, config.spectra * config.channels)
        self.net = convnext_stack(config.channels, config.channels, config.blocks, config.kernel)
        self.head = nn.Linear(config.channels, config.window + 2)
        self.taper: Tensor
        self.register_buffer("taper", torch.hann_window(config.window), persistent=False)

    def forward(self, vectors: Tensor, state: State = None, last: bool = True) -> tuple[Tensor, State]:
        """State: of the blocks, the sum of windows so far [batch, window - step], its envelope, samples to drop."""
        batch = vectors.shape[0]
        tail: Tensor | None
        envelope: Tensor | None
        net_state, tail, envelope, drop = state or (None, None, None, self.delay)
        if vectors.shape[1]:
            x = self.spread(vectors).reshape(batch, -1, self.head.in_features)
            x, net_state = self.net(x, net_state)
            spectra = self.head(x).float()
            with torch.autocast(vectors.device.type, enabled=False):
                frames = self.windows(spectra)
                sums = overlap_add(frames, self.step, tail)
                weights = overlap_add((self.taper**2).expand(1, frames.shape[1], -1), self.step, envelope)
            done = frames.shape[1] * self.step
        else:
            if tail is None or envelope is None:
                raise ValueError("a stream cannot end before it began")
            sums, weights, done = tail, envelope, 0
        tail, envelope = sums[:, done:], weights[:, done:]
        if last:
            done += self.delay
        audio = sums[:, :done] / weights[:, :done].clamp(min=1e-2)  # 1.5 where four windows overlap, less at the ends
        dropped = min(drop, done)
        return audio[:, dropped:], (net_state, tail, envelope, drop - dropped)

    def windows(self, spectra: Tensor) -> Tensor:
        """Windowed pieces of waveform `[batch, steps, window]` of spectra `[batch, steps, window + 2]`: first the
        bins' log-magnitudes, then their phases."""
        magnitude, phase = spectra.chunk(2, dim=-1)
        spectrum = torch.polar(magnitude.clamp(max=5.0).exp(), phase)  # e^5: a full-scale tone in a window of 600
        return torch.fft.irfft(spectrum, self.window) * self.taper


def overlap_add(frames: Tensor, step: int, tail: Tensor | None = None) -> Tensor:
    """Sum `[batch, steps, window]` at distances of `step`: `[batch, steps * step + window - step]`.

    window must be a multiple of step. tail: what earlier chunks left, `[batch, window - step]`.
    """
    batch, count, window = frames.shape
    pieces = frames.reshape(batch, count, window // step, step)
    # Shift i-th pieces by i steps: pad them to full length and add. A handful of adds, no scatter.
    overlaps = window // step
    total = sum(
        pad(pieces[:, :, index].reshape(batch, -1), (index * step, (overlaps - 1 - index) * step))
        for index in range(overlaps)
    )
    assert isinstance(total, Tensor)
    return total if tail is None else total + pad(tail, (0, total.shape[1] - tail.shape[1]))
