"""The inverse-STFT decoder: overlap-add against slow twins, exact analysis-synthesis, delay, lengths."""

import pytest
import torch

from anyglot.tokenizers.networks.istft import ISTFTDecoder, ISTFTDecoderConfig, overlap_add


def slow_overlap_add(frames, step):
    batch, count, window = frames.shape
    total = torch.zeros(batch, (count - 1) * step + window)
    for index in range(count):
        total[:, index * step : index * step + window] += frames[:, index]
    return total


@pytest.mark.parametrize(("step", "window"), [(3, 3), (3, 6), (2, 8), (5, 20)])
def test_overlap_add_equals_the_loop(step, window):
    frames = torch.randn(2, 7, window)
    torch.testing.assert_close(overlap_add(frames, step), slow_overlap_add(frames, step))


def test_overlap_add_goes_on_from_a_tail():
    frames = torch.randn(1, 6, 8)
    whole = overlap_add(frames, 2)
    first = overlap_add(frames[:, :1], 2)
    second = overlap_add(frames[:, 1:], 2, first[:, 2:])
    torch.testing.assert_close(torch.cat([first[:, :2], second], dim=1), whole)


def make(**changes):
    torch.manual_seed(0)
    settings = {"hop": 12, "spectra": 1, "window": 48, "delay": 18, "channels": 16, "blocks": 1, **changes}
    return ISTFTDecoder(ISTFTDecoderConfig(**settings), dim=5).eval()


@pytest.mark.parametrize("delay", [0, 7, 18, 36])
def test_true_spectra_give_the_sound_back(delay):
    """With the spectra that an STFT of a sound has, the decoder's synthesis is the sound, whatever the delay."""
    decoder = make(delay=delay)
    sound = torch.randn(1, 240)
    padded = torch.nn.functional.pad(sound, (delay, decoder.window))
    windows = padded.unfold(1, decoder.window, decoder.step)[:, : 240 // decoder.step]
    spectra = torch.fft.rfft(windows * decoder.taper)
    decoder.spread, decoder.net, decoder.head = Reshapeable(), PassThrough(), Reshapeable(spectra.shape[2] * 2)
    output, _ = decoder(torch.cat([spectra.abs().log(), spectra.angle()], dim=-1))
    inner = slice(decoder.window, 240 - decoder.window)  # at the ends few windows overlap
    torch.testing.assert_close(output[:, inner], sound[:, inner], atol=1e-4, rtol=0)


class Reshapeable(torch.nn.Identity):
    """An identity that says its width, as a linear layer does."""

    def __init__(self, width=0):
        super().__init__()
        self.in_features = width


class PassThrough(torch.nn.Module):
    def forward(self, x, state):
        return x, state


@pytest.mark.parametrize("frames", [1, 2, 3, 11])
@pytest.mark.parametrize("changes", [{}, {"spectra": 3, "window": 16, "delay": 5}, {"delay": 0}, {"delay": 36}])
@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_stream_equals_offline_and_lags_by_the_delay(frames, changes, chunk):
    decoder = make(**changes)
    vectors = torch.randn(2, frames, 5)
    whole, _ = decoder(vectors)
    assert whole.shape == (2, frames * 12)
    state, pieces = None, []
    for start in range(0, frames, chunk):
        piece, state = decoder(vectors[:, start : start + chunk], state, last=False)
        pieces.append(piece)
    streamed = torch.cat(pieces, dim=1)
    assert streamed.shape[1] == max(0, frames * 12 - decoder.delay)
    rest, _ = decoder(vectors[:, :0], state, last=True)
    torch.testing.assert_close(torch.cat([streamed, rest], dim=1), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("delay", [0, 18, 36])
def test_a_code_changes_nothing_before_its_delay(delay):
    decoder = make(delay=delay)
    vectors = torch.randn(1, 10, 5)
    changed = vectors.clone()
    changed[:, 6] += 1
    before, after = decoder(vectors)[0], decoder(changed)[0]
    first = int((before != after).nonzero()[0, 1])
    assert 6 * 12 - delay <= first <= 6 * 12 - delay + 1  # the window's very first sample has weight 0


@pytest.mark.parametrize("changes", [{"window": 40}, {"spectra": 5}, {"delay": 37}, {"delay": -1}])
def test_shapes_that_cannot_work_are_refused(changes):
    with pytest.raises(ValueError, match=r"hop|delay"):
        make(**changes)


def test_a_stream_cannot_end_before_it_began():
    with pytest.raises(ValueError, match="before it began"):
        make()(torch.zeros(1, 0, 5))
