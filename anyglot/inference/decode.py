"""What a request may write next: the grammar, narrowed to what was asked for and to the room that is left. No model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from anyglot.errors import AnyglotError
from anyglot.inference.sampling import SamplingConfig
from anyglot.inference.trie import Trie
from anyglot.lm.automaton import CODES, HEADER, Automaton, Ranges, Rules, State, joined
from anyglot.lm.streams import CLOSE
from anyglot.lm.vocabulary import ROLES, TEXT


@dataclass
class Request:
    """What to go on writing, and what may be written.

    prompt: ids from bos on. modalities: those that may be written ("text" among them), None for all.
    spans: stop once so many media spans are closed, and write nothing else before; 0: stop where the model ends
    the document or its turn. max_tokens: past these, or where the model's positions run out, what is open is brought
    to its shortest legal end. seed: of this request's own randomness. sampling: of modalities, before the model's.
    guidance: how far media follow the prompt, 1 as the model does (see `anyglot.inference.guidance`); negative: the
    prompt to be led away from, empty: the document without what the prompt says; conditions: further prompts, each
    with its weight; guide_text: text and what begins a medium are guided, too.
    """

    prompt: list[int]
    modalities: tuple[str, ...] | None = None
    spans: int = 0
    max_tokens: int = 2048
    seed: int = 0
    sampling: Mapping[str, SamplingConfig] = field(default_factory=dict)
    guidance: float = 1.0
    negative: list[int] = field(default_factory=list)
    conditions: Sequence[tuple[list[int], float]] = ()
    guide_text: bool = False


@dataclass
class Progress:
    """How far a request is.

    room: ids it can come to write before the positions run out. codes: ids of codes of the span that is open;
    text: ids of the text written. cut: it was made to end where it could have gone on.
    """

    request: Request
    state: State
    room: int
    codes: list[int]
    text: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    spans_closed: int = 0
    cut: bool = False
    done: bool = False


class Constraints:
    """What requests may write under one grammar.

    Args:
        catalogues: modality without axes -> the codes of its media; others are not written.
    """

    def __init__(self, automaton: Automaton, catalogues: Mapping[str, Trie] | None = None) -> None:
        self.automaton = automaton
        self.vocabulary = automaton.vocabulary
        self.catalogues = dict(catalogues or {})
        self.roles = tuple(self.vocabulary.special(role) for role in ROLES)
        self.ends = (self.vocabulary.eos, self.vocabulary.end_of_turn)
        self.shortest = {rules.opener: _shortest(rules) for rules in automaton.rules}  # ids of a whole span

    def begin(self, request: Request, length: int, longest: int = 0) -> Progress:
        """A request before its first id.

        Args:
            length: positions of a row. longest: of the request's prompts, if it has others than its own.
        Raises:
            AnyglotError: it leaves no room for an answer, or asks for what is not there. GrammarError: the prompt is
            not a document's start.
        """
        names = self.vocabulary.modality_names if request.modalities is None else request.modalities
        media = [self.vocabulary.opener(name) for name in names if name != TEXT]
        for name in request.sampling:
            if name not in self.vocabulary.modality_names:
                known = ", ".join(self.vocabulary.modality_names)
                raise AnyglotError(f"sampling of {name!r}: this model has no such modality; it has: {known}")
        if request.max_tokens < 1 or request.spans < 0:
            raise AnyglotError(f"max_tokens {request.max_tokens} must be 1 or more, spans {request.spans} 0 or more")
        read = max(longest, len(request.prompt))
        needed = min((self.shortest[opener] for opener in media), default=1) if request.spans else 1
        if read + needed > length:
            raise AnyglotError(
                f"the prompt has {read} tokens, the model reads at most {length}, "
                f"which leaves no room for an answer; shorten the prompt"
            )
        state = self.automaton.advance_all(request.prompt)
        if not self.automaton.allowed(state):
            raise AnyglotError("the prompt is a whole document, after which nothing may follow; leave its end out")
        codes = request.prompt[len(request.prompt) - state.done :] if state.place == CODES else []
        return Progress(request, state, length - read, list(codes))

    def ranges_of(self, progress: Progress) -> tuple[Ranges, bool]:
        """What may be written next, and whether an end is forced: the budget is spent, or the room."""
        request, state, vocabulary = progress.request, progress.state, self.vocabulary
        ranges = self.automaton.allowed(state, request.modalities)
        left = progress.room - len(progress.written)
        spent = len(progress.written) >= request.max_tokens
        if state.modality:
            rules = self.automaton.rules[state.modality - 1]
            if state.place == CODES and rules.name in self.catalogues:
                return _of_catalogue(rules, progress.codes, self.catalogues[rules.name]) or ranges, False
            narrowed = _inside(rules, state, ranges, left, spent)
            return narrowed, narrowed != ranges and (spent or state.place == CODES)
        if request.modalities is not None:  # asked for content, not for a chat to begin
            ranges = _without(ranges, self.roles)
        if spent or left <= 1:
            end = _only(ranges, vocabulary.end_of_turn) or _only(ranges, vocabulary.eos)
            return end or ranges, bool(end)
        room = left if request.spans else left - 1  # what ends the document has to fit, too
        ranges = _without(ranges, [opener for opener, length in self.shortest.items() if length > room])
        if request.spans or not progress.written:  # an answer is not empty
            return _without(ranges, self.ends) or ranges, False
        return ranges, False

    def take(self, progress: Progress, token: int) -> None:
        """Write one more id."""
        before, progress.state = progress.state, self.automaton.advance(progress.state, token)
        progress.written.append(token)
        if before.place == CODES:
            progress.codes.append(token)
        elif self.vocabulary.is_text(token):
            progress.text.append(token)
        if before.modality and not progress.state.modality:
            progress.spans_closed += 1
            progress.codes = []
        closed = bool(progress.request.spans) and progress.spans_closed >= progress.request.spans
        progress.done = closed or (not before.modality and token in self.ends)


def _of_catalogue(rules: Rules, codes: Sequence[int], catalogue: Trie) -> Ranges:
    """The next codes of media that there are; none where only the closer is left, or the prompt has another."""
    prefix = tuple(token - rules.symbols[level][0] for level, token in enumerate(codes))
    first = rules.symbols[len(codes)][0] if len(codes) < rules.levels else 0
    return joined((first + code, first + code + 1) for code in catalogue.children(prefix).tolist())


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
