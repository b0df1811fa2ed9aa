"""The door: who is let in, what is read of whom, and what every response carries."""

import asyncio
import base64
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyglot.errors import ConfigError
from anyglot.inference.server.app import create_api, create_app
from anyglot.inference.server.config import KEY_VARIABLE, Limits, ServeConfig, api_key
from anyglot.inference.server.guard import POLICY, Guard
from anyglot.inference.server.service import Service
from tests.inference.server.serving import KEY, ScriptedEngine, script_of

LOCAL = ["localhost", "127.0.0.1", "[::1]"]


async def echo(scope, receive, send):
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def call(app, headers=(), chunks=(b"",), method="POST", path="/", hangs=False, sent=None):
    """Status, headers and body of an ASGI app's response; and how many chunks it read.

    sent: a list that takes the messages of the response, for an app that raises after them.
    """
    sent, waiting = [] if sent is None else sent, list(chunks)

    async def receive():
        if not waiting:
            await asyncio.sleep(3600 if hangs else 0)
            return {"type": "http.disconnect"}
        body = waiting.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(waiting) or hangs}

    async def send(message):
        sent.append(message)

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
             "headers": raw, "http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", 80), "client": None,
             "root_path": "", "asgi": {"version": "3.0"}}  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return *response_of(sent), len(chunks) - len(waiting)


def response_of(sent):
    """Status, headers and body."""
    status = sent[0]["status"] if sent else None
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]} if sent else {}
    return status, found, b"".join(message.get("body", b"") for message in sent)


def guarded(key="", hosts=LOCAL, **limits):
    return Guard(echo, key, hosts, replace(Limits(), **limits))


HOST = ("host", "127.0.0.1:8000")
BEARER = ("authorization", f"Bearer {KEY}")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([HOST], 200),
        ([("host", "localhost")], 200),
        ([("host", "[::1]:8000")], 200),
        ([("host", "LOCALHOST:1")], 200),
        ([], 403),
        ([("host", "evil.example")], 403),  # a name that was made to lead here
        ([("host", "127.0.0.1.evil.example:8000")], 403),
        ([("host", "evil.example:127.0.0.1")], 403),
        ([HOST, ("origin", "http://127.0.0.1:8000")], 200),
        ([HOST, ("origin", "https://127.0.0.1:8000")], 200),
        ([HOST, ("origin", "http://127.0.0.1:9000")], 403),
        ([HOST, ("origin", "http://evil.example")], 403),
        ([HOST, ("origin", "null")], 403),
        ([HOST, ("origin", "")], 403),
        ([HOST, ("origin", "http://[")], 403),
    ],
)
def test_a_local_server_answers_to_its_own_names_and_page_alone(headers, status):
    assert call(guarded(), headers)[0] == status


def basic(text):
    return ("authorization", f"Basic {base64.b64encode(text.encode()).decode()}")


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (BEARER, 200),
        (("authorization", f"bearer  {KEY}"), 200),
        (basic(f":{KEY}"), 200),
        (basic(f"anybody:{KEY}"), 200),
        (("x-nothing", ""), 401),
        (("authorization", KEY), 401),
        (("authorization", f"Bearer {KEY}x"), 401),
        (("authorization", f"Bearer {KEY[:-1]}"), 401),
        (("authorization", "Bearer "), 401),
        (("authorization", "Bearer ä"), 401),
        (("authorization", "Basic ä"), 401),
        (("authorization", "Basic =="), 401),
        (basic(KEY), 401),
        (basic(f"{KEY}:"), 401),
    ],
)
def test_the_key_is_needed_whole(header, status):
    found = call(guarded(KEY), [HOST, header])
    assert found[0] == status
    assert ("www-authenticate" in found[1]) == (status == 401)


@settings(derandomize=True)
@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_no_other_authorization_lets_anybody_in(header):
    assert call(guarded(KEY), [HOST, ("authorization", header)])[0] == 401


def test_nothing_of_a_body_is_read_for_who_may_not_come_in():
    for headers in ([HOST], [("host", "evil.example"), BEARER]):
        assert call(guarded(KEY), headers, [b"x"] * 9)[3] == 0


def test_bodies_are_limited_by_what_they_claim_and_by_what_they_are():
    app = guarded(body_bytes=10)
    assert call(app, [HOST], [b"12345", b"67890"])[::2] == (200, b"1234567890")
    for length in ("11", "99999999999999999999", "-1", "1e1", "٣"):
        header = ("content-length", length) if length.isascii() else ("content-length", "\xb3")
        status, _, _, read = call(app, [HOST, header], [b"x"] * 11)
        assert (status, read) == (413, 0)
    assert call(app, [HOST], [b"123456"] * 9)[::3] == (413, 2)
    assert app._held == 0


def test_bodies_of_all_requests_together_are_limited():
    app = guarded(body_bytes=10, held_bytes=12)

    async def hold(scope, receive, send):
        await receive()
        app.inner = await asyncio.to_thread(call, app, [HOST], [b"12345"])
        await echo(scope, lambda: asyncio.sleep(0, {"body": b""}), send)

    app.app = hold
    assert call(app, [HOST], [b"1234567890"])[0] == 200
    assert app.inner[0] == 503
    assert app._held == 0


def test_a_body_that_does_not_come_is_not_waited_for():
    assert call(guarded(body_seconds=0.05), [HOST], [b"x"], hangs=True)[0] == 408
    app = guarded()
    assert call(app, [HOST], [])[0] is None  # the client has left
    assert app._held == 0


def test_headers_are_limited():
    assert call(guarded(), [HOST, ("x-long", "x" * 20_000)])[0] == 431


def test_websockets_are_refused():
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(guarded()({"type": "websocket", "headers": []}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.fixture
def service(model):
    return Service(model, ScriptedEngine(script_of(model)), ServeConfig(), "tiny")


def test_no_route_is_open_without_the_key(service):
    api = create_api(service)
    routes = {(method, path) for path, methods in api.openapi()["paths"].items() for method in methods}
    routes |= {(method, route.path) for route in api.routes if hasattr(route, "path") for method in route.methods}
    assert {path for _, path in routes} >= {"/v1/chat/completions", "/health", "/metrics", "/openapi.json"}
    app = create_app(service, KEY)
    for method, path in routes:
        status, headers, _, read = call(app, [HOST], [b"x"], method.upper(), re.sub(r"{.*?}", "x", path))
        assert (status, read) == (401, 0), path
        assert headers.items() >= POLICY.items()
    assert call(app, [HOST], path="/nowhere")[0] == 401
    assert call(app, [HOST, BEARER], path="/nowhere")[0] == 404


def test_every_response_carries_the_policy(service):
    app = create_app(service, "")
    for path, status in (("/v1/models", 200), ("/nowhere", 404), ("/v1/chat/completions", 400), ("/health", 503)):
        method = "POST" if "chat" in path else "GET"
        found = call(app, [HOST, ("content-type", "application/json")], [b"{"], method, path)
        assert (found[0], path) == (status, path)
        assert found[1].items() >= POLICY.items()


def test_the_policy_lets_nothing_in_from_elsewhere():
    for directive in POLICY["content-security-policy"].split("; "):
        sources = directive.split()[1:]
        assert set(sources) <= {"'self'", "'none'", "data:"}
    for kind in ("script-src", "style-src"):
        assert f"{kind} 'self';" in POLICY["content-security-policy"]


def test_an_unexpected_error_tells_nothing_and_still_carries_the_policy(service):
    api = create_api(service)

    @api.get("/broken")
    def broken():
        raise RuntimeError("a secret")

    sent = []
    with pytest.raises(RuntimeError):  # for the server's log
        call(Guard(api, "", LOCAL, Limits()), [HOST], path="/broken", method="GET", sent=sent)
    status, headers, body = response_of(sent)
    assert status == 500
    assert headers.items() >= POLICY.items()
    assert body
    for telling in (b"secret", b"RuntimeError", b"Traceback", b".py"):
        assert telling not in body


def test_the_page_s_files_are_routes_of_their_own(service):
    api = create_api(service)
    paths = [*api.openapi()["paths"], *(route.path for route in api.routes if hasattr(route, "path"))]
    assert not any(":path" in path for path in paths)
    app = create_app(service, "")
    for path in ("/../config.py", "/%2e%2e/config.py", "/page/../app.py", "//etc/passwd", "/index.html/../../app.py"):
        assert call(app, [HOST], path=path, method="GET")[0] == 404


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_others_are_let_in_only_with_a_key(monkeypatch, host):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=KEY_VARIABLE):
        api_key(ServeConfig(host=host))
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert api_key(ServeConfig(host=host)) == KEY
    assert ServeConfig(host=host).called == frozenset()


def test_this_machine_is_let_in_without_a_key(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert api_key(ServeConfig(host=host)) == ""
        assert ServeConfig(host=host).called >= set(LOCAL)


@pytest.mark.parametrize(
    "key", ["short", "x" * 15, "with blanks in it, and long", "schlüssel-schlüssel", "x" * 16 + "\n"]
)
def test_weak_keys_are_refused(monkeypatch, key):
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(ConfigError, match="16"):
        api_key(ServeConfig())


def test_limits_must_limit():
    for broken in ({"n": 0}, {"body_bytes": -1}, {"request_seconds": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(broken))):
            Limits(**broken)
