"""What the language model writes while it learns: pictures, sounds and words in TensorBoard."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from anyglot.data.documents import Message, Part
from anyglot.inference.anyglot import Anyglot
from anyglot.lm.vocabulary import TEXT
from anyglot.tokenizers.base import Medium, ModalityTokenizer
from anyglot.train.log import TrainingLog

MAX_TOKENS = 600  # of one sample
FRAMES = 8  # of a film, shown side by side


def show_samples(log: TrainingLog, step: int, model: Anyglot, texts: Sequence[str]) -> None:
    """Log what the model makes of each text in each medium. The model is left in evaluation mode."""
    model.model.eval()  # in training it drops out, and keeps no keys and values where activations are checkpointed
    for text in texts:
        for name, tokenizer in model.tokenizers.items():
            (reply,) = model.write([[Message(None, [Part(TEXT, text=text)])]], to=name, max_tokens=MAX_TOKENS)
            if reply.parts[-1].data is not None:
                show(log, step, f"{name}/{text}", tokenizer, reply.parts[-1].data)


def show(log: TrainingLog, step: int, name: str, tokenizer: ModalityTokenizer, media: Medium) -> None:
    """Log a medium as people would look at it or listen to it: its preview."""
    if tokenizer.preview_suffix == ".wav":
        log.sound(step, name, media, tokenizer.config.sample_rate)  # type: ignore[attr-defined]
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"preview{tokenizer.preview_suffix}"
        tokenizer.preview(media, path)
        if path.suffix in (".mp4", ".gif"):
            log.pictures(step, name, _film(path))
        elif path.suffix == ".png":
            from PIL import Image

            log.pictures(step, name, np.array(Image.open(path).convert("RGB"))[None])
        else:
            log.words(step, name, path.read_text(encoding="utf-8"))


def _film(path: Path) -> np.ndarray:
    """Some frames of a film, uint8 `[frames, height, width, 3]`."""
    from anyglot.tokenizers.clips import read_clip

    clip = read_clip(path, fps=0, shorter_side=0, max_pixels=2**22, max_frames=10_000)
    chosen: np.ndarray = clip[np.linspace(0, len(clip) - 1, min(FRAMES, len(clip))).round().astype(int)]
    return chosen
