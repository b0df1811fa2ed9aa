"""Writing ids one by one under the grammar: many rows at once, each in its own place of its own document."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anyglot.errors import AnyglotError, MismatchError
from anyglot.inference.reading import DepthReader, PlainReader, Reader
from anyglot.inference.sampling import SamplingConfig, sample
from anyglot.inference.trie import Trie
from anyglot.lm.architectures import softcap_of
from anyglot.lm.automaton import CODES, HEADER, Automaton, Ranges, Rules, State, joined
from anyglot.lm.depth import DepthTransformer, has_depth, riders_after
from anyglot.lm.loss import cap_
from anyglot.lm.streams import CLOSE
from anyglot.lm.vocabulary import ROLES, TEXT


@dataclass
class Request:
    """What to go on writing, and what may be written.

    prompt: ids from bos on. modalities: those that may be written ("text" among them), None for all.
    spans: stop once so many media spans are closed, and write nothing else before; 0: stop where the model ends
    the document or its turn. max_tokens: past these, or where the model's positions run out, what is open is brought
    to its shortest legal end. seed: of this request's own randomness.
    """

    prompt: list[int]
    modalities: tuple[str, ...] | None = None
    spans: int = 0
    max_tokens: int = 2048
    seed: int = 0


@dataclass(frozen=True)
class Written:
    """What a step wrote of one request. finish: "" while it goes on; "stop": the model ended it, or all spans that were
    asked for are there; "length": max_tokens or the positions ended it."""

    ticket: int
    ids: tuple[int, ...]
    finish: str = ""


@dataclass
class _Row:
    """One request on its way."""

    index: int
    request: Request
    state: State
    generator: torch.Generator
    written: list[int] = field(default_factory=list)
    spans_closed: int = 0
    done: bool = False


class Decoder:
    """Grammar-constrained generation with a causal LM.

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
        self.roles = tuple(self.vocabulary.special(role) for role in ROLES)
        self.sampling = dict(sampling or {})
        self.default = default or SamplingConfig()
        self.catalogues = dict(catalogues or {})
        self.head = model.get_output_embeddings().weight  # [vocabulary, hidden]
        self.softcap = softcap_of(model.config)
        self.limit = int(model.config.max_position_embeddings)
        self.shortest = {rules.opener: _shortest(rules) for rules in automaton.rules}  # ids of a whole span

    def write(self, requests: Sequence[Request]) -> list[list[int]]:
        """Go on from every prompt; return the ids written, without the prompts. Raises as `steps` does."""
        found: list[list[int]] = [[] for _ in requests]
        for step in self.steps(requests):
            for written in step:
                found[written.ticket] += written.ids
        return found

    @torch.inference_mode()
    def steps(self, requests: Sequence[Request]) -> Iterator[list[Written]]:
        """Go on from every prompt, step by step. A ticket is the index of its request.

        Raises:
            AnyglotError: a prompt leaves no room for an answer. GrammarError: a prompt is not a document's start.
        """
        active = [self._begin(index, request) for index, request in enumerate(requests)]
        if not active:
            return
        self.head = self.model.get_output_embeddings().weight  # that of a model in training may be a copy
        reader = self._reader()
        prompts = [row.request.prompt for row in active]
        hidden = reader.read_prompts(prompts, self._room(active, max(map(len, prompts))))  # [rows, hidden]
        while True:
            chosen = self._choose(active, hidden)
            for row, token in zip(active, chosen, strict=True):
                self._take(row, token)
            yield [Written(row.index, (row.written[-1],), self._finish(row)) for row in active]
            keep = [index for index, row in enumerate(active) if not row.done]
            if not keep:
                return
            if len(keep) < len(active):
                reader.keep(keep)
                active = [active[index] for index in keep]
            hidden = reader.read([chosen[index] for index in keep])

    def _finish(self, row: _Row) -> str:
        if not row.done:
            return ""
        full = len(row.request.prompt) + len(row.written) >= self.limit
        return "length" if full or len(row.written) > row.request.max_tokens else "stop"

    def _reader(self) -> Reader:
        if self.depth is None:
            return PlainReader(self.model, self.vocabulary.pad)
        return DepthReader(self.model, self.depth, riders_after(self.vocabulary))

    def _begin(self, index: int, request: Request) -> _Row:
        names = request.modalities or self.vocabulary.modality_names
        media = [self.vocabulary.opener(name) for name in names if name != TEXT]
        needed = min((self.shortest[opener] for opener in media), default=1) if request.spans else 1
        if len(request.prompt) + needed > self.limit:
            raise AnyglotError(
                f"the prompt has {len(request.prompt)} tokens, the model reads at most {self.limit}, "
                f"which leaves no room for an answer; shorten the prompt"
            )
        state = self.automaton.advance_all(request.prompt)
        return _Row(index, request, state, torch.Generator().manual_seed(request.seed))

    def _room(self, rows: Sequence[_Row], prompt: int) -> int:
        """Cache length: the prompt, what was asked for, and the longest span that may still have to be finished."""
        span = max((self.automaton.longest(name) for name in self.vocabulary.modality_names[1:]), default=0)
        asked = (min(r.request.max_tokens + span + 1, self.limit - len(r.request.prompt)) for r in rows)
        return prompt + max(asked)

    def logits(self, hidden: Tensor, low: int, high: int) -> Tensor:
        """Logits `[..., high - low]` of the ids from `low` below `high` after hidden states `[..., hidden]`."""
        return cap_(hidden @ self.head[low:high].T, self.softcap)

    def _choose(self, rows: Sequence[_Row], hidden: Tensor) -> list[int]:
        """The next id of every row. The head is evaluated only on the ids that may come next."""
        chosen = [0] * len(rows)
        groups: dict[tuple[Ranges, str], list[int]] = {}
        for index, row in enumerate(rows):
            ranges = self._ranges(row)
            if len(ranges) == 1 and ranges[0][1] - ranges[0][0] == 1:  # forced: nothing to sample
                chosen[index] = ranges[0][0]
            else:
                modality = self.vocabulary.modality_names[row.state.modality]
                groups.setdefault((ranges, modality), []).append(index)
        for (ranges, modality), members in groups.items():
            config = self.sampling.get(modality, self.default)
            logits = torch.cat([self.logits(hidden[members], low, high) for low, high in ranges], 1)
            noise = torch.stack([torch.rand(logits.shape[1], generator=rows[m].generator) for m in members])
            picks = sample(logits, config, noise.clamp(1e-20, 1 - 1e-7).to(logits.device)).tolist()
            for index, pick in zip(members, picks, strict=True):
                chosen[index] = _id_at(ranges, pick)
        return chosen

    def _ranges(self, row: _Row) -> Ranges:
        """What this row may write next: the grammar, narrowed to the request and to the positions that are left."""
        request, state, vocabulary = row.request, row.state, self.vocabulary
        ranges = self.automaton.allowed(state, request.modalities)
        left = self.limit - len(request.prompt) - len(row.written)
        spent = len(row.written) >= request.max_tokens
        if state.place == CODES and (name := vocabulary.modality_names[state.modality]) in self.catalogues:
            return self._of_catalogue(row, self.automaton.rules[state.modality - 1], self.catalogues[name]) or ranges
        if state.modality:
            return _inside(self.automaton.rules[state.modality - 1], state, ranges, left, spent)
        ends = (vocabulary.eos, vocabulary.end_of_turn)
        if request.modalities is not None:  # asked for content, not for a chat to begin
            ranges = _without(ranges, self.roles)
        if spent or left <= 1:
            return _only(ranges, vocabulary.end_of_turn) or _only(ranges, vocabulary.eos) or ranges
        room = left if request.spans else left - 1  # what ends the document has to fit, too
        ranges = _without(ranges, [opener for opener, length in self.shortest.items() if length > room])
        if request.spans or not row.written:  # an answer is not empty
            return _without(ranges, ends) or ranges
        return ranges

    def _of_catalogue(self, row: _Row, rules: Rules, catalogue: Trie) -> Ranges:
        """The next codes of media that there are; none where only the closer is left, or the prompt has another."""
        done = row.state.done
        begun = [*row.request.prompt, *row.written][-done:] if done else []
        prefix = tuple(token - rules.symbols[level][0] for level, token in enumerate(begun))
        first = rules.symbols[done][0] if done < rules.levels else 0
        return joined((first + code, first + code + 1) for code in catalogue.children(prefix).tolist())

    def _take(self, row: _Row, token: int) -> None:
        inside = row.state.modality
        row.state = self.automaton.advance(row.state, token)
        row.written.append(token)
        row.spans_closed += bool(inside and not row.state.modality)
        ended = token in (self.vocabulary.eos, self.vocabulary.end_of_turn)
        row.done = ended or bool(row.request.spans and row.spans_closed >= row.request.spans)


def _shortest(rules: Rules) -> int:
    """The fewest ids that a span takes, opener and closer included."""
    return 2 + len(rules.sized) + max(rules.frames, 1) * rules.row * rules.levels


def _inside(rules: Rules, state: State, ranges: Ranges, left: int, spent: bool) -> Ranges:
    """What may come next inside a span: sizes that fit into `left` ids, and where it may end, its end in time.

    spent: the smallest sizes, the earliest end. What is kept free is for the closer and the document's end.
    """
    if state.place == HEADER:
        codes = max(state.frames, 1) * state.row * rules.levels  # of the smallest grid that the sizes so far allow
        most = (left - (len(rules.sized) - state.done) - 2) // codes
        return _first(ranges, 1 if spent else max(most, 1))
    choices = rules.stream.choices(state.done, state.row, state.frames, rules.limit, rules.levels)
    if len(choices) == 1:
        return ranges
    ending = choices[-1]  # of two choices, the last leads to the span's end
    frames = rules.stream.settle(state.done, state.row, state.frames, ending, rules.levels)
    codes = 0 if ending == CLOSE else frames * state.row * rules.levels - state.done
    if spent or left < codes + state.row * rules.levels + 2:  # one more frame, and then the end
        return (rules.symbols[ending],)
    return ranges


def _first(ranges: Ranges, number: int) -> Ranges:
    """The first `number` ids of ranges."""
    kept: list[tuple[int, int]] = []
    for low, high in ranges:
        if number > 0:
            kept.append((low, min(high, low + number)))
        number -= high - low
    return tuple(kept)


def _only(ranges: Ranges, token: int) -> Ranges:
    return ((token, token + 1),) if any(low <= token < high for low, high in ranges) else ()


def _without(ranges: Ranges, tokens: Sequence[int]) -> Ranges:
    kept: list[tuple[int, int]] = []
    for low, high in ranges:
        for token in sorted(t for t in tokens if low <= t < high):
            if low < token:
                kept.append((low, token))
            low = token + 1
        if low < high:
            kept.append((low, high))
    return tuple(kept)


def _id_at(ranges: Ranges, index: int) -> int:
    """The id that choice `index` of the concatenated ranges is."""
    for low, high in ranges:
        if index < high - low:
            return low + index
        index -= high - low
    raise IndexError(index)
