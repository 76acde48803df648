"""The start: its log, its time limit, its failure as the last line, new tries of a replaced worker."""

import asyncio
import json
import logging
import mmap
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger("server.startup")

# Seconds between two tries.
RETRY = 2
# Shared by the master and its workers: whether a worker has ever started, whether the service drains,
# and why it could not start.
shared = mmap.mmap(-1, 1024)
STARTED, DRAINING, REASON = 0, 1, 2


class JSONFormatter(logging.Formatter):
    """Format what is logged before the service configures its own logging."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time (UTC), level, logger, message and, if there is one, the exception."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname, "logger": record.name}
        line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logging() -> None:
    """Log as JSON to standard output, uncaught errors too, until the service configures its log."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JSONFormatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    sys.excepthook = lambda kind, error, traceback: log.critical(
        "%s: %s", kind.__name__, error, exc_info=(kind, error, traceback)
    )


def limit(seconds: int) -> None:
    """End this process after `seconds`, whatever it does, and log why; 0 lifts the limit."""

    def end(_: int, __: object) -> None:
        fail(f"the start took longer than START_TIMEOUT, {seconds} s")
        logging.shutdown()
        os._exit(
            1 if shared[STARTED] else 3
        )  # gunicorn replaces a worker after 1, and ends after 3

    signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)


def fail(reason: str) -> None:
    """Log why the service cannot start; keep the reason for `log_failure`."""
    log.critical("cannot start: %s", reason)
    if not shared[STARTED]:
        shared[REASON:] = reason.encode(errors="replace")[:1000].ljust(1024 - REASON, b"\0")


def log_failure() -> None:
    """Log once more, at the end, why the service could not start; people read the last line first."""
    if reason := shared[REASON:].rstrip(b"\0").decode(errors="replace"):
        log.critical("cannot start: %s", reason)


class Gate:
    """The ASGI application that uvicorn serves: the service, once it has started.

    If the first start fails, the container ends. If a worker that replaces another one cannot start,
    it tries again; until then `/livez` is 200 and everything else 503.
    """

    def __init__(self, service: Callable[..., Any], start_timeout: int) -> None:
        self.service = service
        self.start_timeout = start_timeout
        self.open = False

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass everything to the service, except what it cannot answer now."""
        if scope["type"] == "lifespan":
            await self.lifespan(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope["root_path"])
        if self.open and not (shared[DRAINING] and path == "/readyz"):
            await self.service(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1013})
        else:
            status = 200 if path == "/livez" else 503
            body = (
                b'{"status": "healthy"}' if status == 200 else b'{"detail": "Service Unavailable"}'
            )
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
            ]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    async def lifespan(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Run the service's lifespan; run it again if it fails in a worker that replaces another one."""
        startup = await receive()
        told = False

        async def receive_all() -> Any:
            nonlocal startup
            message, startup = startup, None
            return message or await receive()

        async def note(message: Any) -> None:
            nonlocal told
            if message["type"] == "lifespan.startup.complete":
                limit(0)
                self.open = True
                shared[STARTED] = 1
            if self.open and not (told and "startup" in message["type"]):
                await send(message)

        while True:
            limit(self.start_timeout)
            try:
                await self.service(scope, receive_all, note)
                return
            except BaseException as error:
                limit(0)
                if self.open:
                    raise
                fail(f"{type(error).__name__}: {error}")
                if not shared[STARTED]:
                    raise
            if not told:
                await send({"type": "lifespan.startup.complete"})
                told = True
            startup = {"type": "lifespan.startup"}
            try:
                await asyncio.wait_for(receive(), RETRY)
            except TimeoutError:
                continue
            await send({"type": "lifespan.shutdown.complete"})
            return
