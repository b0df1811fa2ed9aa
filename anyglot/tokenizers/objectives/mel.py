"""Multi-scale mel reconstruction loss: L1 between log-mel spectra at several window lengths (DAC, arXiv 2306.06546)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, pad


class MultiScaleMelLoss(nn.Module):
    """Mean over scales of |log10 mel(output) - log10 mel(target)|, in bels of magnitude.

    Args:
        sample_rate: of both sounds, Hz.
        windows: window lengths in samples; the hop is a quarter.
        mels: mel bands per window; short windows resolve only a few.
    """

    def __init__(self, sample_rate: int, windows: Sequence[int], mels: Sequence[int], floor: float = 1e-5) -> None:
        from torchaudio.functional import melscale_fbanks

        super().__init__()
        if len(windows) != len(mels):
            raise ValueError(f"{len(windows)} windows but {len(mels)} numbers of mel bands")
        self.windows = tuple(windows)
        self.floor = floor
        for window, bands in zip(windows, mels, strict=True):
            filters = melscale_fbanks(window // 2 + 1, 0.0, sample_rate / 2, bands, sample_rate, "slaney", "slaney")
            # melscale_fbanks scales by 1 / bandwidth in Hz; the spectrum's own scale is set by a window of unit sum
            self.register_buffer(f"filters_{window}", filters / filters.sum(0).clamp(min=1e-8), persistent=False)
            taper = torch.hann_window(window)
            self.register_buffer(f"taper_{window}", taper / taper.sum(), persistent=False)

    def log_mel(self, audio: Tensor, window: int) -> Tensor:
        """`[batch, samples]` to `[batch, frames, mels]`, float32; a full-scale tone is about log10 of 1/2."""
        with torch.autocast(audio.device.type, enabled=False):
            magnitude = _Magnitude.apply(quarter_hop_windows(audio.float(), window), self.get_buffer(f"taper_{window}"))
            mel: Tensor = magnitude @ self.get_buffer(f"filters_{window}")
            return mel.clamp(min=self.floor).log10()

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Both `[batch, samples]`. Returns a scalar."""
        terms = [l1_loss(self.log_mel(output, window), self.log_mel(target, window)) for window in self.windows]
        return torch.stack(terms).mean()


def quarter_hop_windows(audio: Tensor, window: int) -> Tensor:
    """Windows a quarter of their length apart, centred as in torch.stft with zeros outside: `[batch, frames, window]`.

    Put together from four shifted views: their gradient is four adds, where that of unfold or torch.stft is a scatter.
    """
    hop = window // 4
    steps = audio.shape[1] // hop + 4
    blocks = pad(audio, (2 * hop, steps * hop - 2 * hop - audio.shape[1])).reshape(len(audio), steps, hop)
    return torch.cat([blocks[:, shift : steps - 3 + shift] for shift in range(4)], dim=2)


class _Magnitude(torch.autograd.Function):
    """|rfft(windows * taper)|. Autograd would go back by a complex FFT of twice the size; an inverse real one does."""

    @staticmethod
    def forward(ctx: Any, windows: Tensor, taper: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(windows * taper)
        magnitude = torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag).sqrt_()  # 5 times abs()'s speed
        ctx.save_for_backward(spectrum, magnitude, taper)
        return magnitude

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        spectrum, magnitude, taper = ctx.saved_tensors
        slope = gradient / magnitude.clamp(min=1e-9)
        slope[..., 1:-1] *= 0.5  # irfft counts these bins twice, once for their mirror images
        return torch.fft.irfft(spectrum * slope, len(taper), norm="forward") * taper, None
