"""Names spoken by the packaged synthesiser: text to 16-bit WAV files, in all cores, resumable file by file."""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyglot.data.corpora.names import unit_hash
from anyglot.files import atomic_path

if TYPE_CHECKING:
    import numpy as np

_engine: Any = None  # one synthesiser per worker process


@dataclass(frozen=True)
class Utterance:
    """What to say, and where to write it."""

    text: str
    path: Path


def speak_all(
    package: Path, utterances: Sequence[Utterance], rate: int, max_seconds: float, workers: int
) -> Iterator[tuple[Utterance, float]]:
    """Speak every utterance that has no file yet.

    Args:
        package: folder that holds the synthesiser's import package.
        rate: sample rate of the files, Hz.
        max_seconds: a longer utterance is not written.
    Yields:
        each utterance with its length in seconds as it is ready, in no fixed order; the length is 0 for
        a file that was there before.
    """
    missing = [utterance for utterance in utterances if not utterance.path.exists()]
    yield from ((utterance, 0.0) for utterance in utterances if utterance.path.exists())
    if not missing:
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(str(package),)) as pool:
        futures = {pool.submit(_speak, item, rate, max_seconds): item for item in missing}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def trim(samples: "np.ndarray", rate: int, margin: float = 0.06, floor: float = 0.01) -> "np.ndarray":
    """Cut silence at both ends: keep `margin` seconds around what exceeds `floor` times the peak."""
    import numpy as np

    loud = np.flatnonzero(np.abs(samples) > floor * np.abs(samples).max(initial=0.0))
    if loud.size == 0:
        return samples[:0]
    keep = int(margin * rate)
    return samples[max(0, loud[0] - keep) : loud[-1] + keep + 1]


def _start(package: str) -> None:
    global _engine
    import torch

    torch.set_num_threads(1)  # every core has its own process
    sys.path.insert(0, package)
    from hibari import Hibari

    _engine = Hibari()


def _speak(utterance: Utterance, rate: int, max_seconds: float) -> float:
    """Say it, write it unless it is too long, return its seconds. The seed is the text's, whatever the order."""
    import soundfile
    import torch
    from torchaudio.functional import resample

    spoken = _engine(f"{utterance.text}.", seed=unit_hash(utterance.text, "speech") % 2**32)
    samples = trim(resample(torch.from_numpy(spoken), _engine.sample_rate, rate).numpy(), rate)
    seconds = len(samples) / rate
    if 0 < seconds <= max_seconds:
        with atomic_path(utterance.path) as temporary:
            soundfile.write(temporary, samples.clip(-1, 1), rate, subtype="PCM_16")
    return seconds
