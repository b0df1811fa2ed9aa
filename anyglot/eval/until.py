"""Going on from prompts up to strings that end an answer, as the evaluation harnesses ask for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from anyglot.errors import AnyglotError, ConfigError
from anyglot.inference.anyglot import Anyglot
from anyglot.inference.decode import Request
from anyglot.inference.engine import Engine
from anyglot.inference.sampling import SamplingConfig
from anyglot.lm.vocabulary import TEXT

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # what tasks call it


@dataclass(frozen=True)
class Settings:
    """What a task asks of one answer. max_tokens: 0 if it does not say. stops: strings that end it, and are not in it.
    unknown: names of settings that mean nothing here."""

    max_tokens: int
    stops: tuple[str, ...]
    sampling: SamplingConfig
    unknown: tuple[str, ...]


def settings_of(asked: Mapping[str, Any]) -> Settings:
    """A task's generation settings, by the names that the harnesses share; greedy unless it asks to sample.

    Raises ConfigError for values that cannot be.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    until = given.pop("until", ())
    lengths = [int(given.pop(name)) for name in LENGTHS if name in given]
    sampled = given.pop("do_sample", float(given.get("temperature", 0)) > 0)
    temperature = float(given.pop("temperature", 1.0))
    if given.get("num_beams") == 1:  # no beams
        del given["num_beams"]
    if lengths and lengths[0] < 1:
        raise ConfigError(f"a task asks for {lengths[0]} new tokens; it must be at least 1")
    sampling = SamplingConfig(
        temperature if sampled else 0.0,
        int(given.pop("top_k", 0)),
        float(given.pop("top_p", 1.0)),
        float(given.pop("repetition_penalty", 1.0)),
    )
    stops = tuple(stop for stop in ((until,) if isinstance(until, str) else until) if stop)
    return Settings(lengths[0] if lengths else 0, stops, sampling, tuple(given))


def cut(text: str, stops: Sequence[str]) -> str:
    """A text up to where the first of `stops` begins."""
    for stop in stops:
        text = text.partition(stop)[0]
    return text


def write_until(
    model: Anyglot, requests: Sequence[Request], stops: Sequence[Sequence[str]], batch: int
) -> list[list[int] | AnyglotError]:
    """The ids that go on from every prompt up to where one of its `stops` has been written, or to its own end; or why
    there are none.

    Args:
        stops: of each request. batch: how many are written side by side; what a request gets does not depend on it.
    """
    found: list[list[int] | AnyglotError] = [[] for _ in requests]
    if not requests:
        return found
    asked = {name for request in requests for name in request.modalities or model.vocabulary.modality_names}
    span = max((model.grammar.longest(name) for name in asked - {TEXT}), default=0)  # that may have to be finished
    longest = max(len(request.prompt) + request.max_tokens for request in requests)
    guided = any(request.guidance != 1 for request in requests)
    engine = Engine(model.decoder, min(batch, len(requests)) * (1 + guided), longest + span + 1)
    numbers: dict[int, int] = {}  # by ticket
    for number, request in enumerate(requests):
        try:
            numbers[engine.submit(request)] = number
        except AnyglotError as error:
            found[number] = error
    ends = [[stop.encode() for stop in of_one] for of_one in stops]
    while engine.busy:
        for written in engine.step():
            number = numbers[written.ticket]
            ids = found[number]
            assert isinstance(ids, list)
            ids += written.ids
            if not written.finish and ends[number] and _has_ended(model, ids, ends[number]):
                engine.cancel(written.ticket)
    return found


def _has_ended(model: Anyglot, ids: Sequence[int], ends: Sequence[bytes]) -> bool:
    """Whether the last id completes one of `ends`. Every id of text is a byte or more: a few of them say it."""
    last = ids[-max(map(len, ends)) :]
    text = list(takewhile(model.vocabulary.is_text, reversed(last)))[::-1]
    said = model.text.to_bytes(text)
    return any(end in said for end in ends)
