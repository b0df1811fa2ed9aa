"""What the tests of inference and evaluation share: a whole small model with real, random-weight tokenizers."""

from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image

from anyglot.config import typed
from anyglot.lm.depth import DepthConfig, build_depth
from anyglot.lm.model import ModelConfig, build_model
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.image import ImageConfig, ImageTokenizer
from anyglot.tokenizers.speech import SpeechConfig, SpeechTokenizer
from anyglot.tokenizers.text import TextTokenizer

IMAGE = {
    "network": {"patch": 2, "channels": [8, 16], "blocks": 1, "decoder_blocks": 1, "groups": 4},
    "dim": 6,
    "quantizer": {"type": "fsq", "sizes": [8, 5, 5]},
    "max_side": 16,
}
SPEECH = {
    "encoder": {"type": "mel", "hop": 80, "stacked": 2, "window": 80, "mels": 8, "channels": 16, "blocks": 1},
    "decoder": {"type": "istft", "hop": 80, "spectra": 2, "window": 160, "delay": 60, "channels": 16, "blocks": 1},
    "quantizer": {"type": "residual", "levels": 2, "inner": {"type": "vq", "size": 16, "kmeans_init": False}},
    "dim": 12,
    "sample_rate": 800,
    "max_seconds": 2.0,
}
WORDS = ["black cat", "green apple", "old house on a hill", "what is this?", "a red kite", "the sun"]


def make_tokenizers(seed: int = 0) -> tuple[ImageTokenizer, SpeechTokenizer]:
    """A picture tokenizer of stride 4 and a speech codec of 10 frames a second, their weights drawn from `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        image = ImageTokenizer(typed(ImageConfig, IMAGE)).eval()
        speech = SpeechTokenizer(typed(SpeechConfig, SPEECH)).eval()
    return image, speech


def make_bundle(
    directory: Path, text: TextTokenizer | None = None, seed: int = 0, speech_stream: str = "frame"
) -> Path:
    """Write a checkpoint directory as `anyglot train` exports it; its model is not trained."""
    text = text or TextTokenizer.train(WORDS * 20, size=300)
    image, speech = make_tokenizers(seed)
    for name, tokenizer in (("text", text), ("image", image), ("speech", speech)):
        tokenizer.save_pretrained(directory / "tokenizers" / name)
    specs = [(image.spec, image.fingerprint), (speech.spec, speech.fingerprint)]
    streams = {"speech": speech_stream}
    vocabulary = Vocabulary.build(text.size, text.fingerprint, specs, max_size=8, streams=streams)
    shape = ModelConfig(hidden=32, layers=2, heads=4, key_value_heads=2, max_length=512)
    model = build_model(shape, vocabulary.size, seed)
    model.config.anyglot_vocabulary = vocabulary.fingerprint
    model.save_pretrained(directory)
    vocabulary.save(directory)
    depth = build_depth(DepthConfig(hidden=16, layers=1, heads=2), vocabulary, 32, seed)
    if depth is not None:
        depth.save(directory)
    return directory


def write_picture(path: Path, height: int = 8, width: int = 12, seed: int = 0) -> Path:
    """A PNG of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_sound(path: Path, samples: int = 500, rate: int = 800, seed: int = 0) -> Path:
    """A WAV of quiet noise."""
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(samples), rate)
    return path
