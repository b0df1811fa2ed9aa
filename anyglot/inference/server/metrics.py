"""What the server counts, for Prometheus. Labels are routes and statuses, never what a client sends."""

import time
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anyglot.inference.server.worker import Worker

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The counters of one server."""

    def __init__(self, worker: Worker) -> None:
        self._registry = CollectorRegistry()
        self.responses = self._counter("responses", "Responses, by route and status", "route", "status")
        self.prompt_tokens = self._counter("prompt_tokens", "Ids of prompts that were read")
        self.written_tokens = self._counter("written_tokens", "Ids that were written")
        self.seconds = self._histogram("response_seconds", "From a request's headers to its response's end", "route")
        self.first_token = self._histogram("first_token_seconds", "From a request's body to the first id of an answer")
        for name, what in (("running", "Answers being written"), ("waiting", "Answers that wait for a slot")):
            gauge = Gauge(f"anyglot_{name}", what, registry=self._registry)
            gauge.set_function(partial(getattr, worker, name))

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"anyglot_{name}", what, labels, registry=self._registry)

    def _histogram(self, name: str, what: str, *labels: str) -> Histogram:
        return Histogram(f"anyglot_{name}", what, labels, registry=self._registry, buckets=SECONDS)


class Counted:
    """ASGI middleware that counts the responses of an app."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), "none"

        async def counting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, counting)
        finally:
            route = getattr(scope.get("route"), "path", "none")  # the router leaves it there
            self._metrics.responses.labels(route, status).inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - began)
