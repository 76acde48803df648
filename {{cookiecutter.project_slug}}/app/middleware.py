"""What surrounds every request: its id, its line in the log, its headers, its last resort."""

import asyncio
import logging
import os
import re
from time import perf_counter

from fastapi import status
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import health
from app.logs import request_id

log = logging.getLogger("app.requests")

# What a client may call its request: nothing that is long, or that a log or a shell would interpret.
PLAIN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class RequestMiddleware:
    """Give every request an id, log it, refuse it if too large, answer it even when the service fails.

    The id is the client's `X-Request-ID` if that is short and plain, else a new one; it is in
    the answer's `X-Request-ID` and in every log line of the request. Answers are not cached unless
    the endpoint says so. Pure ASGI, because BaseHTTPMiddleware costs more and breaks context variables.
    """

    def __init__(self, app: ASGIApp, max_body_size: int) -> None:
        self.app = app
        # Counts the body of a request that does not tell its length.
        self.counting = RequestBodyLimitMiddleware(app, max_body_size)
        self.max_body_size = max_body_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; anything else, such as the lifespan, passes through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        # Not reset afterwards: the server's own lines about this request come later.
        request_id.set(given.decode() if PLAIN_ID.fullmatch(given) else os.urandom(16).hex())
        # What is logged if the client leaves before there is an answer.
        answered = 499

        async def send_with_headers(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = message["status"]
                answer = MutableHeaders(scope=message)
                answer["x-request-id"] = request_id.get()
                answer.setdefault("cache-control", "no-store")
            await send(message)

        async def fail(code: int, detail: str) -> None:
            await JSONResponse({"detail": detail}, code)(scope, receive, send_with_headers)

        try:
            length = headers.get(b"content-length", b"")
            if length.isdigit() and int(length) > self.max_body_size:
                await fail(status.HTTP_413_CONTENT_TOO_LARGE, "Content Too Large")
            elif b"transfer-encoding" in headers:
                await self.counting(scope, receive, send_with_headers)
            else:
                await self.app(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            if answered != 499:
                raise
            # The time to finish in at a stop is over; another instance may do better.
            await fail(status.HTTP_503_SERVICE_UNAVAILABLE, "Service Unavailable")
        except ClientDisconnect:
            pass  # while it sent the body; nobody is there to answer
        except Exception:
            if answered != 499:
                raise  # half an answer is out: the server logs this, and closes the connection
            log.exception("unhandled error")
            await fail(status.HTTP_500_INTERNAL_SERVER_ERROR, "Internal Server Error")
        finally:
            route = getattr(scope.get("route"), "path", None)
            log.log(
                logging.DEBUG if route in health.PATHS and answered < 400 else logging.INFO,
                "%s %s %s",
                scope["method"],
                route or "(no route)",
                answered,
                extra={
                    "method": scope["method"],
                    "route": route,
                    "path": scope["path"],
                    "status": answered,
                    "duration_ms": round((perf_counter() - begin) * 1000, 3),
                    "client": scope["client"][0] if scope.get("client") else None,
                },
            )
