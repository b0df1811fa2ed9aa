"""`anyglot serve`: load a model, and answer until interrupted."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn
from omegaconf import OmegaConf
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from anyglot.config import typed
from anyglot.inference.command import load_model
from anyglot.inference.engine import Engine
from anyglot.inference.server.app import create_app
from anyglot.inference.server.config import KEY_VARIABLE, ServeConfig, api_key
from anyglot.inference.server.service import Service


def run(checkpoint: Path, overrides: Sequence[str]) -> None:
    """Serve a checkpoint directory or a run's folder. Raises AnyglotError before anything listens."""
    config = load_config(overrides)
    key = api_key(config)
    model = load_model(checkpoint, config)
    name = config.name or checkpoint.resolve().name
    service = Service(model, Engine(model.decoder, config.slots, config.length), config, name)
    guarded = f"with the key in {KEY_VARIABLE}" if key else "without a key, to this machine alone"
    print(f"{name} reads and writes {', '.join(service.modalities)}, {guarded}")
    host = f"[{config.host}]" if ":" in config.host else config.host
    print(f"page and API: http://{host}:{config.port}/", flush=True)
    with suppress(KeyboardInterrupt):  # how a server is ended
        make_server(create_app(service, key), config).run()


def load_config(overrides: Sequence[str]) -> ServeConfig:
    """Settings from `key=value` words."""
    mapping = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    assert isinstance(mapping, dict)
    return typed(ServeConfig, {str(key): value for key, value in mapping.items()})


def make_server(app: ASGIApp, config: ServeConfig) -> uvicorn.Server:
    """An HTTP server of the app, within the config's limits."""
    limits = config.limits

    class Protocol(_Impatient):
        seconds, most = limits.header_seconds, limits.connections

    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=config.host,
            port=config.port,
            http=Protocol,
            ws="none",
            limit_concurrency=limits.connections,
            h11_max_incomplete_event_size=limits.header_bytes,
            timeout_keep_alive=int(max(1, limits.header_seconds)),
            timeout_graceful_shutdown=5,
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_level="warning",
        )
    )


class _Impatient(H11Protocol):
    """Hangs up on whoever does not say within `seconds` what he wants, or wants next, and on all beyond the `most`.

    uvicorn's own limit looks at a connection only when a request has come over it.
    """

    seconds: float
    most: int

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
        else:
            self._wait()

    def on_response_complete(self) -> None:
        answered = self.cycle
        super().on_response_complete()
        if self.cycle is answered:  # else the next request was here already
            self._wait()

    def _wait(self) -> None:
        self.loop.call_later(self.seconds, self._hang_up, self.cycle)

    def _hang_up(self, answered: object) -> None:
        if self.cycle is answered:  # no other request has begun
            self.transport.close()
