"""One thread drives the engine; requests wait for what it writes without a thread of their own."""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from anyglot.inference.decode import Request
from anyglot.inference.server.errors import Broken, Busy

logger = logging.getLogger(__name__)


class Written(Protocol):
    """What the engine has written of one request in one step. finish: "" while it goes on, else why it ended."""

    @property
    def ticket(self) -> int: ...
    @property
    def ids(self) -> tuple[int, ...]: ...
    @property
    def finish(self) -> str: ...


class Engine(Protocol):
    """What the worker needs of `anyglot.inference.engine.Engine`. Used by one thread alone."""

    def submit(self, request: Request) -> int: ...
    def cancel(self, ticket: int) -> None: ...
    def step(self) -> Sequence[Written]: ...
    @property
    def busy(self) -> bool: ...
    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...


@dataclass(frozen=True)
class Piece:
    """More ids of request `index` of a call of `Worker.write`. finish: "" while it goes on."""

    index: int
    ids: tuple[int, ...]
    finish: str


@dataclass(eq=False)
class _Job:
    """The requests of one call of `write`: what has arrived of them, and the tickets they have."""

    requests: Sequence[Request]
    arrived: asyncio.Queue[Piece | Exception] = field(default_factory=asyncio.Queue)
    tickets: list[int] = field(default_factory=list)  # the worker's thread's alone

    async def pieces(self) -> list[Piece]:
        """All that has arrived, one piece a request; waits for it. Raises what has arrived instead."""
        found = [await self.arrived.get()]
        while not self.arrived.empty():
            found.append(self.arrived.get_nowait())
        merged: dict[int, Piece] = {}
        for piece in found:
            if isinstance(piece, Exception):
                raise piece
            before = merged.get(piece.index, Piece(piece.index, (), ""))
            merged[piece.index] = Piece(piece.index, before.ids + piece.ids, piece.finish)
        return list(merged.values())


class Worker:
    """Drives an engine in a thread of its own, from `start` to `stop`.

    Args:
        most: requests that may be claimed at a time, waiting ones among them.
    """

    def __init__(self, engine: Engine, most: int) -> None:
        self._engine, self._most = engine, most
        self._claimed = 0
        self._failed = False
        self._stopping = False
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._jobs: dict[int, tuple[_Job, int]] = {}  # ticket -> its job and place in it; the thread's alone
        self._open: set[_Job] = set()  # the event loop's alone
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # ------------------------------------------------------------------ the event loop's side

    @property
    def healthy(self) -> bool:
        """Whether requests are served: False after the engine failed, before `start` and after `stop`."""
        return self._thread.is_alive() and not self._failed

    @property
    def running(self) -> int:
        """Requests that are being written."""
        return self._engine.running

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot of the engine."""
        return self._engine.waiting

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """End after the step at hand. What is being written is given up."""
        self._commands.put(self._stop)
        await asyncio.to_thread(self._thread.join)
        self._fail(Broken())

    @contextmanager
    def claim(self, requests: int) -> Iterator[None]:
        """Room for so many requests while the block runs. Raises Busy if there is none, Broken after a failure."""
        if not self.healthy:
            raise Broken
        if self._claimed + requests > self._most:
            raise Busy
        self._claimed += requests
        try:
            yield
        finally:
            self._claimed -= requests

    async def write(self, requests: Sequence[Request]) -> AsyncGenerator[list[Piece]]:
        """What is written of the requests: each time all that has come since. Close it to give up what is not finished.

        Raises what the engine says of a request that can never be served (AnyglotError), Broken if the engine fails.
        """
        if not self.healthy:
            raise Broken
        job, left = _Job(requests), len(requests)
        self._open.add(job)
        self._commands.put(partial(self._submit, job))
        try:
            while left:
                pieces = await job.pieces()
                left -= sum(bool(piece.finish) for piece in pieces)
                yield pieces
        finally:
            self._open.discard(job)
            self._commands.put(partial(self._cancel, job))

    def _fail(self, error: Exception) -> None:
        self._failed = True
        for job in self._open:
            job.arrived.put_nowait(error)

    # ------------------------------------------------------------------ the thread's side

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._obey()
                if self._engine.busy:
                    self._deliver(self._engine.step())
        except Exception:  # its state is not known any more: whoever runs the server has to start it again
            logger.exception("the engine failed")
            self._post(partial(self._fail, Broken()))

    def _obey(self) -> None:
        """Carry out what was asked for; while there is nothing to write, wait for it."""
        while not self._stopping:
            try:
                command = self._commands.get(block=not self._engine.busy)
            except queue.Empty:
                return
            command()

    def _stop(self) -> None:
        self._stopping = True

    def _submit(self, job: _Job) -> None:
        for index, request in enumerate(job.requests):
            try:
                ticket = self._engine.submit(request)
            except Exception as error:  # whatever it is, it is this call's alone: nothing has been admitted
                self._cancel(job)
                self._post(partial(job.arrived.put_nowait, error))
                return
            job.tickets.append(ticket)
            self._jobs[ticket] = job, index

    def _cancel(self, job: _Job) -> None:
        for ticket in job.tickets:
            if self._jobs.pop(ticket, None):
                self._engine.cancel(ticket)

    def _deliver(self, written: Sequence[Written]) -> None:
        """Hand what a step wrote to those who wait for it, in one go."""
        pieces = []
        for one in written:
            if one.ticket in self._jobs:  # else it was cancelled
                job, index = self._jobs.pop(one.ticket) if one.finish else self._jobs[one.ticket]
                pieces.append((job, Piece(index, one.ids, one.finish)))
        if pieces:
            self._post(partial(_put, pieces))

    def _post(self, call: Callable[[], None]) -> None:
        """Have the event loop call this, in the order of posting."""
        self._loop.call_soon_threadsafe(call)


def _put(pieces: Sequence[tuple[_Job, Piece]]) -> None:
    for job, piece in pieces:
        job.arrived.put_nowait(piece)
