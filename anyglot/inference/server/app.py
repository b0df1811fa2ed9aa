"""The server as an ASGI app: its routes behind its one door."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from starlette.types import ASGIApp

from anyglot import __version__
from anyglot.inference.server import chat, media_routes, schema
from anyglot.inference.server.errors import answer_errors
from anyglot.inference.server.guard import Guard
from anyglot.inference.server.here import Here, as_json, check_model
from anyglot.inference.server.metrics import Counted
from anyglot.inference.server.service import Service

PAGE = Path(__file__).parent / "page"
TYPES = {  # of the page's files, by their ending; none is guessed
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
}
PROBLEMS: dict[int | str, dict[str, Any]] = {  # what any route may answer, for the OpenAPI document
    status: {"model": schema.ErrorReply, "description": what}
    for status, what in {
        400: "not a request that can be served",
        401: "no key, or another",
        403: "another host or site",
        404: "no such model",
        408: "the body did not arrive in time",
        413: "more than body_bytes or values",
        429: "too many answers are being written",
        431: "more than header_bytes",
        503: "the engine has failed, or memory is full",
        504: "more than request_seconds",
    }.items()
}


def create_app(service: Service, key: str) -> ASGIApp:
    """The whole server. key: that every request must bring; "": none."""
    guard = Guard(create_api(service), key, service.config.called, service.config.limits)
    return Counted(guard, service.metrics)


def create_api(service: Service) -> FastAPI:
    """The routes, without the door in front of them."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    # FastAPI's own pages of documentation load scripts from elsewhere.
    api = FastAPI(
        title="Anyglot", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan, responses=PROBLEMS
    )
    api.state.service = service
    answer_errors(api)
    for router in (routes, chat.routes, media_routes.routes):
        api.include_router(router)
    for path in sorted(PAGE.rglob("*")):
        if path.suffix in TYPES:
            _serve(api, path)
    return api


def _serve(api: FastAPI, path: Path) -> None:
    """A route for one file of the page: what has no route cannot be asked for, however it is spelled."""
    content, kind = path.read_bytes(), TYPES[path.suffix]

    async def file() -> Response:
        return Response(content, media_type=kind)

    name = path.relative_to(PAGE).as_posix()
    api.get("/" if name == "index.html" else f"/{name}", include_in_schema=False)(file)


routes = APIRouter()


@routes.get("/v1/models", response_model=schema.ModelList)
async def models(service: Here) -> Response:
    """The one model that is served."""
    return as_json(schema.ModelList(data=[_card(service)]))


@routes.get("/v1/models/{model}", response_model=schema.ModelCard)
async def model(model: str, service: Here) -> Response:
    """The model of that name."""
    check_model(service, model)
    return as_json(_card(service))


@routes.get("/health", response_model=schema.Health)
async def health(service: Here) -> Response:
    """200 while answers are written, 503 after the engine has failed."""
    worker = service.worker
    state = schema.Health(status="ok" if worker.healthy else "failed", running=worker.running, waiting=worker.waiting)
    return Response(state.model_dump_json(), 200 if worker.healthy else 503, media_type="application/json")


@routes.get("/metrics", response_class=Response)
async def metrics(service: Here) -> Response:
    """Counts in Prometheus' text format."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _card(service: Service) -> schema.ModelCard:
    return schema.ModelCard(id=service.name, created=service.created, modalities=list(service.modalities))
