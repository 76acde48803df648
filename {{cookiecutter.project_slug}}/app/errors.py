"""One format for every error: `{"detail": ...}`, as FastAPI writes it."""

import json
import logging
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import RouteContext, iter_route_contexts
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import Scope

log = logging.getLogger(__name__)

# FastAPI's text for a body that it could not read.
UNREADABLE = "There was an error parsing the body"


class Error(BaseModel):
    """An error: a text for people, and a code for programs."""

    detail: str
    code: str | None = None


# Errors of any endpoint; FastAPI itself documents 422 for endpoints with parameters.
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": Error} for status in (400, 413, 500, 503)
}


class ServiceError(Exception):
    """An error with an answer; endpoints and what they call raise it, or a subclass with values.

        raise ServiceError("No lamps are left", status_code=409, code="sold_out")

    Clients get the text only below 500; from 500 on, it is for the log.
    """

    status_code: int = 500
    code: str = "internal_error"
    headers: dict[str, str] | None = None

    def __init__(
        self, detail: str, *, status_code: int | None = None, code: str | None = None
    ) -> None:
        super().__init__(detail)
        self.status_code = status_code or self.status_code
        self.code = code or self.code


async def answer_service_error(_: Request, error: ServiceError) -> Response:
    """Answer with the error's status and code."""
    detail = str(error)
    if error.status_code >= 500:
        log.error("%s: %s", error.code, error, exc_info=error.__cause__)
        detail = HTTPStatus(error.status_code).phrase
    content = {"detail": detail, "code": error.code}
    return JSONResponse(content, error.status_code, error.headers)


def routes_of(scope: Scope) -> list[RouteContext]:
    """Return the routes that match the path, for any method; mounts are not included."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    routes = iter_route_contexts(scope["app"].routes)
    return [r for r in routes if isinstance(r.original_route, Route) and r.path_regex.match(path)]


async def answer_http_error(request: Request, error: StarletteHTTPException) -> Response:
    """Answer as FastAPI does, except where that would hide or leave out something."""
    if error.detail == UNREADABLE and isinstance(error.__cause__, OSError):
        # FastAPI blames the client if an upload cannot be written to a temporary file.
        log.error("the body cannot be stored: %s", error.__cause__)
        error = HTTPException(507, "Insufficient Storage")
    elif isinstance(error.__cause__, ClientDisconnect):
        return await answer_disconnected(request, error)
    elif error.status_code == 405 and error.headers and "Allow" in error.headers:
        # Starlette names the methods of one route alone.
        allowed = set(error.headers["Allow"].split(", "))
        allowed = allowed.union(*(route.methods or () for route in routes_of(request.scope)))
        allowed |= {"HEAD"} if "GET" in allowed else set()
        error.headers = {**error.headers, "Allow": ", ".join(sorted(allowed))}
    return await http_exception_handler(request, error)


async def answer_invalid(_: Request, error: RequestValidationError) -> Response:
    """Describe each problem of a request and its place, without the input.

    The input may be secret, or impossible in JSON: NaN, half a surrogate pair.
    """
    keys = ("type", "loc", "msg")
    problems = [{key: p[key] for key in keys if key in p} for p in error.errors()]
    return Response(json.dumps({"detail": problems}), 422, media_type="application/json")


async def answer_disconnected(_: Request, __: Exception) -> Response:
    """Set the status for the log after a client left while it sent the body."""
    return Response(status_code=499)


async def answer_failure(_: Request, __: Exception) -> Response:
    """Answer an error of the service itself; RequestMiddleware logs it."""
    return JSONResponse({"detail": "Internal Server Error"}, 500)


# For `FastAPI(exception_handlers=)`, also of an application that you mount, which would answer 500
# instead. `@app.exception_handler` replaces them one by one.
HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    ServiceError: answer_service_error,
    StarletteHTTPException: answer_http_error,
    RequestValidationError: answer_invalid,
    ClientDisconnect: answer_disconnected,
    Exception: answer_failure,
}
