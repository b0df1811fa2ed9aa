"""Classifier-free guidance: rows that read other prompts and write the same ids.

The logits of a request are a weighted sum of those of its rows, the weights adding up to one. With scale g, base logits
b (of the negative prompt, or of the document without what the prompt says) and further conditions c of weights w,
l = b + g (prompt - b) + sum w (c - b): classifier-free guidance (arXiv 2207.12598) of several conditions (Liu et al.
2022, arXiv 2206.01714), on the logits of discrete codes as in Chameleon or MusicGen (arXiv 2306.05284).
"""

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

from anyglot.errors import AnyglotError
from anyglot.inference.decode import Request
from anyglot.lm.automaton import FIRST, HEADER, SPANS, Automaton, State
from anyglot.lm.vocabulary import ROLES


class Condition(NamedTuple):
    """A prompt, ids as in `Request.prompt`, and the weight of its logits."""

    prompt: Sequence[int]
    weight: float


def rows_of(automaton: Automaton, request: Request) -> list[Condition]:
    """The rows that a request needs, its own prompt first, with weights that add up to one.

    Raises:
        AnyglotError: settings that say nothing, or prompts after which not the same may follow.
        GrammarError: a prompt is not a document's start.
    """
    if request.guidance == 1 and not request.conditions:
        if request.negative or request.guide_text:
            raise AnyglotError("a negative prompt or guided text needs a guidance other than 1, or conditions")
        return [Condition(request.prompt, 1.0)]
    weights = [weight for _, weight in request.conditions]
    if not all(map(isfinite, (request.guidance, *weights))):
        raise AnyglotError(f"guidance {request.guidance} with weights {weights}: they must be finite")
    base = request.negative or unconditional(automaton, request.prompt)
    rows = [
        Condition(request.prompt, request.guidance),
        Condition(base, 1 - request.guidance - sum(weights)),
        *(Condition(prompt, weight) for prompt, weight in request.conditions),
    ]
    states = [_settled(automaton.advance_all(prompt)) for prompt, _ in rows]
    for state in states[1:]:
        if state != states[0]:
            raise AnyglotError(
                "guidance: after one prompt may follow "
                f"{automaton.expected(states[0])}, after another {automaton.expected(state)}; end all alike"
            )
    return rows


def unconditional(automaton: Automaton, prompt: Sequence[int]) -> list[int]:
    """A prompt without what it says: how its document or last turn begins, and the span that it leaves open.

    Raises AnyglotError for a prompt that ends outside of a turn, where there is nothing to guide.
    """
    state, vocabulary = automaton.advance_all(prompt), automaton.vocabulary
    if not (state.modality or automaton.may_open(state)):
        raise AnyglotError(f"guidance: the prompt ends where the grammar expects {automaton.expected(state)}")
    begun = 0
    if state.modality:
        rules = automaton.rules[state.modality - 1]
        begun = 1 + state.done + (0 if state.place == HEADER else len(rules.sized))
    if state.turn < 0:
        start = vocabulary.mark("bos")
    else:
        start = (*(vocabulary.mark("bos") if vocabulary.bos_in_chats else ()), *vocabulary.mark(ROLES[state.turn]))
    return [*start, *prompt[len(prompt) - begun :]]


def _settled(state: State) -> State:
    """The state as far as spans that follow are concerned: the beginning of a document is a place like others."""
    return state._replace(place=SPANS) if state.place == FIRST else state
