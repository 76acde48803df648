"""Middleware around every request; `Service` has its order."""

import asyncio
import logging
import os
import re
from collections.abc import Callable
from time import perf_counter
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse
from starlette.datastructures import URL
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import health
from app.errors import routes_of
from app.logs import log_request, request_id

log = logging.getLogger(__name__)

# Request ids that a client may set: short, and without characters that a log or a shell interprets.
PLAIN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

# Headers of every answer that does not set them itself.
DEFAULT_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}
# An answer that has one of these may be cached.
CACHE_HEADERS = {b"etag", b"expires", b"last-modified"}
# Starlette's refusal of a body, to which other middleware may add headers.
REFUSAL = {*PlainTextResponse("Content Too Large", 413).raw_headers}


class Service(FastAPI):
    """FastAPI, with the middleware of this module around those of `add_middleware`."""

    def __init__(self, *, on_startup: Any = (), on_shutdown: Any = (), **options: Any) -> None:
        super().__init__(**options)
        # FastAPI ignores event handlers beside a lifespan, except those of included routers.
        self.events = APIRouter()
        self.include_router(self.events)  # while it has none: FastAPI would copy them, too
        self.events.on_startup.extend(on_startup)
        self.events.on_shutdown.extend(on_shutdown)

    def on_event(self, event_type: str) -> Callable[[Any], Any]:
        """Register a function for `startup` or `shutdown`."""

        def add(function: Any) -> Any:
            self.events.add_event_handler(event_type, function)
            return function

        return add

    def build_middleware_stack(self) -> ASGIApp:
        """Put the middleware together; FastAPI calls this when it starts."""
        added: list[Any] = self.user_middleware
        # CORS wraps the rest: a browser hides a 500 or a 413 without CORS headers.
        outer = [entry for entry in added if entry.cls is CORSMiddleware]
        inner = [entry for entry in added if entry.cls is not CORSMiddleware]
        limit = Middleware(BodyLimitMiddleware, max_body_size=self.state.settings.max_body_size)
        self.user_middleware = [limit, *inner, Middleware(RouteMiddleware)]
        app = super().build_middleware_stack()
        self.user_middleware = added
        for cls, args, kwargs in outer:
            app = cls(app, *args, **kwargs)
        # OpenTelemetry's instrumentation expects this type outside of all.
        return ServerErrorMiddleware(RequestMiddleware(app))


class RequestMiddleware:
    """Give every request an id, a line in the log, and an answer with an id and safe headers.

    The id is the client's `X-Request-ID` if that is short and plain, else a new one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; a WebSocket gets an id alone."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        current = given if PLAIN_ID.fullmatch(given) else os.urandom(16).hex().encode()
        # Not reset afterwards: the server's own lines about this request come later.
        request_id.set(current.decode())
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
            return

        begin = perf_counter()
        status = 0  # until there is an answer
        complete = False

        async def respond(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"] = [*message.get("headers", ())]
                names = {name for name, _ in headers}
                if not names.isdisjoint(CACHE_HEADERS):
                    names.add(b"cache-control")
                headers += [header for header in DEFAULT_HEADERS.items() if header[0] not in names]
                if b"x-request-id" not in names:
                    headers.append((b"x-request-id", current))
            else:
                complete = not message.get("more_body", False)
            await send(message)

        async def fail(code: int, detail: str) -> None:
            await JSONResponse({"detail": detail}, code)(scope, receive, respond)

        inner = dict(scope)  # RouteMiddleware changes it
        try:
            await self.app(inner, receive, respond)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if status or not task or not task.cancelling():
                raise
            # The grace period of a stop is over; another instance may answer.
            await fail(503, "Service Unavailable")
        except Exception:
            if status and not complete:
                raise  # the server logs this, and closes the connection
            log.exception("unhandled error")
            if not status:
                await fail(500, "Internal Server Error")
        finally:
            status = status or 500
            # Health checks are frequent, so only failed ones are logged at INFO.
            root = scope.get("root_path", "")
            check = scope["path"].removeprefix(root) in health.PATHS
            level = logging.DEBUG if check and status < 300 else logging.INFO
            log_request(scope, level, route_of(inner, root), status, perf_counter() - begin)


def route_of(scope: Scope, root: str) -> str | None:
    """Return the path of the route that answered, with its prefixes; none if no route did."""
    # The route in an included router does not know the prefix; its context does.
    context = scope.get("fastapi", {}).get("effective_route_context")
    known = context and context.original_route is scope.get("route")
    path = getattr(context if known else scope.get("route"), "path", None)
    # A route in a mounted application lacks the path of the mount.
    return path and scope.get("root_path", "").removeprefix(root) + path


class BodyLimitMiddleware(RequestBodyLimitMiddleware):
    """Answer 413 to a larger body; `max_body_size=` of a route or a router sets another limit there."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the body, unless there is none, or its length is a plain number within the limit."""
        names = b"content-length", b"transfer-encoding"
        sizes = [value for name, value in scope.get("headers", ()) if name in names]
        if not sizes and scope.get("http_version", "") < "2":  # HTTP/2 has bodies without either
            await self.app(scope, receive, send)
            return
        # The server limits a body to its Content-Length.
        plain = len(sizes) == 1 and len(sizes[0]) < 20 and sizes[0].isdigit()
        small = plain and int(sizes[0]) <= self.max_body_size
        started = refused = False

        async def respond(message: Message) -> None:
            nonlocal started, refused
            started = True
            # Starlette refuses in plain text, also a body over the limit of a route.
            if message.get("status") == 413 and {*message.get("headers", ())} >= REFUSAL:
                refused = True
                await JSONResponse({"detail": "Content Too Large"}, 413)(scope, receive, send)
            elif not refused:
                await send(message)

        try:
            await (self.app if small else super().__call__)(scope, receive, respond)
        except ExceptionGroup as group:
            # BaseHTTPMiddleware hides Starlette's error, which has this status, from Starlette.
            if started or not group.subgroup(lambda error: getattr(error, "status_code", 0) == 413):
                raise
            await JSONResponse({"detail": "Content Too Large"}, 413)(scope, receive, send)


class RouteMiddleware:
    """Answer HEAD like GET, and a path that differs from a route in its last slash like that route.

    FastAPI would redirect to the other path, which names the wrong scheme and host behind some
    proxies. This is inside of everything else, so that other middleware sees one request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, and handle it again if the other method or path has a route."""
        change: dict[str, str] = {}
        root_path = scope.get("root_path", "")
        only_head = ended = False

        async def respond(message: Message) -> None:
            nonlocal only_head, ended
            code = message.get("status")
            # An application mounted at "/" answers 404: FastAPI prefers it to a route without HEAD.
            at_root = "route" not in scope and scope.get("root_path", "") == root_path
            if code == 405 or (code == 404 and at_root):
                if scope.get("method") == "HEAD":
                    change["method"] = "GET"
                    only_head = True
            elif code == 307 and scope.get("endpoint") in (None, scope["app"]):
                path = scope["path"]
                other = {**scope, "path": path.rstrip("/") if path.endswith("/") else path + "/"}
                redirect = RedirectResponse(str(URL(scope=other)))
                # Static folders redirect: a page's relative links depend on the slash.
                if message["headers"] == redirect.raw_headers and routes_of(other):
                    change["path"] = other["path"]
            if change or ended:
                return
            if only_head and message.get("more_body"):
                ended, message = True, {"type": "http.response.body"}  # a stream may have no end
            await send(message)

        await self.app(scope, receive, respond)
        while change:
            scope.update(change, root_path=root_path)  # which a mounted application changes
            change.clear()
            await self.app(scope, receive, respond)
