"""The speech tokenizer: lengths, causality, streams, batches, files good and bad, saving."""

import io

import numpy as np
import pytest
import soundfile
import torch

from anyglot.config import typed
from anyglot.errors import AnyglotError, ConfigError, MediaError, MismatchError
from anyglot.tokenizers.base import ModalityTokenizer, load_tokenizer
from anyglot.tokenizers.speech import SpeechConfig, SpeechTokenizer

MEL = {"type": "mel", "hop": 60, "stacked": 3, "window": 64, "mels": 8, "channels": 16, "blocks": 2, "kernel": 5}
ISTFT = {"type": "istft", "hop": 60, "spectra": 2, "window": 120, "delay": 45, "channels": 16, "blocks": 2, "kernel": 5}
ODD = {"type": "seanet", "channels": 4, "strides": [3, 5, 7], "lstm_layers": 1}
NETWORKS = {
    "mel to istft": (MEL, ISTFT),
    "seanet, odd strides": (ODD, ODD),
    "seanet, no lstm, dilated": (
        {"type": "seanet", "channels": 4, "strides": [2, 5], "lstm_layers": 0, "residual_layers": 2},
        {"type": "seanet", "channels": 4, "strides": [5, 2], "lstm_layers": 0, "residual_layers": 2},
    ),
    "seanet to istft": (
        {"type": "seanet", "channels": 4, "strides": [3, 4, 5]},
        {**ISTFT, "spectra": 1, "window": 240, "delay": 180},
    ),
}
RESIDUAL = {"type": "residual", "levels": 3, "inner": {"type": "vq", "size": 16, "kmeans_init": False}}


def make(networks="mel to istft", quantizer=RESIDUAL, **fields):
    """A small tokenizer with every parameter away from its start, so that no zero hides a mistake."""
    torch.manual_seed(0)
    encoder, decoder = NETWORKS[networks]
    mapping = {"encoder": encoder, "decoder": decoder, "dim": 12, "quantizer": quantizer, "max_seconds": 1.0, **fields}
    tokenizer = SpeechTokenizer(typed(SpeechConfig, mapping)).eval()
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return tokenizer


def sounds(*lengths):
    generator = np.random.default_rng(0)
    return [(0.1 * generator.standard_normal(length)).astype(np.float32) for length in lengths]


@pytest.mark.parametrize("networks", NETWORKS)
def test_lengths_are_exact(networks):
    tokenizer = make(networks)
    hop = tokenizer.hop
    lengths = sorted({1, 2, hop - 1, hop, hop + 1, 2 * hop - 1, 2 * hop, 2 * hop + 1, 3 * hop - 1, 3 * hop})
    codes = tokenizer.encode(sounds(*lengths))
    levels = tokenizer.spec.levels
    assert [tuple(code.shape) for code in codes] == [(-(-length // hop), len(levels)) for length in lengths]
    assert all(code.dtype == torch.int64 for code in codes)
    assert [len(sound) for sound in tokenizer.decode(codes)] == [len(code) * hop for code in codes]
    assert [len(sound) for sound in tokenizer.decode(codes, lengths)] == lengths
    output = tokenizer(torch.from_numpy(np.stack(sounds(2 * hop + 1, 2 * hop + 1))))
    assert output.output.shape == (2, 2 * hop + 1)
    assert output.quantized.codes.shape == (2, 3, len(levels))


@pytest.mark.parametrize("networks", NETWORKS)
def test_codes_of_a_frame_depend_on_no_later_sample(networks):
    tokenizer = make(networks)
    (sound,) = sounds(8 * tokenizer.hop)
    audio = torch.from_numpy(sound)[None]
    changed = audio.clone()
    changed[:, 5 * tokenizer.hop :] += 0.3
    before, after = (tokenizer.encoder(each)[0] for each in (audio, changed))
    torch.testing.assert_close(before[:, :5], after[:, :5], atol=1e-6, rtol=0)
    assert (before[:, 5:] - after[:, 5:]).abs().amax() > 1e-3
    # And it does depend on its own last sample: a frame is not later than it says.
    touched = audio.clone()
    touched[:, 5 * tokenizer.hop - 2] += 1.0
    assert (tokenizer.encoder(touched)[0][:, 4] - before[:, 4]).abs().amax() > 1e-6


@pytest.mark.parametrize("networks", NETWORKS)
def test_sound_depends_on_no_code_later_than_the_delay(networks):
    tokenizer = make(networks)
    (code,) = tokenizer.encode(sounds(10 * tokenizer.hop))
    changed = code.clone()
    changed[6:] = (changed[6:] + 1) % 16
    before, after = tokenizer.decode([code, changed])
    first = 6 * tokenizer.hop - tokenizer.decoder.delay
    assert np.abs(before[:first] - after[:first]).max() <= 1e-6
    assert np.abs(before[first:] - after[first:]).max() > 1e-5
    assert tokenizer.latency == tokenizer.hop + tokenizer.decoder.delay


@pytest.mark.parametrize("networks", NETWORKS)
@pytest.mark.parametrize("chunk", ["one sample", "odd", "one frame", "frames and a bit", "all"])
def test_an_encoder_stream_equals_offline(networks, chunk):
    tokenizer = make(networks)
    hop = tokenizer.hop
    size = {"one sample": 1, "odd": 17, "one frame": hop, "frames and a bit": 2 * hop + 7, "all": 10**6}[chunk]
    audio = torch.from_numpy(np.stack(sounds(4 * hop + 5, 4 * hop + 5)))
    offline = torch.stack(tokenizer.encode(list(audio.numpy())))
    state, pieces = None, []
    for start in range(0, audio.shape[1], size):
        last = start + size >= audio.shape[1]
        piece, state = tokenizer.encode_stream(audio[:, start : start + size], state, last)
        pieces.append(piece)
    assert torch.equal(torch.cat(pieces, dim=1), offline)


@pytest.mark.parametrize("networks", NETWORKS)
def test_encoder_latents_stream_within_1e_5(networks):
    tokenizer = make(networks)
    audio = torch.from_numpy(sounds(6 * tokenizer.hop)[0])[None]
    offline, _ = tokenizer.encoder(audio)
    state, pieces = None, []
    for start in range(0, audio.shape[1], tokenizer.hop):
        piece, state = tokenizer.encoder(audio[:, start : start + tokenizer.hop], state)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, dim=1), offline, atol=1e-5, rtol=0)


@pytest.mark.parametrize("networks", NETWORKS)
@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
@pytest.mark.parametrize("ends_with_codes", [True, False])
def test_a_decoder_stream_equals_offline(networks, chunk, ends_with_codes):
    tokenizer = make(networks)
    codes = torch.randint(16, (2, 9, 3), generator=torch.Generator().manual_seed(0))
    offline, _ = tokenizer.decoder(tokenizer.quantizer.decode(codes))
    state, pieces = None, []
    for start in range(0, 9, chunk):
        last = ends_with_codes and start + chunk >= 9
        piece, state = tokenizer.decode_stream(codes[:, start : start + chunk], state, last)
        pieces.append(piece)
    if not ends_with_codes:
        pieces.append(tokenizer.decode_stream(codes[:, :0], state, last=True)[0])
    streamed = torch.cat(pieces, dim=1)
    assert streamed.shape == (2, 9 * tokenizer.hop)
    torch.testing.assert_close(streamed, offline, atol=1e-5, rtol=0)


@pytest.mark.parametrize("networks", NETWORKS)
@pytest.mark.parametrize("sizes", [[1] * 23, [23], [0, 2, 0, 5, 16], [3] * 7 + [2], [22, 1, 0]])
def test_chunks_are_exactly_the_sound_however_its_codes_come(networks, sizes):
    tokenizer = make(networks, chunk_seconds=5 * make(networks).hop / 16000)
    assert tokenizer.chunk == 5
    codes = torch.randint(16, (23, 3), generator=torch.Generator().manual_seed(0))
    (whole,) = tokenizer.decode([codes])
    state, pieces = None, []
    for number, part in enumerate(codes.split(sizes)):
        piece, state = tokenizer.decode_chunk(part, state, last=number == len(sizes) - 1)
        pieces.append(piece)
    assert np.array_equal(np.concatenate(pieces), whole)
    if sizes[0] == 1:  # and they come early: of whole chunks, all but what later windows still add to
        heard = [sum(map(len, pieces[: count + 1])) for count in range(22)]
        ready = [(count + 1) // tokenizer.chunk * tokenizer.chunk * tokenizer.hop for count in range(22)]
        assert heard == [max(0, samples - tokenizer.decoder.delay) for samples in ready]


def test_chunks_change_the_sound_by_rounding_only():
    one, many = make(chunk_seconds=10.0), make(chunk_seconds=0.0)
    codes = torch.randint(16, (23, 3), generator=torch.Generator().manual_seed(0))
    assert (one.chunk, many.chunk) == (2667, 1)
    np.testing.assert_allclose(many.decode([codes])[0], one.decode([codes])[0], atol=1e-5)


def test_an_empty_stream_gives_nothing():
    tokenizer = make()
    codes, _ = tokenizer.encode_stream(torch.zeros(1, 0), None, last=True)
    assert codes.shape == (1, 0, 3)
    assert tokenizer.decode_stream(codes, None, last=True)[0].shape == (1, 0)


@pytest.mark.parametrize("networks", NETWORKS)
@pytest.mark.parametrize("batch_seconds", [60.0, 0.03])
def test_unequal_lengths_give_the_same_codes_as_one_at_a_time(networks, batch_seconds):
    tokenizer = make(networks, batch_seconds=batch_seconds)
    media = sounds(400, 7, 1111, tokenizer.hop, 640, 333)
    codes = tokenizer.encode(media)
    decoded = tokenizer.decode(codes)
    for sound, code, heard in zip(media, codes, decoded, strict=True):
        assert torch.equal(code, tokenizer.encode([sound])[0])
        assert np.array_equal(heard, tokenizer.decode([code])[0])


def test_decoding_codes_equals_the_autoencoder():
    tokenizer = make()
    (sound,) = sounds(600)
    with torch.no_grad():
        output = tokenizer(torch.from_numpy(sound)[None]).output[0]
    (decoded,) = tokenizer.decode(tokenizer.encode([sound]))
    np.testing.assert_allclose(decoded, output.clamp(-1, 1), atol=1e-5)


def test_gradients_reach_the_encoder_from_every_level():
    tokenizer = make()
    audio = torch.from_numpy(np.stack(sounds(600, 600)))
    latents, _ = tokenizer.encoder(audio)
    latents.retain_grad()
    total = torch.zeros_like(latents)
    for level in tokenizer.quantizer.stack:  # commitment of each level by itself
        latents.grad = None
        quantized = level((latents - total).detach() + latents - latents.detach())
        quantized.losses["commitment"].backward(retain_graph=True)
        assert latents.grad.abs().sum() > 0
        total = total + quantized.vectors.detach()
    latents.grad = None
    vectors = tokenizer.quantizer(latents).vectors
    vectors.sum().backward()
    torch.testing.assert_close(latents.grad, torch.ones_like(latents))  # once, not once a level
    tokenizer(audio).output.square().sum().backward()
    assert all(parameter.grad is not None for parameter in tokenizer.encoder.parameters())


def test_masked_frames_teach_the_quantizer_nothing():
    tokenizer = make().train()
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[1, 4:] = False
    quantized = tokenizer(torch.from_numpy(np.stack(sounds(600, 600))), mask).quantized
    assert (quantized.codes[1, 4:] == -1).all()
    assert (quantized.codes[mask] >= 0).all()


@pytest.mark.parametrize("quantizer", [RESIDUAL, {"type": "fsq", "sizes": [8, 5, 5]}])
def test_saved_and_loaded_it_is_the_same(tmp_path, quantizer):
    tokenizer = make("seanet to istft", quantizer)
    media = sounds(700, 300)
    tokenizer.save_pretrained(tmp_path / "speech")
    loaded = load_tokenizer(tmp_path / "speech")
    assert isinstance(loaded, ModalityTokenizer)
    assert loaded.fingerprint == tokenizer.fingerprint != ""
    assert loaded.spec == tokenizer.spec
    codes = tokenizer.encode(media)
    assert all(torch.equal(a, b) for a, b in zip(codes, loaded.encode(media), strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(tokenizer.decode(codes), loaded.decode(codes), strict=True))
    (tmp_path / "speech" / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises((AnyglotError, MismatchError), match="speech"):
        SpeechTokenizer.from_pretrained(tmp_path / "speech")


def test_the_spec_says_rate_levels_and_limit():
    spec = make(max_seconds=1.01).spec
    assert spec.levels == (16, 16, 16)
    assert [(axis.name, axis.length, axis.size, axis.units) for axis in spec.axes] == [("time", "open", 270, 60)]
    assert spec.rate == pytest.approx(16000 / 60)
    assert spec.bits_per_second == pytest.approx(16000 / 60 * 12)


@pytest.mark.parametrize(
    ("suffix", "subtype"), [(".wav", "PCM_16"), (".wav", "FLOAT"), (".flac", None), (".ogg", None)]
)
def test_files_are_read_mixed_down_and_resampled(tmp_path, suffix, subtype):
    time = np.arange(8000) / 8000
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    path = tmp_path / f"tone{suffix}"
    soundfile.write(path, np.stack([tone, np.zeros_like(tone)], axis=1), 8000, subtype=subtype)
    tokenizer = make(max_seconds=2.0)
    sound = tokenizer.read(path)
    assert sound.dtype == np.float32
    assert sound.shape == (16000,)
    expected = 0.25 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert np.abs(sound - expected)[500:-500].max() < (0.02 if suffix == ".ogg" else 2e-3)
    assert np.array_equal(tokenizer.read(path.read_bytes()), sound)


def test_what_is_written_is_read_back(tmp_path):
    tokenizer = make()
    (sound,) = sounds(1234)
    for name in ("a.wav", "b.flac"):
        tokenizer.write(sound, tmp_path / name)
        np.testing.assert_allclose(tokenizer.read(tmp_path / name), sound, atol=1 / 32768)
    tokenizer.write(2 * np.ones(100, np.float32), tmp_path / "loud.wav")
    assert np.abs(tokenizer.read(tmp_path / "loud.wav")).max() <= 1


def wav(samples, rate=16000, subtype="FLOAT"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a sound file"),
        (b"RIFF\0\0\0\0WAVE", "not a sound file"),
        (b"this is text", "not a sound file"),
        (wav(np.zeros(0, np.float32)), "no samples"),
        (wav(np.array([0.0, np.nan, 0.1], np.float32)), "NaN or infinity in 1 of 3"),
        (wav(np.array([0.0, np.inf], np.float32)), "NaN or infinity in 1 of 2"),
        (wav(np.zeros(16001, np.float32)), "more than max_seconds=1"),
    ],
    ids=["empty", "no header", "text", "no samples", "nan", "infinity", "too long"],  # WAV headers tell the time
)
def test_bad_files_get_one_line_that_names_them_and_the_mend(tmp_path, content, message):
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=message) as error:
        make().read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(MediaError, match="bytes of sound"):
        make().read(content)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MediaError, match=r"gone\.wav: no such file"):
        make().read(tmp_path / "gone.wav")


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (np.zeros(0, np.float32), "no samples"),
        (np.full(9, np.nan, np.float32), "NaN"),
        (np.zeros(9), "float64"),
        (np.zeros((2, 9), np.float32), r"\[2, 9\]"),
        (np.zeros(16001, np.float32), "max_seconds"),
    ],
)
def test_bad_sounds_in_memory_are_refused_by_index(sound, message):
    with pytest.raises(MediaError, match=message) as error:
        make().encode([*sounds(100), sound])
    assert "sound 1" in str(error.value)


@pytest.mark.parametrize("codes", [torch.zeros(0, 3), torch.zeros(4, 2), torch.full((4, 3), 16), torch.zeros(4)])
def test_bad_codes_are_refused(codes):
    with pytest.raises(AnyglotError, match="codes"):
        make().decode([codes.long()])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder": {"type": "melt"}}, "encoder.type"),
        ({"encoder": {**MEL, "chanels": 3}}, "did you mean 'channels'"),
        ({"encoder": {**MEL, "hop": 61}}, "encoder"),
        ({"decoder": {**ISTFT, "delay": 1000}}, "delay"),
        ({"encoder": {**MEL, "hop": 120}}, "same hop"),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        make(**fields)
