"""The speech tokenizer: mono sound to codes `[frames, levels]` and back, whole or as a stream.

A causal encoder makes one latent per `hop` samples, a quantizer turns it into codes, a decoder turns codes into sound.
L samples give ceil(L / hop) frames; decoding gives frames * hop samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from omegaconf import MISSING
from torch import Tensor
from torch.nn.functional import pad

from anyglot.config import typed
from anyglot.errors import AnyglotError, ConfigError
from anyglot.tokenizers import quantizers
from anyglot.tokenizers.module import TokenizerModule
from anyglot.tokenizers.networks.causal import State
from anyglot.tokenizers.networks.istft import ISTFTDecoder, ISTFTDecoderConfig
from anyglot.tokenizers.networks.mel_encoder import MelEncoder, MelEncoderConfig
from anyglot.tokenizers.networks.seanet import SEANetConfig, SEANetDecoder, SEANetEncoder
from anyglot.tokenizers.quantizers.base import Quantized
from anyglot.tokenizers.sounds import check_length, check_sound, read_sound, write_sound
from anyglot.tokenizers.spec import Axis, CodeSpec

ENCODERS: dict[str, tuple[Any, Any]] = {
    "mel": (MelEncoderConfig, MelEncoder),
    "seanet": (SEANetConfig, SEANetEncoder),
}
DECODERS: dict[str, tuple[Any, Any]] = {
    "istft": (ISTFTDecoderConfig, ISTFTDecoder),
    "seanet": (SEANetConfig, SEANetDecoder),
}

LIKE = 0.8  # of the longest sound of a batch is the shortest, for padding is work for nothing


@dataclass
class SpeechConfig:
    """sample_rate: Hz. dim: width of the latents. max_seconds: longer sounds are refused.
    batch_seconds: how much sound, with its padding, `encode` puts through the network at once.
    chunk_seconds: how much sound `decode` makes at once, rounded to whole frames, and so of each chunk of a stream.
    encoder, decoder: {"type": "mel" | "istft" | "seanet", and the fields of that network's config}.
    quantizer: {"type": ..., and the fields of that quantizer's config}; see `quantizers.build`."""

    sample_rate: int = 16000
    max_seconds: float = 30.0
    batch_seconds: float = 60.0
    chunk_seconds: float = 0.2
    dim: int = 128
    encoder: dict[str, Any] = field(default_factory=lambda: {"type": "mel"})
    decoder: dict[str, Any] = field(default_factory=lambda: {"type": "istft"})
    quantizer: dict[str, Any] = MISSING


@dataclass
class Reconstruction:
    """output: `[batch, samples]`. quantized: of the latents. latents: `[batch, frames, dim]`, before the quantizer."""

    output: Tensor
    quantized: Quantized
    latents: Tensor


class SpeechTokenizer(TokenizerModule):
    """The `ModalityTokenizer` for sound; as a module, the autoencoder that training sees."""

    modality: ClassVar[str] = "speech"
    config_class: ClassVar[type] = SpeechConfig
    config: SpeechConfig
    suffix: ClassVar[str] = ".wav"

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__(config)
        self.encoder = _network(ENCODERS, config.encoder, "encoder", config.dim, config.sample_rate)
        self.decoder = _network(DECODERS, config.decoder, "decoder", config.dim)
        self.quantizer = quantizers.build(config.quantizer, config.dim, "quantizer")
        if self.encoder.hop != self.decoder.hop:
            raise ConfigError(
                f"the encoder makes a code of {self.encoder.hop} samples, the decoder makes {self.decoder.hop} samples "
                "of a code; give both the same hop (or product of strides)"
            )
        self.hop: int = self.encoder.hop
        self.chunk = max(1, round(config.chunk_seconds * config.sample_rate / self.hop))  # frames

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.config.sample_rate

    @property
    def spec(self) -> CodeSpec:
        """One open axis, "time", of at most max_seconds."""
        frames = -(-int(self.config.max_seconds * self.config.sample_rate) // self.hop)
        time = Axis("time", "open", size=frames, units=self.hop)
        return CodeSpec("speech", self.quantizer.levels, (time,), rate=self.config.sample_rate / self.hop)

    @property
    def latency(self) -> int:
        """Samples between a sound entering a stream and leaving it: one whole frame, and the decoder's delay."""
        return int(self.hop + self.decoder.delay)

    def forward(self, audio: Tensor, mask: Tensor | None = None) -> Reconstruction:
        """Sounds `[batch, samples]`, padded with zeros to whole frames; the output has the input's length.

        mask: bool `[batch, frames]`, False where a frame is padding that the quantizer must not learn from.
        """
        latents, _ = self.encoder(self._whole_frames(audio))
        quantized = self.quantizer(latents, mask)
        output, _ = self.decoder(quantized.vectors)
        return Reconstruction(output[:, : audio.shape[1]], quantized, latents)

    @torch.no_grad()
    def encode(self, media: Sequence[np.ndarray]) -> list[Tensor]:
        """Sounds, float32 `[samples]`, to codes `[ceil(samples / hop), levels]`, on the CPU. Raises MediaError.

        The network is causal and padding is on the right, so neighbours in a batch do not matter.
        """
        sounds = [check_sound(sound, f"sound {index}") for index, sound in enumerate(media)]
        for index, sound in enumerate(sounds):
            check_length(len(sound) / self.config.sample_rate, self.config.max_seconds, f"sound {index}")
        codes: dict[int, Tensor] = {}
        for batch in self._batches([len(sound) for sound in sounds]):
            longest = max(len(sounds[index]) for index in batch)
            padded = np.stack([np.pad(sounds[index], (0, longest - len(sounds[index]))) for index in batch])
            audio = self._whole_frames(torch.from_numpy(padded).to(self.device))
            encoded = self.quantizer.encode(self.encoder(audio)[0]).cpu()
            for row, index in enumerate(batch):
                codes[index] = encoded[row, : -(-len(sounds[index]) // self.hop)].clone()
        return [codes[index] for index in range(len(sounds))]

    def decode(self, codes: Sequence[Tensor], lengths: Sequence[int] | None = None) -> list[np.ndarray]:
        """Codes `[frames, levels]` to sounds `[frames * hop]`, cut to `lengths` where they are known.

        One at a time: the decoder's windows overlap to the left, so that padding would change a sound's end.
        A level may be -1 throughout for "none": coarse levels alone make a coarse sound.
        """
        sounds: list[np.ndarray] = []
        for index, code in enumerate(codes):
            if code.ndim != 2 or len(code) == 0:
                raise AnyglotError(
                    f"speech codes must be [frames, levels] with a frame or more, got {list(code.shape)}"
                )
            sound, _ = self.decode_chunk(code, last=True)
            sounds.append(sound[: lengths[index] if lengths else None])
        return sounds

    def decode_chunk(self, codes: Tensor, state: State = None, last: bool = False) -> tuple[np.ndarray, State]:
        """The next codes of one sound, `[frames, levels]`, frames >= 0, to samples; see `StreamingDecoder`.

        Frames go through the network `chunk` at a time, counted from the sound's beginning, and the rest waits in the
        state: so the same numbers are multiplied in the same order however the frames come, and sums round alike.
        """
        waiting, network = state or (codes[:0], None)
        codes = torch.cat([waiting, codes])
        ready = len(codes) if last else len(codes) // self.chunk * self.chunk
        pieces = [np.zeros(0, np.float32)]
        for start in range(0, ready, self.chunk):
            audio, network = self.decode_stream(codes[None, start : start + self.chunk].to(self.device), network)
            pieces.append(_samples(audio))
        if last:
            audio, network = self.decode_stream(codes[None, ready:].to(self.device), network, last=True)
            pieces.append(_samples(audio))
        return np.concatenate(pieces), (codes[ready:], network)

    @torch.no_grad()
    def encode_stream(self, audio: Tensor, state: State = None, last: bool = False) -> tuple[Tensor, State]:
        """The next chunk of a stream, `[batch, samples]` of any length, to codes `[batch, frames, levels]`.

        Samples that do not fill a frame wait in the state; with `last` they are padded with zeros. Chunks put
        together give exactly what the whole gives.
        """
        waiting, network_state = state or (audio[:, :0], None)
        audio = torch.cat([waiting, audio], dim=1)
        if last:
            audio = self._whole_frames(audio)
        ready = audio.shape[1] // self.hop * self.hop
        codes = torch.zeros(len(audio), 0, len(self.quantizer.levels), dtype=torch.int64, device=audio.device)
        if ready:
            latents, network_state = self.encoder(audio[:, :ready], network_state)
            codes = self.quantizer.encode(latents)
        return codes, (audio[:, ready:], network_state)

    @torch.no_grad()
    def decode_stream(self, codes: Tensor, state: State = None, last: bool = False) -> tuple[Tensor, State]:
        """The next codes of a stream, `[batch, frames, levels]`, frames >= 0, to sound `[batch, samples]`.

        The stream's first `decoder.delay` samples come late and its last ones with `last`; in all there are
        frames * hop of them. Unlike `decode`, it does not clip to [-1, 1], and equals it to rounding only.
        """
        if codes.shape[1] == 0 and (state is None or self.decoder.delay == 0 or not last):
            return torch.zeros(len(codes), 0, device=codes.device), state  # nothing in, nothing waiting
        vectors = self.quantizer.decode(codes) if codes.shape[1] else codes.new_zeros(len(codes), 0, self.config.dim)
        audio, state = self.decoder(vectors, state, last)
        return audio, state

    def read(self, source: str | Path | bytes) -> np.ndarray:
        """A wav, flac, ogg... file or its bytes as float32 `[samples]`: mixed down to mono, resampled, in [-1, 1].

        Raises MediaError naming the file: unreadable, empty, NaN inside, or longer than max_seconds.
        """
        return read_sound(source, self.config.sample_rate, self.config.max_seconds)

    def write(self, media: np.ndarray, path: str | Path) -> None:
        """Write a sound to a 16-bit file, atomically, in the format of the path's ending."""
        write_sound(media, self.config.sample_rate, path)

    def _whole_frames(self, audio: Tensor) -> Tensor:
        return pad(audio, (0, -audio.shape[1] % self.hop))

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of sounds in batches of like length, each at most batch_seconds with its padding, which is little."""
        batches: list[list[int]] = []
        for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            room = self.config.batch_seconds * self.config.sample_rate
            longest = lengths[batches[-1][0]] if batches else 0
            if lengths[index] < LIKE * longest or not batches or (len(batches[-1]) + 1) * longest > room:
                batches.append([])
            batches[-1].append(index)
        return batches


def _samples(audio: Tensor) -> np.ndarray:
    """Sound `[1, samples]` as float32 `[samples]` in [-1, 1]."""
    sound: np.ndarray = audio[0].float().clamp(-1, 1).cpu().numpy()
    return sound


def _network(kinds: Mapping[str, tuple[Any, Any]], mapping: Mapping[str, Any], where: str, *sizes: int) -> Any:
    """The encoder or decoder that a mapping names by its "type"."""
    options = dict(mapping)
    kind = options.pop("type", None)
    if kind not in kinds:
        raise ConfigError(f"{where}.type: no network {kind!r}; valid: {', '.join(kinds)}")
    schema, network = kinds[kind]
    try:
        return network(typed(schema, options, where), *sizes)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


TOKENIZER = SpeechTokenizer
