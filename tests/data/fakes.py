"""Small real inputs, and tokenizers that are quick, deterministic and obvious, for the tests of the data layer."""

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image

from anyglot.data import tokenize
from anyglot.errors import MediaError
from anyglot.lm.grammar import Grammar, Serialised, Span, Turn
from anyglot.lm.vocabulary import Vocabulary
from anyglot.tokenizers.base import read_manifest
from anyglot.tokenizers.spec import Axis, CodeSpec
from anyglot.tokenizers.text import TextTokenizer


class FakeImage:
    """The mean of every 8 x 8 block of the red channel, halved, is its code."""

    modality, suffix, fingerprint = "image", ".png", "fake-image-1"
    spec = CodeSpec("image", (128,), (Axis("row", "sized", 8, 8), Axis("column", "sized", 8, 8)))
    calls = 0  # pictures encoded, over all instances
    delay = 0.0  # seconds per call

    def read(self, source):
        try:
            import io

            return np.array(Image.open(io.BytesIO(source) if isinstance(source, bytes) else source).convert("RGB"))
        except OSError as error:
            raise MediaError(f"{source if not isinstance(source, bytes) else 'bytes'}: {error}") from error

    def encode(self, media):
        time.sleep(self.delay)
        FakeImage.calls += len(media)
        return [torch.from_numpy(self._codes(picture)) for picture in media]

    def _codes(self, picture):
        height, width, _ = picture.shape
        if height % 8 or width % 8:
            raise ValueError(f"{height} x {width} is not in whole blocks")
        blocks = picture[:, :, 0].reshape(height // 8, 8, width // 8, 8).mean((1, 3)) / 2
        return blocks.astype(np.int64)[:, :, None]


class FakeSpeech:
    """The loudest sample of every 100, on two levels: tens and ones of a hundred."""

    modality, suffix, fingerprint = "speech", ".wav", "fake-speech-1"
    spec = CodeSpec("speech", (10, 10), (Axis("time", "open", 500, 100),), rate=10.0)

    def read(self, source):
        import io

        try:
            samples, _ = soundfile.read(io.BytesIO(source) if isinstance(source, bytes) else source, dtype="float32")
        except soundfile.LibsndfileError as error:
            raise MediaError(f"{source if not isinstance(source, bytes) else 'bytes'}: {error}") from error
        if not np.isfinite(samples).all():
            raise MediaError(f"{source}: not a number among the samples")
        return samples

    def encode(self, media):
        return [torch.from_numpy(self._codes(sound)) for sound in media]

    def _codes(self, sound):
        frames = np.pad(sound, (0, -len(sound) % 100)).reshape(-1, 100)
        level = (np.abs(frames).max(1) * 99).astype(np.int64)
        return np.stack([level // 10, level % 10], axis=1)


FAKES = {"image": FakeImage, "speech": FakeSpeech}


def load_fake(directory):
    """Stands in for `load_tokenizer`: the fake of the modality that the directory's manifest names."""
    return FAKES[read_manifest(directory)["modality"]]()


def save_fakes(folder: Path) -> dict[str, str]:
    """Write manifests of the fakes and a real text tokenizer; return the config keys `text` and `tokenizers`."""
    for name, fake in FAKES.items():
        manifest = {"format": 1, "modality": name, "config": {}, "spec": fake.spec.to_json()}
        (folder / name).mkdir(parents=True)
        (folder / name / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": fake.fingerprint}))
    TextTokenizer.train(["a small text about pictures and sounds of numbers"] * 3, 290).save_pretrained(folder / "text")
    return {"text": str(folder / "text"), "tokenizers": {name: str(folder / name) for name in FAKES}}


def picture(seed: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def save_png(path: Path, seed: int = 0, height: int = 16, width: int = 16) -> bytes:
    Image.fromarray(picture(seed, height, width)).save(path)
    return path.read_bytes()


def save_wav(path: Path, seed: int = 0, samples: int = 450) -> bytes:
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.9, 0.9, samples).astype(np.float32), 1000)
    return path.read_bytes()


def make_corpus(folder: Path, count: int) -> Path:
    """A JSON-lines file of aligned text, picture and sound; every fifth is held out."""
    folder.mkdir(parents=True)
    lines = []
    for number in range(count):
        save_png(folder / f"{number}.png", number, 8 * (1 + number % 3))
        save_wav(folder / f"{number}.wav", number, 150 + 10 * number)
        parts = [{"type": "text", "text": f"number {number}"}]
        parts += [{"type": "image", "path": f"{number}.png"}, {"type": "speech", "path": f"{number}.wav"}]
        split = "heldout" if number % 5 == 4 else "train"
        lines.append(json.dumps({"id": f"n{number}", "split": split, "parts": parts}))
    path = folder / "numbers.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def vocabulary() -> Vocabulary:
    specs = [(fake.spec, fake.fingerprint) for fake in FAKES.values()]
    return Vocabulary.build(270, "text-1", specs, max_size=8)


def text_document(grammar: Grammar, tokens: int, seed: int = 0, loss: bool = True) -> Serialised:
    """A plain text document of so many ids, bos and eos included."""
    ids = np.random.default_rng(seed).integers(0, grammar.vocabulary.text_size, tokens - 2)
    return grammar.serialise([Turn(None, [Span("text", ids, loss)])])


def random_document(grammar: Grammar, seed: int) -> Serialised:
    """Text, perhaps a picture, perhaps a sound, in random sizes and order; some spans bear no loss."""
    rng = np.random.default_rng(seed)
    spans = [Span("text", rng.integers(0, grammar.vocabulary.text_size, rng.integers(1, 20)))]
    if rng.random() < 0.5:
        spans.append(Span("image", rng.integers(0, 128, (*rng.integers(1, 4, 2), 1)), bool(rng.random() < 0.7)))
    if rng.random() < 0.5:
        spans.append(Span("speech", rng.integers(0, 10, (rng.integers(1, 6), 2))))
    order = rng.permutation(len(spans))
    return grammar.serialise([Turn(None, [spans[i] for i in order])])


def digest(folder: Path) -> dict[str, str]:
    """Every file below a folder but the progress log, by its content."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "log.jsonl"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":  # the child of the kill test: python -m tests.data.fakes CONFIG.json
    import sys

    FakeImage.delay = 0.1
    tokenize.load_tokenizer = load_fake
    tokenize.run(json.loads(Path(sys.argv[1]).read_text()))
