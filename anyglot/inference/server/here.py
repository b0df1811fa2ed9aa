"""What routes share: the service that they are of, and the name of its model."""

from typing import Annotated

from fastapi import Depends, Request, Response

from anyglot.inference.server.errors import NotFound
from anyglot.inference.server.service import Service
from anyglot.inference.server.wire import Strict


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(_service)]


def check_model(service: Service, name: str | None) -> None:
    """Raise NotFound if a request names another model than the one that is served."""
    if name not in (None, service.name):
        raise NotFound(f"no such model here; this server has {service.name!r}")


def as_json(reply: Strict) -> Response:
    """A reply as it goes over the wire: keys that hold nothing are left out."""
    return Response(reply.model_dump_json(by_alias=True, exclude_none=True), media_type="application/json")
