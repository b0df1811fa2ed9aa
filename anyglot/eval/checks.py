"""Whether what a model wrote is right: pictures by the nearest known one, speech by what is heard, text by the name."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from anyglot.data.documents import Document, Part
from anyglot.eval.documents import part_of, text_of
from anyglot.eval.speech import Transcriber, normalise_text, word_error_rate
from anyglot.inference.anyglot import Anyglot, Reply, media_of
from anyglot.lm.vocabulary import TEXT


@dataclass
class Answer:
    """One generation: what was asked with, and what came. `Checks.judge` says whether it is right, and a note."""

    document: Document
    reply: Reply
    right: bool | None = None
    note: str = ""

    def part(self, modality: str) -> Part | None:
        """The part of a modality that was written, if any."""
        return next((part for part in self.reply.parts if part.type == modality), None)


class Checks:
    """Says of answers whether they are right.

    A picture is right if of all training pictures of its size, and its own, the one nearest to it in mean squared
    error is its own. Speech is right if what is heard in it is the name. Text must be the name, but for blanks around.

    Args:
        training: documents whose pictures may be mistaken for the right one.
        transcribe: the recogniser, (sound, Hz) to words; `Transcriber()` when first needed.
    """

    def __init__(
        self, model: Anyglot, training: Sequence[Document], transcribe: Callable[[np.ndarray, int], str] | None = None
    ) -> None:
        self.tokenizers = model.tokenizers
        self.transcribe = transcribe
        by_shape: dict[tuple[int, ...], list[tuple[str, np.ndarray]]] = defaultdict(list)
        for document in training:
            if "image" in self.tokenizers and (part := part_of(document, "image")) is not None:
                picture = media_of(self.tokenizers["image"], part)
                by_shape[picture.shape].append((document.id, picture))
        self.pictures = {  # shape -> names, and pictures float32 [pictures, height * width * 3]
            shape: ([name for name, _ in known], np.stack([_line(picture) for _, picture in known]))
            for shape, known in by_shape.items()
        }

    def judge(self, target: str, answers: Sequence[Answer]) -> dict[str, float]:
        """Mark each answer right or wrong, and return the figures of all; none for modalities that have no check.

        Returns:
            image: nearest_is_right; psnr in dB, of the squared error over all pictures that have the right size.
            speech: wer, of all transcripts; heard_exactly. text: exact. All but psnr are shares or rates.
        """
        judges = {"image": self._pictures, "speech": self._speech, TEXT: _texts}
        return judges[target](answers) if answers and target in judges else {}

    def _pictures(self, answers: Sequence[Answer]) -> dict[str, float]:
        errors = []
        for answer in answers:
            wanted, made = part_of(answer.document, "image"), answer.part("image")
            assert wanted is not None
            own = media_of(self.tokenizers["image"], wanted)
            answer.right = False
            if made is None or not isinstance(made.data, np.ndarray) or made.data.shape != own.shape:
                answer.note = "another size"
                continue
            line = _line(made.data)
            errors.append(float(((_line(own) - line) ** 2).mean()))
            names, table = self.pictures.get(own.shape, ([answer.document.id], _line(own)[None]))
            distances = ((table - line) ** 2).mean(1)
            answer.right = bool(errors[-1] <= distances.min())
            nearest = names[int(distances.argmin())].replace("_", " ")
            answer.note = "nearest is its own" if answer.right else f"nearest: {nearest}"
        figures = {"nearest_is_right": _share(answers)}
        if errors:
            figures["psnr"] = float(10 * np.log10(255**2 / max(float(np.mean(errors)), 1e-9)))
        return figures

    def _speech(self, answers: Sequence[Answer]) -> dict[str, float]:
        self.transcribe = self.transcribe or Transcriber()
        rate = self.tokenizers["speech"].config.sample_rate  # type: ignore[attr-defined]
        heard, wanted = [], [text_of(answer.document) for answer in answers]
        for answer, name in zip(answers, wanted, strict=True):
            part = answer.part("speech")
            silent = part is None or not isinstance(part.data, np.ndarray)
            heard.append("" if silent else self.transcribe(part.data, rate))  # type: ignore[union-attr, arg-type]
            answer.note = "no speech" if silent else f"heard: {heard[-1].strip()}"
            answer.right = normalise_text(heard[-1]) == normalise_text(name)
        return {"wer": word_error_rate(wanted, heard), "heard_exactly": _share(answers)}


def _texts(answers: Sequence[Answer]) -> dict[str, float]:
    for answer in answers:
        part = answer.part(TEXT)
        answer.right = part is not None and (part.text or "").strip() == text_of(answer.document).strip()
    return {"exact": _share(answers)}


def _line(picture: np.ndarray) -> np.ndarray:
    """uint8 `[height, width, 3]` as float32 `[height * width * 3]`."""
    return picture.astype(np.float32).reshape(-1)


def _share(answers: Sequence[Answer]) -> float:
    return sum(bool(answer.right) for answer in answers) / len(answers)
