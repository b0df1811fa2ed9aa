"""Work that lasts only as long as its client stays, and replies that are sent while they are made."""

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from fastapi import Response
from starlette.types import Receive, Scope, Send

from anyglot.inference.server.errors import ClientGone, body_of, status_of

T = TypeVar("T")

LAST_SECONDS = 10.0  # that the end of a reply may wait for a client that reads slowly


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; if the client leaves first, the work is cancelled.

    receive: of a request whose body has been read. Raises ClientGone, or what the work raises.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Streamed(Response):
    """A response whose pieces are sent as they come.

    What goes wrong before the first piece is answered with a status of its own.

    Args:
        pieces: closed when the client leaves, or after `seconds`.
    """

    def __init__(self, pieces: AsyncGenerator[bytes], media_type: str, seconds: float) -> None:
        super().__init__(media_type=media_type, headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._pieces, self._seconds = pieces, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientGone):
            await while_connected(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        begun = False
        try:
            async with asyncio.timeout(self._seconds), aclosing(self._pieces) as pieces:
                first = await anext(pieces)
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                begun = True
                await send({"type": "http.response.body", "body": first, "more_body": True})
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except Exception as error:
            if not begun:
                raise
            last = self.broken(error)  # too late for a status
        else:
            last = b""
        async with asyncio.timeout(LAST_SECONDS):
            await send({"type": "http.response.body", "body": last, "more_body": False})

    def broken(self, error: Exception) -> bytes:
        """What ends a reply in whose middle something went wrong."""
        raise error  # which closes the connection: that the reply is not whole can be seen


class EventSource(Streamed):
    """Server-sent events."""

    def __init__(self, pieces: AsyncGenerator[bytes], seconds: float) -> None:
        super().__init__(pieces, "text/event-stream", seconds)

    def broken(self, error: Exception) -> bytes:
        """An event that says what went wrong."""
        return event(body_of(*status_of(error)))


def event(value: object) -> bytes:
    """One server-sent event: JSON, or a word."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()
