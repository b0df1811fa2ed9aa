"""What the language model writes while it learns: pictures and sounds in TensorBoard."""

from collections.abc import Sequence

import numpy as np

from anyglot.data.documents import Message, Part
from anyglot.inference.anyglot import Anyglot
from anyglot.lm.vocabulary import TEXT
from anyglot.train.log import TrainingLog

MAX_TOKENS = 600  # of one sample


def show_samples(log: TrainingLog, step: int, model: Anyglot, texts: Sequence[str]) -> None:
    """Log what the model makes of each text in each medium. The model is left in evaluation mode."""
    for text in texts:
        for name, tokenizer in model.tokenizers.items():
            (reply,) = model.write([[Message(None, [Part(TEXT, text=text)])]], to=name, max_tokens=MAX_TOKENS)
            media = reply.parts[-1].data
            assert isinstance(media, np.ndarray)
            if media.ndim == 3:
                log.pictures(step, f"{name}/{text}", media[None])
            else:
                log.sound(step, f"{name}/{text}", media, tokenizer.config.sample_rate)  # type: ignore[attr-defined]
