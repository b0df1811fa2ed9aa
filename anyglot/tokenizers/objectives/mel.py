"""Multi-scale mel reconstruction loss: L1 between log-mel spectra at several window lengths (DAC, arXiv 2306.06546)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss


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
        """`[batch, samples]` to `[batch, mels, frames]`, float32; a full-scale tone is about log10 of 1/2."""
        with torch.autocast(audio.device.type, enabled=False):
            taper = self.get_buffer(f"taper_{window}")
            spectrum = torch.stft(audio.float(), window, window // 4, window=taper, return_complex=True)
            power = spectrum.real.square() + spectrum.imag.square()
            magnitude = (power + self.floor**2).sqrt()  # smooth at 0, where |.| has no gradient
            return (self.get_buffer(f"filters_{window}").T @ magnitude).log10()

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Both `[batch, samples]`. Returns a scalar."""
        terms = [l1_loss(self.log_mel(output, window), self.log_mel(target, window)) for window in self.windows]
        return torch.stack(terms).mean()
