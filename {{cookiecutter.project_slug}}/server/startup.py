"""The start: its log, its time limit, its failure as the last line of the log."""

import asyncio
import atexit
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

# Seconds after which a replaced worker that could not start is replaced again.
RETRY = 2
# Shared by the master and its workers: whether a worker has ever started, whether the service drains,
# the reason of a failed start, and a byte for each worker that serves.
shared = mmap.mmap(-1, 1024)
STARTED, DRAINING, REASON, SLOTS = 0, 1, 2, 768
# The exit status of a worker after which gunicorn ends.
FAILED = 3

# Headers of the server's own answers; the service sets those of its answers itself.
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-type", b"application/json"),
]


class JSONFormatter(logging.Formatter):
    """Format the lines before the service configures its own logging."""

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


# Set by a worker that has served to its end.
skip_teardown = False


@atexit.register
def end_worker() -> None:
    """End a worker before Python frees its memory, which would copy every page shared with the master.

    Python calls this after the functions that the service registers, since it is registered before.
    """
    if skip_teardown:
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)


def limit_start(seconds: int) -> None:
    """End this process after `seconds`, even in blocking code, and log why; 0 lifts the limit."""

    def end(_: int, __: object) -> None:
        log_startup_failure(f"the start took longer than START_TIMEOUT, {seconds} s")
        logging.shutdown()
        os._exit(1 if shared[STARTED] else FAILED)

    signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)


def log_startup_failure(reason: str) -> None:
    """Log why the service cannot start; keep the reason for `repeat_failure`."""
    log.critical("cannot start: %s", reason)
    if not shared[STARTED]:
        size = SLOTS - REASON
        shared[REASON:SLOTS] = reason.encode(errors="replace")[:size].ljust(size, b"\0")


def repeat_failure() -> None:
    """Log the reason of a failed start again, as the last line, where people look first."""
    if reason := shared[REASON:SLOTS].rstrip(b"\0").decode(errors="replace"):
        log.critical("cannot start: %s", reason)


class Gate:
    """The ASGI application that uvicorn serves: the service, once it has started.

    If the first start fails, the container ends. A worker that replaces another one and cannot start
    is soon replaced again. Where no other worker serves, it answers 200 to `/livez` and 503 to
    everything else meanwhile.
    """

    slot = SLOTS

    def __init__(self, service: Callable[..., Any], start_timeout: int) -> None:
        self.service = service
        self.start_timeout = start_timeout
        self.open = False

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass events to the service, or answer while it cannot."""
        if scope["type"] == "lifespan":
            await self.lifespan(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope["root_path"])
        if self.open and not (shared[DRAINING] and path == "/readyz"):
            await self.service(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            live = path == "/livez"
            text = json.dumps({"status": "healthy"} if live else {"detail": "Service Unavailable"})
            headers = [*HEADERS, (b"content-length", b"%d" % len(text))]
            start = {"type": "http.response.start", "status": 200 if live else 503}
            await send(start | {"headers": headers})
            await send({"type": "http.response.body", "body": text.encode()})

    async def lifespan(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Run the service's lifespan; its start may take as long as the time limit."""
        early = stopping = False

        async def receive_and_note() -> Any:
            nonlocal stopping
            message = await receive()
            stopping = message["type"] == "lifespan.shutdown"
            return message

        async def send_and_note(message: dict[str, Any]) -> None:
            if message["type"] == "lifespan.startup.complete":
                limit_start(0)
                self.open = True
                shared[STARTED] = shared[self.slot] = True
            if self.open and not (early and message["type"] == "lifespan.startup.complete"):
                await send(message)

        limit_start(self.start_timeout)
        service = asyncio.create_task(self.run_service(scope, receive_and_note, send_and_note))
        while shared[STARTED] and not (early or self.open or service.done()):
            await asyncio.wait({service}, timeout=0.1)
            if not self.open and not any(shared[SLOTS:]):
                early = True
                await send({"type": "lifespan.startup.complete"})
        try:
            await service
        except Exception as error:
            limit_start(0)
            if self.open and not stopping:
                log.critical("the lifespan ended: %s: %s", type(error).__name__, error)
                self.open = False
                signal.raise_signal(signal.SIGTERM)  # gunicorn replaces the worker
                raise
            if not self.open:
                log_startup_failure(f"{type(error).__name__}: {error}")
            if self.open or not shared[STARTED]:
                raise  # uvicorn logs it, with its traceback
            if not early:
                await asyncio.sleep(RETRY)
                os._exit(1)
            asyncio.get_running_loop().call_later(RETRY, signal.raise_signal, signal.SIGTERM)
            await receive()
            await send({"type": "lifespan.shutdown.complete"})

    async def run_service(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Run the service's lifespan; raise an error if it exits, or ends before its start."""
        try:
            await self.service(scope, receive, send)
        except (SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:
            raise RuntimeError(f"{type(error).__name__} {error}") from error
        if not self.open:
            raise RuntimeError("the lifespan ended before the service had started")
