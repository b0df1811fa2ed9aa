"""The mel loss: the fast spectrum and its own gradient against torch.stft and autograd, and what it measures."""

import math

import pytest
import torch

from anyglot.tokenizers.objectives.mel import MultiScaleMelLoss, _Magnitude, quarter_hop_windows


def slow_log_mel(loss, audio, window):
    """By torch.stft, torch's abs and autograd."""
    taper = loss.get_buffer(f"taper_{window}")
    spectrum = torch.stft(audio, window, window // 4, window=taper, return_complex=True, pad_mode="constant").abs()
    return (spectrum.transpose(1, 2) @ loss.get_buffer(f"filters_{window}")).clamp(min=loss.floor).log10()


@pytest.mark.parametrize("window", [256, 64])
@pytest.mark.parametrize("samples", [1000, 1001, 1024, 700])
def test_log_mel_and_its_gradient_equal_the_slow_twin(window, samples):
    torch.manual_seed(0)
    loss = MultiScaleMelLoss(16000, [window], [10])
    audio = (0.1 * torch.randn(2, samples)).requires_grad_()
    fast, slow = loss.log_mel(audio, window), slow_log_mel(loss, audio, window)
    assert fast.shape == slow.shape
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=0)
    direction = torch.randn_like(fast)
    gradients = [torch.autograd.grad((value * direction).sum(), audio)[0] for value in (fast, slow)]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_magnitude_gradient_is_right_in_double_precision():
    torch.manual_seed(0)
    windows = torch.randn(2, 3, 16, dtype=torch.double, requires_grad=True)
    taper = torch.hann_window(16, dtype=torch.double)
    assert torch.autograd.gradcheck(lambda w: _Magnitude.apply(w, taper), (windows,))


def test_windows_are_those_of_unfold():
    audio = torch.arange(1.0, 101.0)[None]
    padded = torch.nn.functional.pad(audio, (8, 24))
    windows = quarter_hop_windows(audio, 16)
    assert torch.equal(windows, padded.unfold(1, 16, 4)[:, : windows.shape[1]])
    assert windows.shape[1] == 100 // 4 + 1


def test_ten_times_the_level_is_one_apart():
    time = torch.arange(16000) / 16000
    tone = 0.5 * torch.sin(2 * math.pi * 1000 * time)[None]
    loss = MultiScaleMelLoss(16000, [1024], [40], floor=1e-9)
    both = loss.log_mel(tone, 1024)[:, 8:-8] - loss.log_mel(0.1 * tone, 1024)[:, 8:-8]
    loudest = loss.log_mel(tone, 1024)[0, 30].argmax()
    assert both[..., loudest] == pytest.approx(1.0, abs=1e-3)
    assert loss(tone, tone) == 0


def test_silence_has_a_finite_gradient():
    audio = torch.zeros(1, 2000, requires_grad=True)
    MultiScaleMelLoss(16000, [256], [20])(audio, torch.randn(1, 2000)).backward()
    assert torch.isfinite(audio.grad).all()


def test_mel_bands_equal_torchaudio():
    from torchaudio.transforms import MelSpectrogram

    torch.manual_seed(0)
    audio = torch.randn(1, 4000)
    loss = MultiScaleMelLoss(16000, [512], [40])
    scale = {"n_fft": 512, "hop_length": 128, "n_mels": 40, "power": 1.0, "pad_mode": "constant", "mel_scale": "slaney"}
    reference = MelSpectrogram(16000, norm="slaney", **scale)(audio).transpose(1, 2)
    ratio = 10 ** loss.log_mel(audio, 512) / reference
    torch.testing.assert_close(ratio / ratio[:, :1], torch.ones_like(ratio), atol=1e-3, rtol=0)  # one factor a band
