"""An Anyglot checkpoint as EleutherAI's lm-evaluation-harness asks a model: by our own engine, under our grammar.

For text it is what the harness's `hf` is for a plain directory: the same ids, the same numbers. Besides, it takes
checkpoints of every stream; documents begin as they did in training; and answers are text, never codes of a medium.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from anyglot.errors import AnyglotError
from anyglot.eval.likelihood import log_likelihoods
from anyglot.eval.until import cut, settings_of, write_until
from anyglot.inference.anyglot import Anyglot
from anyglot.inference.decode import Request
from anyglot.lm.vocabulary import TEXT
from anyglot.train.device import local_device

NEW_TOKENS = 256  # of an answer whose task does not say, as the harness has it


def harness_model(directory: Path, batch: int) -> Any:
    """An `lm_eval.api.model.LM` over the checkpoint of a directory. batch: texts read or written side by side."""
    from lm_eval.api.model import LM

    texts = TextModel(Anyglot.load(directory, local_device()), batch)

    class AnyglotLM(LM):  # type: ignore[misc]  # of a library without types
        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return texts.loglikelihood([request.args for request in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            return texts.loglikelihood_rolling([request.args[0] for request in requests])

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return texts.generate_until([request.args for request in requests])

    return AnyglotLM()


class TextModel:
    """What the harness asks a model for, of plain strings. Nothing that it gives depends on `batch` (to rounding)."""

    def __init__(self, model: Anyglot, batch: int) -> None:
        self.model = model
        self.batch = batch
        self.begin = list(model.vocabulary.mark("bos"))  # of a plain document

    def loglikelihood(self, asked: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """The log-probability, in nats, of each continuation after its context, and whether it is the greedy one.

        Of what is longer than the model reads, the beginning of the context is left out.
        """
        return log_likelihoods(self.model, [self._pair(*pair) for pair in asked], self.batch)

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """The log-probability of each text as a document's beginning.

        A long one is read in windows that share as much as they can, so that every id is said once.
        """
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows: list[tuple[list[int], list[int]]] = []
        counts = []
        for text in texts:
            ids = self.model.text.encode(text)
            rolling = get_rolling_token_windows(ids, self.begin[-1], self.model.decoder.limit, context_len=1)
            these = [make_disjoint_window(window) for window in rolling]
            windows += these
            counts.append(len(these))
        logs = iter(log_likelihoods(self.model, windows, self.batch))
        return [sum(next(logs)[0] for _ in range(count)) for count in counts]

    def generate_until(self, asked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """What the model writes after each context, up to where its task says that an answer ends.

        Draws depend on the context and on how often it was asked before. Of a context that is too long the beginning is
        left out. Raises AnyglotError: a setting that means nothing here, or no room for any context.
        """
        requests, stops = [], []
        times: Counter[str] = Counter()
        for context, generation in asked:
            settings = settings_of(generation)
            if settings.unknown:
                raise AnyglotError(
                    f"the task's generation settings {', '.join(settings.unknown)} mean nothing to this model; "
                    "leave them out of its generation_kwargs, or evaluate with backend=hf"
                )
            new = settings.max_tokens or NEW_TOKENS
            room = self.model.decoder.limit - new - len(self.begin)
            if room < 1:
                raise AnyglotError(
                    f"the task asks for answers of {new} tokens, and the model reads {self.model.decoder.limit} in all"
                )
            prompt = [*self.begin, *self.model.text.encode(context)[-room:]]
            seed = crc32(context.encode()) + times[context]
            times[context] += 1
            requests.append(Request(prompt, (TEXT,), 0, new, seed, {TEXT: settings.sampling}))
            stops.append(settings.stops)
        answers = []
        for ids, ends in zip(write_until(self.model, requests, stops, self.batch), stops, strict=True):
            if isinstance(ids, AnyglotError):
                raise ids
            answers.append(cut(self.model.text.decode(filter(self.model.vocabulary.is_text, ids)), ends))
        return answers

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The ids of a context, with what begins a document, and those that the continuation adds to them."""
        spaces = len(context) - len(context.rstrip())  # which belong to the words after them, as in the harness
        context, continuation = context[: len(context) - spaces], context[len(context) - spaces :] + continuation
        before = self.model.text.encode(context)
        ids = self.model.text.encode(context + continuation)[len(before) :]
        room = self.model.decoder.limit + 1 - len(self.begin)
        ids = ids[-room:]
        return [*self.begin, *before[max(len(before) + len(ids) - room, 0) :]], ids
