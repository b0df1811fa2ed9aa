"""What benchmarks that ask a model share: which model, how it samples, and its answers by the ids of the questions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anyglot.data.documents import Message, Part
from anyglot.data.progress import JobProgress
from anyglot.errors import AnyglotError, ConfigError
from anyglot.eval.records import fingerprint_of
from anyglot.inference.anyglot import Anyglot
from anyglot.inference.batch import replies
from anyglot.inference.sampling import SamplingConfig
from anyglot.lm.vocabulary import TEXT
from anyglot.train.device import local_device


@dataclass
class AskedModel:
    """checkpoint: a model directory; "": nobody is asked, and what others wrote is scored.

    chat: ask as the user of a chat; else the model goes on with a plain document. batch: answers written side by side.
    max_tokens: of an answer. seed: question i draws from seed + i. guidance: how far media follow the question.
    sampling: per modality.
    """

    checkpoint: str = ""
    chat: bool = False
    batch: int = 8
    max_tokens: int = 2048
    seed: int = 0
    guidance: float = 1.0
    sampling: dict[str, SamplingConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.batch, self.max_tokens) < 1:
            raise ConfigError("model.batch and model.max_tokens must be 1 or more")

    def load(self) -> Anyglot:
        """The model, set to sample as asked for."""
        return Anyglot.load(self.checkpoint, local_device(), self.sampling)

    def fingerprints(self) -> dict[str, str]:
        """Of the weights, and of the manifests of tokenizers, which hold hashes of theirs."""
        if not self.checkpoint:
            return {}
        folder = Path(self.checkpoint)
        return {
            "checkpoint": fingerprint_of(sorted(folder.glob("*.safetensors"))),
            "tokenizers": fingerprint_of(sorted(folder.glob("tokenizers/*/manifest.json"))),
        }


def ask(
    model: Anyglot, asked: Mapping[str, Sequence[Part]], to: str, config: AskedModel, progress: JobProgress, what: str
) -> Iterator[tuple[str, Part | AnyglotError]]:
    """Each question's id and the part of modality `to` that was answered, or why there is none, as they are written.

    `progress` is told of every one, as of `what`. Raises MismatchError for a modality that the model lacks.
    """
    model.check_target(to)
    role = "user" if config.chat else None
    prompts = (
        (name, [Message(role, list(parts))], config.seed + place) for place, (name, parts) in enumerate(asked.items())
    )
    for name, reply in replies(model, prompts, to, config.batch, config.max_tokens, config.guidance):
        progress.advance(what, 1)
        if isinstance(reply, AnyglotError):
            yield name, reply
        elif to == TEXT:  # no text at all is an answer, too
            yield name, Part(TEXT, text="".join(part.text or "" for part in reply.parts if part.type == TEXT))
        else:
            whole = [part for part in reply.parts if part.type == to and part.data is not None]
            yield name, whole[0] if whole else AnyglotError(f"no {to} that can be decoded was answered")
