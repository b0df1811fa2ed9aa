"""A causal LM with the grammar of its vocabulary, and how it is sampled."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from anyglot.errors import MismatchError
from anyglot.inference.decode import Constraints, Request
from anyglot.inference.engine import Engine, Written
from anyglot.inference.guidance import rows_of
from anyglot.inference.reading import DepthReader, PlainReader, Reader
from anyglot.inference.sampling import SamplingConfig
from anyglot.inference.trie import Trie
from anyglot.lm.architectures import softcap_of
from anyglot.lm.attention import window_of
from anyglot.lm.automaton import Automaton
from anyglot.lm.depth import DepthTransformer, has_depth, riders_after
from anyglot.lm.loss import cap_

SLOTS = 64  # rows that `Decoder.steps` has in one forward at most


class Decoder:
    """What engines write with.

    Args:
        model: a Hugging Face causal LM, in eval mode.
        automaton: the grammar of its vocabulary.
        sampling: settings per modality; `default` for those not named.
        catalogues: modality without axes -> the codes of its media; it writes no others.
        depth: what says the later levels of `depth` streams; needed if the vocabulary has such.
    """

    def __init__(
        self,
        model: Any,
        automaton: Automaton,
        sampling: Mapping[str, SamplingConfig] | None = None,
        default: SamplingConfig | None = None,
        catalogues: Mapping[str, Trie] | None = None,
        depth: DepthTransformer | None = None,
    ) -> None:
        if depth is None and has_depth(automaton.vocabulary):
            raise MismatchError("the vocabulary has depth streams, but no depth transformer was given")
        self.model = model
        self.depth = depth
        self.automaton = automaton
        self.vocabulary = automaton.vocabulary
        self.constraints = Constraints(automaton, catalogues)
        self.sampling = dict(sampling or {})
        self.default = default or SamplingConfig()
        self.head = model.get_output_embeddings().weight  # [vocabulary, hidden]
        self.softcap = softcap_of(model.config)
        window = window_of(model.config.get_text_config())  # rows see all that they read: no layer may see less
        self.limit = min(int(model.config.max_position_embeddings), window[1] if window else 10**9)

    def logits(self, hidden: Tensor, low: int, high: int) -> Tensor:
        """Logits `[..., high - low]` of the ids from `low` below `high` after hidden states `[..., hidden]`."""
        return cap_(hidden @ self.head[low:high].T, self.softcap)

    def reader(self, slots: int, length: int) -> Reader:
        """A reader of so many rows of so many ids."""
        if self.depth is None:
            return PlainReader(self.model, slots, length)
        return DepthReader(self.model, self.depth, riders_after(self.vocabulary), slots, length)

    def write(self, requests: Sequence[Request]) -> list[list[int]]:
        """Go on from every prompt; return the ids written, without the prompts. Raises as `steps` does."""
        found: list[list[int]] = [[] for _ in requests]
        for step in self.steps(requests):
            for written in step:
                found[written.ticket] += written.ids
        return found

    def steps(self, requests: Sequence[Request]) -> Iterator[list[Written]]:
        """Go on from every prompt with an engine of its own, step by step. A ticket is the index of its request.

        Raises:
            AnyglotError: a prompt leaves no room for an answer. GrammarError: a prompt is not a document's start.
        """
        if not requests:
            return
        self.head = self.model.get_output_embeddings().weight  # that of a model in training may be a copy
        rows = [rows_of(self.automaton, request) for request in requests]
        engine = Engine(self, max(max(map(len, rows)), min(sum(map(len, rows)), SLOTS)), reserve=False)
        for request in requests:
            engine.submit(request)
        while engine.busy:
            yield engine.step()
