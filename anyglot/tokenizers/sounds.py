"""Sounds in and out of files: one channel, one sample rate, limits checked before anything is decoded."""

import io
from pathlib import Path

import numpy as np

from anyglot.errors import MediaError
from anyglot.files import atomic_path


def read_sound(source: str | Path | bytes, rate: int, max_seconds: float) -> np.ndarray:
    """A wav, flac, ogg... file or its bytes as float32 `[samples]` at `rate` Hz: mixed down to mono, in [-1, 1].

    Raises MediaError naming the file: unreadable, empty, NaN inside, or longer than max_seconds.
    """
    import soundfile
    import torch

    name = f"{len(source)} bytes of sound" if isinstance(source, bytes) else str(source)
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as file:
            found = file.samplerate
            check_length(file.frames / found, max_seconds, name)  # before reading: a file may be hours long
            sound: np.ndarray = file.read(dtype="float32", always_2d=True).mean(axis=1)
    except (soundfile.LibsndfileError, ValueError) as error:
        reason = "no such file" if "System error" in str(error) else "not a sound file that can be decoded"
        raise MediaError(f"{name}: {reason}; give a wav, flac or ogg file, or remove it from the list") from error
    check_sound(sound, name)
    if found != rate:
        from torchaudio.functional import resample

        sound = resample(torch.from_numpy(sound), found, rate).numpy()
    return np.clip(sound, -1.0, 1.0)


def write_sound(sound: np.ndarray, rate: int, path: str | Path) -> None:
    """Write float `[samples]` to a 16-bit file, atomically, in the format of the path's ending."""
    import soundfile

    with atomic_path(path) as temporary:
        soundfile.write(str(temporary), np.clip(sound, -1.0, 1.0), rate, subtype="PCM_16")


def check_length(seconds: float, max_seconds: float, name: str) -> None:
    """Raise MediaError if a sound is longer than the limit."""
    if seconds > max_seconds:
        raise MediaError(
            f"{name}: {seconds:.1f} s of sound, more than max_seconds={max_seconds:g}; split it or raise the limit"
        )


def check_sound(sound: np.ndarray, name: str) -> np.ndarray:
    """The sound, if it is float32 `[samples]`, not empty and finite. Raises MediaError."""
    if sound.ndim != 1 or sound.dtype != np.float32:
        raise MediaError(f"{name}: expected float32 [samples], got {sound.dtype} {list(sound.shape)}; use `read`")
    if len(sound) == 0:
        raise MediaError(f"{name}: no samples in it; remove it from the list")
    if not np.isfinite(sound).all():
        bad = int((~np.isfinite(sound)).sum())
        raise MediaError(f"{name}: NaN or infinity in {bad} of {len(sound)} samples; export the sound again")
    return sound
