"""Published tokenizers behind our interface, with random weights: equal to transformers' own, and to the contract."""

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F

from anyglot.errors import AnyglotError, ConfigError, MediaError
from anyglot.tokenizers import pretrained_image, pretrained_speech
from anyglot.tokenizers.base import ModalityTokenizer, load_tokenizer
from anyglot.tokenizers.image import to_pictures, to_tensor
from anyglot.tokenizers.pretrained_image import PretrainedImage, PretrainedImageConfig
from anyglot.tokenizers.pretrained_speech import PretrainedSpeech, PretrainedSpeechConfig
from anyglot.train.pretrained import run

DAC = {"encoder_hidden_size": 4, "codebook_size": 64, "codebook_dim": 4}
HUBERT = {"model_type": "hubert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
HUBERT |= {"intermediate_size": 32, "conv_dim": [8] * 7, "num_conv_pos_embeddings": 16}
HUBERT |= {"num_conv_pos_embedding_groups": 2}
BERT = {"model_type": "wav2vec2-bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT |= {"intermediate_size": 32, "feature_projection_input_dim": 160, "output_hidden_size": 16}
SPEECH = {
    "encodec": {
        "num_filters": 4, "hidden_size": 16, "codebook_size": 64, "codebook_dim": 16, "num_lstm_layers": 1,
        "target_bandwidths": [0.9, 2.7],
    },
    "dac": {**DAC, "decoder_hidden_size": 32, "downsampling_ratios": [2, 4, 5], "upsampling_ratios": [5, 4, 2],
            "n_codebooks": 4},
    "mimi": {
        "num_filters": 4, "hidden_size": 16, "codebook_size": 64, "codebook_dim": 8, "num_hidden_layers": 1,
        "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
        "num_quantizers": 4, "vector_quantization_hidden_dimension": 8, "upsample_groups": 16,
    },
    "xcodec": {
        "codebook_dim": 24, "codebook_size": 64, "target_bandwidths": [0.6, 1.2], "semantic_model_config": HUBERT,
        "acoustic_model_config": {
            **DAC, "model_type": "dac", "decoder_hidden_size": 16, "downsampling_ratios": [8, 5, 4, 2],
            "upsampling_ratios": [8, 5, 4, 2], "hidden_size": 8, "n_codebooks": 2,
        },
    },
    "xcodec2": {
        "hidden_size": 32, "encoder_hidden_size": 2, "downsampling_ratios": [2, 2, 4, 4, 5], "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 32, "head_dim": 16,
        "quantization_dim": 48, "semantic_model_config": BERT,
    },
}  # fmt: skip
CONV = {"base_channels": 32, "channel_multiplier": [1, 2], "num_res_blocks": 1}
IMAGE = {
    "emu3": {**CONV, "codebook_size": 128, "embed_dim": 4, "latent_channels": 4, "attn_resolutions": [1],
             "hidden_size": 64, "num_attention_heads": 2},
    "janus": {**CONV, "num_embeddings": 128, "embed_dim": 8, "latent_channels": 16, "num_patches": 16},
    "chameleon": {**CONV, "num_embeddings": 128, "embed_dim": 8, "latent_channels": 16, "resolution": 32,
                  "attn_resolutions": [16]},
}  # fmt: skip
every_codec = pytest.mark.parametrize("name", SPEECH)
every_picture_model = pytest.mark.parametrize("name", IMAGE)


def codec(name: str, **changes) -> PretrainedSpeech:
    torch.manual_seed(0)
    config = getattr(transformers, f"{pretrained_speech.CODECS[name].name}Config")(**SPEECH[name])
    return PretrainedSpeech(PretrainedSpeechConfig(name, config.to_dict(), **changes)).eval()


def picture_model(name: str) -> PretrainedImage:
    torch.manual_seed(0)
    config = getattr(transformers, f"{pretrained_image.CLASSES[name]}Config")(**IMAGE[name])
    return PretrainedImage(PretrainedImageConfig(name, config.to_dict())).eval()


def sound(samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(samples) * 0.1).astype(np.float32)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@every_codec
def test_codes_and_sound_equal_those_of_transformers(name):
    tokenizer = codec(name)
    frames = 9
    x = sound(frames * tokenizer.hop)
    audio = torch.from_numpy(x)[None, None]
    with torch.no_grad():
        if name == "encodec":
            encoded = tokenizer.model.encode(audio, bandwidth=max(tokenizer.model.config.target_bandwidths))
            codes, output = encoded.audio_codes[0], tokenizer.model.decode(encoded.audio_codes, encoded.audio_scales)
        elif name == "xcodec2":
            extractor = transformers.Xcodec2FeatureExtractor(hop_length=tokenizer.hop)
            encoded = tokenizer.model.encode(
                **{
                    key: value
                    for key, value in extractor(x, sampling_rate=16000, return_tensors="pt").items()
                    if key in ("input_values", "input_features")
                }
            )
            codes = encoded.audio_codes[..., :frames]  # the extractor always adds a frame of silence
            output = tokenizer.model.decode(codes)
        else:
            codes = tokenizer.model.encode(audio).audio_codes
            output = tokenizer.model.decode(audio_codes=codes)
    (ours,) = tokenizer.encode([x])
    assert torch.equal(ours, codes[0].t())
    (decoded,) = tokenizer.decode([ours])
    expected = output.audio_values.flatten().clamp(-1, 1).numpy()
    shared = min(len(expected), len(decoded))
    assert shared > (frames - 1) * tokenizer.hop
    np.testing.assert_allclose(decoded[:shared], expected[:shared], atol=1e-4)


@every_codec
def test_a_codec_keeps_the_tokenizer_contract(name, tmp_path):
    tokenizer = codec(name)
    assert isinstance(tokenizer, ModalityTokenizer)
    lengths = [5003, 1, 3 * tokenizer.hop, 2 * tokenizer.hop + 1]
    sounds = [sound(length, seed) for seed, length in enumerate(lengths)]
    if name in ("xcodec", "xcodec2"):  # their semantic networks need some frames
        sounds[1], lengths[1] = sound(2000, 1), 2000
    codes = tokenizer.encode(sounds)
    for code, length in zip(codes, lengths, strict=True):
        assert code.dtype == torch.int64
        assert code.shape == (-(-length // tokenizer.hop), len(tokenizer.spec.levels))
        assert (code < torch.tensor(tokenizer.spec.levels)).all()
    assert all(torch.equal(a, tokenizer.encode([x])[0]) for a, x in zip(codes, sounds, strict=True))
    decoded = tokenizer.decode(codes, lengths)
    assert [len(x) for x in decoded] == lengths
    assert all(x.dtype == np.float32 and np.abs(x).max() <= 1 for x in decoded)
    assert tokenizer.spec.rate == pytest.approx(tokenizer.rate / tokenizer.hop)

    tokenizer.save_pretrained(tmp_path / "t")
    again = load_tokenizer(tmp_path / "t")
    assert isinstance(again, PretrainedSpeech)
    assert again.fingerprint == tokenizer.fingerprint != ""
    assert again.spec == tokenizer.spec
    assert all(torch.equal(a, b) for a, b in zip(codes, again.encode(sounds), strict=True))
    for a, b in zip(decoded, again.decode(codes, lengths), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["encodec", "dac", "mimi", "xcodec"])
def test_fewer_levels_are_a_prefix(name):
    full = codec(name)
    x = [sound(5000)]
    few = PretrainedSpeech(PretrainedSpeechConfig(name, full.config.model, levels=2)).eval()
    few.load_state_dict(full.state_dict())
    assert few.spec.levels == full.spec.levels[:2]
    assert torch.equal(few.encode(x)[0], full.encode(x)[0][:, :2])
    assert len(few.decode(few.encode(x))[0]) == -(-5000 // full.hop) * full.hop


def test_sound_that_cannot_be_coded_is_named():
    tokenizer = codec("dac", max_seconds=0.5)
    with pytest.raises(MediaError, match="more than max_seconds=0.5"):
        tokenizer.encode([sound(9000)])
    with pytest.raises(MediaError, match="NaN"):
        tokenizer.encode([np.full(400, np.nan, np.float32)])
    with pytest.raises(AnyglotError, match=r"must be \[frames, 4\]"):
        tokenizer.decode([torch.zeros(3, 2, dtype=torch.int64)])
    with pytest.raises(AnyglotError, match=r"must lie in 0 .. 63, got 0 .. 64"):
        tokenizer.decode([torch.tensor([[0, 64, 0, 0]])])


def test_what_cannot_be_wrapped_is_refused():
    with pytest.raises(ConfigError, match="no speech codec 'encodek'; valid: encodec"):
        PretrainedSpeech(PretrainedSpeechConfig("encodek"))
    stereo = transformers.EncodecConfig(**{**SPEECH["encodec"], "chunk_length_s": 1.0})
    with pytest.raises(ConfigError, match="24 kHz"):
        PretrainedSpeech(PretrainedSpeechConfig("encodec", stereo.to_dict()))
    with pytest.raises(ConfigError, match="levels: 1 to 4"):
        codec("dac", levels=5)
    with pytest.raises(ConfigError, match="no picture tokenizer 'emu'; valid: emu3"):
        PretrainedImage(PretrainedImageConfig("emu"))
    with pytest.raises(ConfigError, match="mean, std"):
        PretrainedImage(PretrainedImageConfig("janus", mean=[0.5]))


def test_emu3_codes_and_pictures_equal_those_of_transformers():
    tokenizer = picture_model("emu3")
    model = transformers.Emu3VQVAE(transformers.Emu3VQVAEConfig(**IMAGE["emu3"])).eval()
    ours = PretrainedImage(tokenizer.config, model_copy(model)).eval()
    x = picture(32, 24)
    pixels = to_tensor(x[None])
    with torch.no_grad():
        ids = model.encode(pixels, image_sizes=torch.tensor([[32, 24]])).image_tokens[0]
        drawn = to_pictures(model.decode(ids[None]))[0]
    (codes,) = ours.encode([x])
    assert torch.equal(codes[..., 0], ids)
    np.testing.assert_array_equal(ours.decode([codes])[0], drawn)


def test_janus_searches_at_unit_length_and_decodes_like_transformers():
    """The twin: LlamaGen's rule, normalised latents against normalised codes, all distances at once."""
    model = transformers.JanusVQVAE(transformers.JanusVQVAEConfig(**IMAGE["janus"])).eval()
    ours = PretrainedImage(picture_model("janus").config, model_copy(model)).eval()
    x = picture(32, 32)
    with torch.no_grad():
        latents = model.quant_conv(model.encoder(to_tensor(x[None]))).permute(0, 2, 3, 1)
        similarity = F.normalize(latents, dim=-1) @ F.normalize(model.quantize.embedding.weight, dim=-1).t()
        ids = similarity.argmax(-1)
        drawn = to_pictures(model.decode(ids.flatten(1)))[0]
    (codes,) = ours.encode([x])
    assert torch.equal(codes[..., 0], ids[0])
    np.testing.assert_allclose(ours.decode([codes])[0].astype(int), drawn.astype(int), atol=1)
    other = picture(16, 40, seed=1)  # transformers decodes one size only
    assert ours.decode(ours.encode([other]))[0].shape == other.shape


def test_chameleon_codes_like_transformers_and_says_that_it_cannot_draw():
    model = transformers.ChameleonVQVAE(transformers.ChameleonVQVAEConfig(**IMAGE["chameleon"])).eval()
    ours = PretrainedImage(picture_model("chameleon").config, model_copy(model)).eval()
    x = picture(32, 32)
    with torch.no_grad():
        ids = model.encode(to_tensor(x[None])).image_tokens
    (codes,) = ours.encode([x])
    assert torch.equal(codes.flatten(), ids)
    with pytest.raises(AnyglotError, match="no decoder"):
        ours.decode([codes])


def model_copy(model):
    """PretrainedImage takes a model's codebook out of it: leave the original whole."""
    other = type(model)(model.config).eval()
    other.load_state_dict(model.state_dict())
    return other


@every_picture_model
def test_a_picture_model_keeps_the_tokenizer_contract(name, tmp_path):
    tokenizer = picture_model(name)
    assert isinstance(tokenizer, ModalityTokenizer)
    pictures = [picture(32, 32), picture(17, 30, 1), picture(32, 32, 2), picture(2, 4, 3)]
    codes = tokenizer.encode(pictures)
    assert [tuple(code.shape) for code in codes] == [(16, 16, 1), (9, 15, 1), (16, 16, 1), (1, 2, 1)]
    assert all(torch.equal(a, tokenizer.encode([x])[0]) for a, x in zip(codes, pictures, strict=True))
    with pytest.raises(MediaError, match="2 x 2 pixels are one code"):
        tokenizer.encode([picture(2, 2)])
    (book,) = tokenizer.codebooks()
    assert book.shape[0] == tokenizer.spec.levels[0] == 128
    tokenizer.save_pretrained(tmp_path / "t")
    again = load_tokenizer(tmp_path / "t")
    assert isinstance(again, PretrainedImage)
    assert again.fingerprint == tokenizer.fingerprint != ""
    assert all(torch.equal(a, b) for a, b in zip(codes, again.encode(pictures), strict=True))
    if name != "chameleon":
        drawn = tokenizer.decode(codes, [x.shape[:2] for x in pictures])
        for a, b in zip(drawn, again.decode(codes, [x.shape[:2] for x in pictures]), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("modality", "name"), [("speech", "dac"), ("image", "janus")])
def test_the_stage_takes_over_a_directory(modality, name, tmp_path, capsys):
    torch.manual_seed(0)
    if modality == "speech":
        model = transformers.DacModel(transformers.DacConfig(**SPEECH[name]))
    else:
        model = transformers.JanusVQVAE(transformers.JanusVQVAEConfig(**IMAGE[name]))
    model.save_pretrained(tmp_path / "published")
    mapping = {"out": str(tmp_path / "out"), "modality": modality, "source": str(tmp_path / "published")}
    mapping |= {"tokenizer": {"architecture": name}}
    run(mapping, "here")
    assert modality in capsys.readouterr().out
    tokenizer = load_tokenizer(tmp_path / "out" / "tokenizer")
    media = sound(900) if modality == "speech" else picture(16, 16)
    direct = codec_of(model, modality, name)
    assert torch.equal(tokenizer.encode([media])[0], direct.encode([media])[0])
    run(mapping, "here")  # finished: nothing to do
    with pytest.raises(AnyglotError, match="another 'source'"):
        run(mapping | {"source": "elsewhere"}, "here")


def codec_of(model, modality, name):
    if modality == "speech":
        return PretrainedSpeech(PretrainedSpeechConfig(name, model.config.to_dict()), model).eval()
    return PretrainedImage(PretrainedImageConfig(name, model.config.to_dict()), model).eval()


def test_the_stage_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    mapping = {"out": str(tmp_path / "out"), "modality": "speech", "source": str(tmp_path / "empty")}
    mapping |= {"tokenizer": {"architecture": "dac"}}
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnyglotError, match="no Dac codec could be loaded"):
        run(mapping, "here")
    model = transformers.DacModel(transformers.DacConfig(**SPEECH["dac"]))
    model.config.save_pretrained(tmp_path / "empty")
    torch.save(model.state_dict(), tmp_path / "empty" / "pytorch_model.bin")
    with pytest.raises(AnyglotError, match="no Dac codec could be loaded"):  # pickles are never opened
        run(mapping, "here")
    with pytest.raises(ConfigError, match="modality 'video' has no published tokenizers"):
        run(mapping | {"modality": "video"}, "here")
    assert not (tmp_path / "out").exists()
