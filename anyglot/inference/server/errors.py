"""What goes wrong, as OpenAI's JSON: `{"error": {"message", "type", "param", "code"}}`, and never more than that."""

import json
import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from anyglot.errors import AnyglotError

logger = logging.getLogger(__name__)

INTERNAL = "the server failed; its log says why"
LONGEST = 500  # characters of a message


class Busy(Exception):
    """As many answers are being written, or wait, as the server takes."""


class Broken(Exception):
    """The engine has failed; the server has to be started again."""


class ClientGone(Exception):
    """The client has hung up: nobody reads what would be answered."""


class NotFound(Exception):
    """There is no such model."""


def body_of(status: int, message: str) -> dict[str, object]:
    """The JSON object that says what went wrong."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message[:LONGEST], "type": kind, "param": None, "code": None}}


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """A response that says what went wrong. ASCII JSON: a message may quote halves of characters."""
    content = json.dumps(body_of(status, message))
    return Response(content, status, dict(headers or {}), media_type="application/json")


def status_of(error: Exception) -> tuple[int, str]:
    """The HTTP status and the message of an error. What is not the client's fault is logged, not told."""
    match error:
        case AnyglotError():
            return 400, str(error)
        case RequestValidationError():
            return 400, _deepest(error)
        case NotFound():
            return 404, str(error)
        case Busy():
            return 429, "too many requests are waiting; try again later"
        case Broken():
            return 503, "the model has failed; the server has to be started again"
        case TimeoutError():
            return 504, "the answer took too long and was given up; ask for fewer tokens"
        case ClientGone():
            return 499, "the client has hung up"
        case HTTPException():
            return error.status_code, str(error.detail)
    logger.error("unexpected error", exc_info=error)
    return 500, INTERNAL


def answer_errors(app: FastAPI) -> None:
    """Have every error of the app's routes answered as above."""

    async def answer(_request: Request, error: Exception) -> Response:
        status, message = status_of(error)
        headers = dict(getattr(error, "headers", None) or {})
        return refusal(status, message, headers | ({"Retry-After": "1"} if status == 429 else {}))

    for kind in (AnyglotError, RequestValidationError, HTTPException, NotFound, Busy, Broken, TimeoutError, ClientGone):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(Exception, answer)


def _deepest(error: RequestValidationError) -> str:
    """Where a mistake is, and which, without what was sent. Of a union's readings the deepest is what was meant."""
    deepest = max(error.errors(), key=lambda found: len(found["loc"]))
    place = ".".join(str(key)[:40] for key in deepest["loc"][1:] if isinstance(key, int) or key.isidentifier())
    return f"{place}: {deepest['msg']}" if place else str(deepest["msg"])
