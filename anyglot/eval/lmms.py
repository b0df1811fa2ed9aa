"""Any Anyglot checkpoint as a model of lmms-eval: `python -m lmms_eval --model=anyglot --model_args pretrained=...`.

lmms-eval finds `MANIFEST` by the entry point `lmms_eval.models` and loads this module; nothing of ours does, for
lmms-eval is not among our requirements.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest

from anyglot.errors import AnyglotError, ConfigError
from anyglot.eval.lmms_messages import answer_of, messages_of
from anyglot.eval.until import Settings, settings_of, write_until
from anyglot.inference.anyglot import Anyglot
from anyglot.inference.decode import Request
from anyglot.inference.sampling import SamplingConfig
from anyglot.lm.vocabulary import TEXT
from anyglot.train.device import local_device

MANIFEST = ModelManifest(model_id="anyglot", chat_class_path="anyglot.eval.lmms.AnyglotChat")

logger = logging.getLogger(__name__)


class AnyglotChat(lmms):  # type: ignore[misc]  # of a library without types
    """Reads text, pictures, sounds and films of a task, and writes what `to` says.

    Text is sampled as the task says, greedily if it says nothing; media as the other arguments do. An answer depends on
    nothing beside it (to rounding). A question that cannot be asked is told in the log and answered with nothing.

    Args:
        pretrained: a checkpoint directory. chat: ask as the user of a chat; else it goes on with a plain document.
        to: "text", or a modality: exactly one medium; "any": whatever the model writes.
        out: folder for media that are written. max_tokens: of an answer with media, and of text where the task does not
            say. max_side: larger pictures are shrunk to it, 0 for none. seed: of all answers, each with its own draws.
        temperature, top_k, top_p, guidance: of media, as in `anyglot generate`.
        batch_size: answers written side by side. device: torch's name of one, "" for the one that is there.
        max_batch_size: lmms-eval's; no batch size is sought.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        chat: bool = True,
        to: str = TEXT,
        out: str = "lmms_media",
        max_tokens: int = 2048,
        max_side: int = 0,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        guidance: float = 1.0,
        batch_size: int | str = 1,
        device: str = "",
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdigit() or int(batch_size) < 1 or min(max_tokens, max_side + 1) < 1:
            raise ConfigError(
                f"batch_size {batch_size!r} and max_tokens {max_tokens} must be numbers of 1 or more, "
                f"max_side {max_side} 0 or more"
            )
        self.model = Anyglot.load(pretrained, torch.device(device) if device else local_device())
        self.model.decoder.default = SamplingConfig(float(temperature), top_k, float(top_p))
        self.chat, self.to, self.out = chat, None if to == "any" else to, Path(out)
        self.model.check_target(self.to)
        self.max_tokens, self.max_side, self.seed = max_tokens, max_side, seed
        self.guidance, self.batch = float(guidance), int(batch_size)
        self.ignored: set[str] = set()  # names of tasks' settings of which was told

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The answer to every question: text, or JSON that names the files of its media."""
        answers = [""] * len(requests)
        asked: dict[int, tuple[Request, Settings]] = {}
        for number, (_, doc_to_messages, generation, doc_id, task, split) in enumerate(one.args for one in requests):
            settings = self._settings(generation)
            try:
                turns = doc_to_messages(self.task_dict[task][split][doc_id])
                asked[number] = self._request(turns, settings, f"{task}/{doc_id}"), settings
            except AnyglotError as error:
                self._tell(requests[number], error)
        written = write_until(
            self.model,
            [request for request, _ in asked.values()],
            [settings.stops for _, settings in asked.values()],
            self.batch,
        )
        for (number, (request, settings)), ids in zip(asked.items(), written, strict=True):
            if isinstance(ids, AnyglotError):
                self._tell(requests[number], ids)
                continue
            *_, doc_id, task, _split = requests[number].args
            parts = self.model.read(request.prompt, ids)
            answers[number] = answer_of(self.model, parts, settings.stops, self.out / str(task), str(doc_id))
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not of chat models: lmms-eval asks them for text alone."""
        raise NotImplementedError("lmms-eval's chat models only write; its tasks by log-likelihood are of simple ones")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not here: each task of several rounds has a protocol of its own."""
        raise NotImplementedError("tasks of several rounds are not asked here")

    def _settings(self, generation: Mapping[str, Any]) -> Settings:
        settings = settings_of(generation)
        new = set(settings.unknown) - self.ignored
        if new:
            self.ignored |= new
            logger.warning(
                "generation settings of the task that mean nothing to this model: %s", ", ".join(sorted(new))
            )
        return settings

    def _request(self, turns: Sequence[Mapping[str, Any]], settings: Settings, name: str) -> Request:
        """What to ask the decoder. Raises AnyglotError for what the model cannot read."""
        length = settings.max_tokens if self.to == TEXT and settings.max_tokens else self.max_tokens
        seed = self.seed + crc32(name.encode())
        messages = messages_of(turns, self.chat, self.max_side)
        request = self.model.request(messages, self.to, length, seed, self.guidance)
        return replace(request, sampling={TEXT: settings.sampling})

    def _tell(self, request: Instance, error: AnyglotError) -> None:
        *_, doc_id, task, _split = request.args
        logger.warning("%s, document %s: not answered: %s", task, doc_id, error)
