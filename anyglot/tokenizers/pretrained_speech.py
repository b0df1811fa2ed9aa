"""Published speech codecs with the tokenizer interface: EnCodec, DAC, Mimi, X-codec, X-codec2, out of transformers.

`adopt` takes a codec over from a directory or the Hugging Face hub. From then on it is a tokenizer directory like any
other: weights and config lie in it, and nothing is downloaded again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers.module import TokenizerModule
from anyglot.tokenizers.sounds import check_length, check_sound, read_sound, write_sound
from anyglot.tokenizers.spec import Axis, CodeSpec


@dataclass
class PretrainedSpeechConfig:
    """architecture: one of `CODECS`. model: the codec's own config, as transformers writes it.
    levels: how many codebooks to use, coarse first; 0: all. max_seconds: longer sounds are refused."""

    architecture: str
    model: dict[str, Any] = field(default_factory=dict)
    levels: int = 0
    max_seconds: float = 30.0


@dataclass(frozen=True)
class Codec:
    """One architecture. name: of its transformers class, less "Model". rate, hop, sizes: of a config: Hz, samples per
    frame, codebook sizes. encode: (model, audio [1, 1, samples], levels) to codes [1, levels, frames]; the sound is
    whole frames. decode: (model, codes [1, levels, frames]) to audio [..., samples]. refuse: why a config cannot be
    used, or ""."""

    name: str
    rate: Callable[[Any], int]
    hop: Callable[[Any], int]
    sizes: Callable[[Any], list[int]]
    encode: Callable[[Any, Tensor, int], Tensor]
    decode: Callable[[Any, Tensor], Tensor]
    refuse: Callable[[Any], str] = lambda config: ""


def _encodec_refuse(config: Any) -> str:
    if config.chunk_length_s is not None or config.normalize or config.audio_channels != 1:
        return "only mono codecs that take a sound whole and as loud as it is, such as the 24 kHz one, have plain codes"
    return ""


def _encodec_encode(model: Any, audio: Tensor, levels: int) -> Tensor:
    latents = model.encoder(audio)  # `model.encode` knows bandwidths only; any number of levels is as good
    codes, residual = [], latents
    for layer in model.quantizer.layers[:levels]:
        codes.append(layer.encode(residual))
        residual = residual - layer.decode(codes[-1])
    return torch.stack(codes, 1)


def _xcodec_encode(model: Any, audio: Tensor, levels: int) -> Tensor:
    codes: Tensor = model.encode(audio, return_dict=False)  # at the highest bandwidth; fewer levels are a prefix
    return codes[:, :levels]


def _xcodec2_encode(model: Any, audio: Tensor, levels: int) -> Tensor:
    from transformers import Xcodec2FeatureExtractor

    extractor = Xcodec2FeatureExtractor(sampling_rate=model.config.sampling_rate, hop_length=model.hop_length)
    inputs = extractor(audio[0, 0].cpu(), sampling_rate=model.config.sampling_rate, return_tensors="pt")
    frames = audio.shape[-1] // model.hop_length
    found: Tensor = model.encode(inputs["input_values"].to(audio), inputs["input_features"].to(audio)).audio_codes
    return found[..., :frames]


CODECS = {
    "encodec": Codec(
        "Encodec",
        rate=lambda config: config.sampling_rate,
        hop=lambda config: int(np.prod(config.upsampling_ratios)),
        sizes=lambda config: [config.codebook_size] * config.num_quantizers,
        encode=_encodec_encode,
        decode=lambda model, codes: model.decode(codes[None], [None]).audio_values,
        refuse=_encodec_refuse,
    ),
    "dac": Codec(
        "Dac",
        rate=lambda config: config.sampling_rate,
        hop=lambda config: config.hop_length,
        sizes=lambda config: [config.codebook_size] * config.n_codebooks,
        encode=lambda model, audio, levels: model.encode(audio, n_quantizers=levels).audio_codes,
        decode=lambda model, codes: model.decode(audio_codes=codes).audio_values,
    ),
    "mimi": Codec(
        "Mimi",
        rate=lambda config: config.sampling_rate,
        hop=lambda config: round(config.sampling_rate / config.frame_rate),
        sizes=lambda config: [config.codebook_size] * config.num_quantizers,
        encode=lambda model, audio, levels: model.encode(audio, num_quantizers=levels).audio_codes,
        decode=lambda model, codes: model.decode(codes).audio_values,
    ),
    "xcodec": Codec(
        "Xcodec",
        rate=lambda config: config.sample_rate,
        hop=lambda config: config.hop_length,
        sizes=lambda config: [config.codebook_size] * config.num_quantizers,
        encode=_xcodec_encode,
        decode=lambda model, codes: model.decode(codes).audio_values,
    ),
    "xcodec2": Codec(
        "Xcodec2",
        rate=lambda config: config.sampling_rate,
        hop=lambda config: config.hop_length,
        sizes=lambda config: [int(np.prod(config.quantization_levels))],
        encode=_xcodec2_encode,
        decode=lambda model, codes: model.decode(codes).audio_values,
    ),
}


class PretrainedSpeech(TokenizerModule):
    """A published codec as the `ModalityTokenizer` for sound. It only codes; it is not trained here."""

    modality: ClassVar[str] = "speech"
    implementation: ClassVar[str] = "pretrained_speech"
    config_class: ClassVar[type] = PretrainedSpeechConfig
    config: PretrainedSpeechConfig
    suffix: ClassVar[str] = ".wav"

    def __init__(self, config: PretrainedSpeechConfig, model: nn.Module | None = None) -> None:
        super().__init__(config)
        self.codec = find_codec(config.architecture)
        self.model: Any = model or _model_class(self.codec)(_config_class(self.codec)(**config.model))
        reason = self.codec.refuse(self.model.config)
        if reason:
            raise ConfigError(f"{config.architecture}: this codec cannot be used: {reason}")
        sizes = self.codec.sizes(self.model.config)
        if not 0 <= config.levels <= len(sizes):
            raise ConfigError(f"levels: 1 to {len(sizes)}, or 0 for all, got {config.levels}")
        self.sizes = tuple(sizes[: config.levels or len(sizes)])
        self.rate, self.hop = self.codec.rate(self.model.config), self.codec.hop(self.model.config)

    @property
    def spec(self) -> CodeSpec:
        """One open axis, "time", of at most max_seconds."""
        frames = -(-int(self.config.max_seconds * self.rate) // self.hop)
        return CodeSpec("speech", self.sizes, (Axis("time", "open", frames, self.hop),), rate=self.rate / self.hop)

    @torch.no_grad()
    def encode(self, media: Sequence[np.ndarray]) -> list[Tensor]:
        """Sounds, float32 `[samples]`, to codes `[ceil(samples / hop), levels]`, on the CPU. Raises MediaError.

        One at a time: published codecs are not causal, so that padding would change codes.
        """
        codes = []
        for index, sound in enumerate(media):
            check_sound(sound, f"sound {index}")
            check_length(len(sound) / self.rate, self.config.max_seconds, f"sound {index}")
            frames = -(-len(sound) // self.hop)
            audio = pad(torch.from_numpy(sound), (0, frames * self.hop - len(sound)))[None, None].to(self.device)
            found = self.codec.encode(self.model, audio, len(self.sizes))[0].t().cpu().to(torch.int64)
            if found.shape != (frames, len(self.sizes)):
                raise AnyglotError(
                    f"{self.config.architecture} made codes {list(found.shape)} of {frames} frames; its config does "
                    "not fit its weights"
                )
            codes.append(found)
        return codes

    @torch.no_grad()
    def decode(self, codes: Sequence[Tensor], lengths: Sequence[int] | None = None) -> list[np.ndarray]:
        """Codes `[frames, levels]` to sounds `[frames * hop]`, cut to `lengths` where they are known.

        Raises AnyglotError for codes of another shape or outside the codebooks.
        """
        sounds = []
        for index, code in enumerate(codes):
            self._check_codes(code)
            audio = self.codec.decode(self.model, code.t()[None].to(self.device)).flatten().float().cpu()
            samples = lengths[index] if lengths else len(code) * self.hop
            sounds.append(pad(audio, (0, max(0, samples - len(audio))))[:samples].clamp(-1, 1).numpy())
        return sounds

    def read(self, source: str | Path | bytes) -> np.ndarray:
        """A sound file or its bytes as float32 `[samples]`, at the codec's rate. Raises MediaError."""
        return read_sound(source, self.rate, self.config.max_seconds)

    def write(self, media: np.ndarray, path: str | Path) -> None:
        """Write a sound to a 16-bit file, atomically, in the format of the path's ending."""
        write_sound(media, self.rate, path)

    def codebooks(self) -> list[Tensor]:
        """What a code alone adds at its level has no one width in these codecs: none are given."""
        return []

    def _check_codes(self, code: Tensor) -> None:
        if code.ndim != 2 or code.shape[1] != len(self.sizes) or code.shape[0] < 1:
            raise AnyglotError(f"speech codes must be [frames, {len(self.sizes)}], got {list(code.shape)}")
        if bool(((code < 0) | (code >= torch.tensor(self.sizes, device=code.device))).any()):
            raise AnyglotError(
                f"speech codes must lie in 0 .. {self.sizes[0] - 1}, got {int(code.min())} .. {int(code.max())}"
            )


def find_codec(name: str) -> Codec:
    """The codec of that name. Raises ConfigError that lists the names there are."""
    if name not in CODECS:
        raise ConfigError(f"architecture: no speech codec {name!r}; valid: {', '.join(CODECS)}")
    return CODECS[name]


def adopt(config: PretrainedSpeechConfig, source: str, revision: str = "") -> PretrainedSpeech:
    """Take over a published codec.

    Args:
        config: without `model`, which is the source's.
        source: a directory with config.json and model.safetensors, or a name on the Hugging Face hub.
        revision: of the hub's repository, a branch, tag or commit; "" for the newest.
    Raises:
        AnyglotError: nothing to load there, or no safetensors: pickles are never opened.
    """
    codec = find_codec(config.architecture)
    try:
        model = _model_class(codec).from_pretrained(source, revision=revision or None, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise AnyglotError(
            f"{source}: no {codec.name} codec could be loaded ({str(error).splitlines()[0]}); give a directory with "
            "config.json and model.safetensors, or a name on the hub"
        ) from error
    return PretrainedSpeech(replace(config, model=model.config.to_dict()), model.float()).eval()


def _model_class(codec: Codec) -> Any:
    import transformers

    return getattr(transformers, f"{codec.name}Model")


def _config_class(codec: Codec) -> Any:
    import transformers

    return getattr(transformers, f"{codec.name}Config")


TOKENIZER = PretrainedSpeech
