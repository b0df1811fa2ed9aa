"""From a request to what is written: media decoded, a place in the queue, ids from the engine, events of them.

Every route goes through `Service.write`.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np

from anyglot.data.documents import Message, Part
from anyglot.errors import AnyglotError
from anyglot.inference.anyglot import Anyglot
from anyglot.inference.decode import Request
from anyglot.inference.events import Event, EventStream, Finish, parts_of
from anyglot.inference.sampling import SamplingConfig
from anyglot.inference.server.config import ServeConfig
from anyglot.inference.server.metrics import Metrics
from anyglot.inference.server.worker import Engine, Piece, Worker
from anyglot.lm.vocabulary import TEXT

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """What a route wants written.

    messages: decodes and returns the conversation; called in a thread. modalities: that may be written, None for all;
    to: exactly one span of it. sampling: modality -> settings that are not the server's; None: the server's. tokens:
    tell of ids, too.
    """

    messages: Callable[[], list[Message]]
    modalities: tuple[str, ...] | None = None
    to: str | None = None
    max_tokens: int | None = None
    seed: int = 0
    n: int = 1
    sampling: Mapping[str, SamplingConfig] = field(default_factory=dict)
    guidance: float | None = None
    tokens: bool = False


@dataclass(frozen=True)
class Tokens:
    """Ids as they were written, and what each is: of a modality ("text", "image"), or "special", "sizes", "control"."""

    ids: tuple[int, ...]
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Reply:
    """One whole answer."""

    parts: list[Part]
    finish: Finish


class Service:
    """A model that is served. `start` it in the event loop that serves it, and `stop` it there."""

    def __init__(self, model: Anyglot, engine: Engine, config: ServeConfig, name: str) -> None:
        self.model, self.config, self.name = model, config, name
        self.created = int(time.time())
        self.worker = Worker(engine, config.limits.requests)
        self.metrics = Metrics(self.worker)

    def start(self) -> None:
        """Begin to serve."""
        # A thread is the place: who leaves does not make room for others while his work goes on.
        self._readers = ThreadPoolExecutor(self.config.limits.readers, "reader")  # of requests
        self._decoders = ThreadPoolExecutor(self.config.limits.readers, "decoder")  # of answers; uploads don't delay it
        self.worker.start()

    async def stop(self) -> None:
        """Give up what is being written."""
        await self.worker.stop()
        for threads in (self._readers, self._decoders):
            threads.shutdown(wait=False, cancel_futures=True)

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model reads and writes, "text" first."""
        return self.model.vocabulary.modality_names

    async def write(self, asked: Asked) -> AsyncGenerator[tuple[int, Event | Tokens]]:
        """Events of the answers, each with the number of its answer. Close it to give up what is not finished.

        Raises AnyglotError for what cannot be served, Busy if too much is being written already, Broken.
        """
        self._check(asked)
        began, waits = time.monotonic(), True
        with self.worker.claim(asked.n):
            requests = await self.read(partial(self._requests, asked))
            streams = [await self.read(partial(EventStream, self.model, request.prompt)) for request in requests]
            self.metrics.prompt_tokens.inc(len(requests[0].prompt))
            async with aclosing(self.worker.write(requests)) as batches:
                async for pieces in batches:
                    if waits:
                        self.metrics.first_token.observe(time.monotonic() - began)
                        waits = False
                    for piece in pieces:
                        self.metrics.written_tokens.inc(len(piece.ids))
                        if asked.tokens and piece.ids:
                            yield piece.index, self._tokens(piece.ids)
                        for event in await self._events(streams[piece.index], piece):
                            yield piece.index, event

    async def replies(self, asked: Asked) -> list[Reply]:
        """The whole answers. Raises what `write` raises."""
        events: defaultdict[int, list[Event]] = defaultdict(list)
        async with aclosing(self.write(asked)) as written:
            async for index, event in written:
                if not isinstance(event, Tokens):
                    events[index].append(event)
        return [_reply_of(events[index]) for index in range(asked.n)]

    async def read(self, work: Callable[[], T]) -> T:
        """Do work of a request in a thread, with not too many others."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def decode(self, work: Callable[[], T]) -> T:
        """Do work of an answer in a thread, with not too many others."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    def sampling(self, modality: str) -> SamplingConfig:
        """The server's settings of a modality."""
        return self.config.sampling.get(modality, self.config.default)

    def _check(self, asked: Asked) -> None:
        limits = self.config.limits
        if asked.n > limits.n:
            raise AnyglotError(f"n is {asked.n}; this server writes at most {limits.n} answers to one prompt")
        if (asked.max_tokens or 0) > limits.max_tokens:
            raise AnyglotError(f"max_tokens is {asked.max_tokens}; this server writes at most {limits.max_tokens}")
        for name in (*(asked.modalities or ()), *([asked.to] if asked.to else ()), *asked.sampling):
            if name not in self.modalities:
                raise AnyglotError(f"this model writes no {name!r}; it writes: {', '.join(self.modalities)}")

    def _requests(self, asked: Asked) -> list[Request]:
        messages = asked.messages()
        if not self.config.chat:
            messages = [Message(None, [part for message in messages for part in message.parts])]
        request = Request(
            self.model.prompt(messages),
            modalities=asked.modalities if asked.to is None else (asked.to,),
            spans=int(asked.to not in (None, TEXT)),
            max_tokens=asked.max_tokens or self.config.max_tokens,
            seed=asked.seed,
            sampling=asked.sampling,
            guidance=self.config.guidance if asked.guidance is None else asked.guidance,
        )
        return [replace(request, seed=asked.seed + index) for index in range(asked.n)]

    async def _events(self, stream: EventStream, piece: Piece) -> list[Event]:
        """What the ids of a piece are. Text is read here; to decode media takes a thread."""
        text = all(map(self.model.vocabulary.is_text, piece.ids))
        events = stream.feed(piece.ids) if text else await self.decode(partial(stream.feed, piece.ids))
        return [*events, *(stream.finish(piece.finish) if piece.finish else ())]

    def _tokens(self, ids: tuple[int, ...]) -> Tokens:
        vocabulary = self.model.vocabulary
        blocks = [vocabulary.blocks[index] for index in vocabulary.describe(np.array(ids)).block.tolist()]
        return Tokens(ids, tuple(b.modality if b.kind in ("text", "codes") else b.kind for b in blocks))


def _reply_of(events: list[Event]) -> Reply:
    return Reply(parts_of(events), next(event for event in events if isinstance(event, Finish)))
