"""One format for every error: `{"detail": ...}`, as FastAPI writes it."""

import json
from typing import Any

from fastapi import FastAPI, Request, Response, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.routing import Match


class Error(BaseModel):
    """What went wrong, for people to read."""

    detail: str


# What any endpoint may answer; FastAPI documents 422 where there is something to validate.
RESPONSES: dict[int | str, dict[str, Any]] = {
    status.HTTP_400_BAD_REQUEST: {"model": Error, "description": "Not readable"},
    status.HTTP_413_CONTENT_TOO_LARGE: {"model": Error, "description": "Body too large"},
    status.HTTP_500_INTERNAL_SERVER_ERROR: {"model": Error, "description": "The service failed"},
    status.HTTP_503_SERVICE_UNAVAILABLE: {"model": Error, "description": "The service stops"},
}


async def refuse(_: Request, error: RequestValidationError) -> Response:
    """Tell what is wrong with a request and where, without repeating what was sent.

    What was sent may be secret, or impossible to send back: NaN, half a surrogate pair.
    """
    problems = [{key: problem[key] for key in ("type", "loc", "msg")} for problem in error.errors()]
    return Response(
        json.dumps({"detail": problems}),
        status.HTTP_422_UNPROCESSABLE_CONTENT,
        media_type="application/json",
    )


async def not_allowed(request: Request, _: Exception) -> Response:
    """Tell which methods the path has; Starlette tells those of the first route that has it."""
    allowed = [
        method
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.router.routes
        )
    ]
    return JSONResponse(
        {"detail": "Method Not Allowed"},
        status.HTTP_405_METHOD_NOT_ALLOWED,
        {"Allow": ", ".join(allowed)},
    )


def install(app: FastAPI) -> None:
    """Make `app` answer bad requests in this format."""
    app.exception_handler(RequestValidationError)(refuse)
    app.exception_handler(status.HTTP_405_METHOD_NOT_ALLOWED)(not_allowed)
