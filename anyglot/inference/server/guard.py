"""The one door of the server: whoever has not passed it reaches no route, and no response leaves without its headers.

Nothing of a body is read before host, origin and key are right.
"""

import asyncio
import base64
import binascii
import hmac
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anyglot.inference.server.config import Limits
from anyglot.inference.server.errors import refusal

POLICY = {
    # Scripts and styles are the page's own files; pictures and sounds come in replies; no other server is ever asked.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "permissions-policy": "microphone=(self), camera=(), geolocation=(), display-capture=(), usb=(), serial=()",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
ASK_FOR_KEY = {"www-authenticate": 'Basic realm="anyglot", charset="UTF-8"'}  # by which a browser asks its user
CLOSE = {"connection": "close"}
LATER = {"retry-after": "1"}


class _Refused(Exception):
    """status, message, headers: of the response."""


class Guard:
    """ASGI middleware around a whole app.

    Args:
        key: that every request must bring, as `Authorization: Bearer` or as the password of `Basic`; "": none.
        hosts: the names that the server answers to; none: any.
    """

    def __init__(self, app: ASGIApp, key: str, hosts: Iterable[str], limits: Limits) -> None:
        self.app = app
        self._key, self._hosts, self._limits = key.encode(), frozenset(map(str.lower, hosts)), limits
        self._held = 0  # bytes of bodies in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, _with_policy(send))
        else:  # websockets: no route has any
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = Headers(scope=scope)
            self._admit(headers)
            async with self._body(receive) as body:
                if body is not None:
                    self._check_values(headers, body)
                    await self.app(scope, _replayed(body, receive), send)
        except _Refused as refused:
            await refusal(*refused.args)(scope, receive, send)

    def _admit(self, headers: Headers) -> None:
        """Raise _Refused unless the request may come in."""
        host = headers.get("host", "").lower()
        if self._hosts and _without_port(host) not in self._hosts:
            raise _Refused(403, "this server is not called by that name; see `hosts` in its settings")
        if headers.get("origin", f"http://{host}").lower() not in (f"http://{host}", f"https://{host}"):
            raise _Refused(403, "pages of other sites may not use this server")
        if self._key and not hmac.compare_digest(_key_of(headers.get("authorization", "")), self._key):
            raise _Refused(401, "a key is needed: Authorization: Bearer KEY", ASK_FOR_KEY)
        if sum(len(name) + len(value) for name, value in headers.raw) > self._limits.header_bytes:
            raise _Refused(431, f"the headers have more than header_bytes={self._limits.header_bytes}")
        length = headers.get("content-length", "0")
        if len(length) > 15 or not (length.isascii() and length.isdigit()) or int(length) > self._limits.body_bytes:
            raise self._too_large()

    @asynccontextmanager
    async def _body(self, receive: Receive) -> AsyncIterator[bytes | None]:
        """The whole body, counted as held while the block runs; None if the client has left. Raises _Refused."""
        chunks: list[bytes] = []
        size, more = 0, True
        try:
            try:
                async with asyncio.timeout(self._limits.body_seconds):
                    while more:
                        message = await receive()
                        more = message.get("more_body", False)
                        chunks.append(message.get("body", b""))
                        size += len(chunks[-1])
                        self._held += len(chunks[-1])
                        if size > self._limits.body_bytes:
                            raise self._too_large()
                        if self._held > self._limits.held_bytes:
                            raise _Refused(503, "the server holds as much as it can; try again later", LATER)
            except TimeoutError:
                raise _Refused(408, "the body took too long to arrive", CLOSE) from None
            body = b"".join(chunks)
            chunks.clear()
            yield None if message["type"] == "http.disconnect" else body
        finally:
            self._held -= size

    def _check_values(self, headers: Headers, body: bytes) -> None:
        """Raise _Refused for more values than may be parsed. Files come as multipart, whose parts have a limit."""
        parsed = not headers.get("content-type", "").lower().startswith("multipart/")
        if parsed and sum(map(body.count, (b",", b"[", b"{", b"&"))) > self._limits.values:
            raise _Refused(413, f"the body has more than values={self._limits.values} commas and brackets")

    def _too_large(self) -> _Refused:
        return _Refused(413, f"the body has more than body_bytes={self._limits.body_bytes}", CLOSE)


def _key_of(authorization: str) -> bytes:
    """The key that a request brings; b"" for none."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return given.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(given.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""


def _without_port(host: str) -> str:
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


def _with_policy(send: Send) -> Send:
    async def policed(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in POLICY.items():
                headers[name] = value
        await send(message)

    return policed


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body in one piece, and then whatever comes: that the client leaves."""
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay
