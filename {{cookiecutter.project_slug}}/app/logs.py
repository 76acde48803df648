"""Logs: JSON lines in a container, readable lines on a terminal, however the service is started."""

import asyncio
import json
import logging
import os
import select
import sys
import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import Any

from starlette.types import Scope

if sys.platform != "win32":
    import fcntl

request_id: ContextVar[str] = ContextVar("request_id", default="")

requests = logging.getLogger("app.requests")

# What every record has; anything else on it came with `extra=` and is logged too.
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}

COLORS = {"DEBUG": 2, "WARNING": 33, "ERROR": 31, "CRITICAL": 31}

encode = json.JSONEncoder(default=str, allow_nan=False).encode


def extras(record: logging.LogRecord) -> dict[str, Any]:
    """Return what `extra=` added to a record."""
    return {key: value for key, value in vars(record).items() if key not in STANDARD}


@lru_cache(1)
def _utc(second: float) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")


def utc(seconds: float) -> str:
    """Return a time in milliseconds; its date and second are formatted once for all lines of it."""
    second, fraction = divmod(seconds, 1)
    return f"{_utc(second)}.{int(fraction * 1000):03}+00:00"


class JSONFormatter(logging.Formatter):
    """Format a record as one line of ASCII JSON, which nothing in it can break."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time (UTC), level, logger, message; request_id, exception and extras if any."""
        try:
            message = record.getMessage()
        except Exception as error:  # a wrong call, which must not cost the line
            message = f"{record.msg!r} % {record.args!r}: {error}"
        line: dict[str, Any] = {
            "time": utc(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": message,
        }
        if current := request_id.get():
            line["request_id"] = current
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        line |= {key: value for key, value in extras(record).items() if key not in line}
        try:
            return encode(line)
        except (TypeError, ValueError):  # keys that are no strings, cycles, NaN
            return json.dumps({str(key): str(value) for key, value in line.items()})


class ConsoleFormatter(logging.Formatter):
    """Format a record for people: one line, then the traceback if there is one."""

    def __init__(self, colors: bool) -> None:
        super().__init__(
            "%(asctime)s.%(msecs)03d %(levelname)-8s %(name)s: %(message)s", "%H:%M:%S"
        )
        self.colors = colors

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line, with the request's id and the extras at its end."""
        rest = extras(record) | {"request_id": request_id.get()}
        line = super().formatMessage(record)
        line += "".join(f" {key}={value!r}" for key, value in rest.items() if value != "")
        color = COLORS.get(record.levelname)
        return f"\x1b[{color}m{line}\x1b[0m" if color and self.colors else line


class StdoutHandler(logging.Handler):
    """Write lines to standard output, each in one piece, whatever other processes write there."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[str] = []
        # A closed standard output leaves its number to the next file that is opened.
        self.file = 1 if sys.__stdout__ else os.open(os.devnull, os.O_WRONLY)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            self.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)

    def write_soon(self, line: str) -> None:
        """Write a line before any other, or when this turn of the event loop ends."""
        self.waiting.append(line)
        if len(self.waiting) == 1:
            asyncio.get_running_loop().call_soon(self.write)

    def write(self, text: str = "") -> None:
        """Write the lines that wait, then `text`; lose both if standard output is closed or full."""
        self.acquire()
        try:
            count = len(self.waiting)
            data = "".join([*self.waiting[:count], text]).encode()
            del self.waiting[:count]
            # A pipe, which workers share, keeps only 4 KiB in one piece by itself.
            with suppress(OSError, NameError):  # not everything can be locked, and not on Windows
                fcntl.lockf(self.file, fcntl.LOCK_EX)
            with suppress(OSError):
                while data:
                    try:
                        data = data[os.write(self.file, data) :]
                    except BlockingIOError:
                        select.select([], [self.file], [])
            with suppress(OSError, NameError):
                fcntl.lockf(self.file, fcntl.LOCK_UN)
        finally:
            self.release()

    def flush(self) -> None:
        """Write the lines that wait; `logging` does this when the process ends."""
        self.write()


stdout = StdoutHandler()


def log_request(scope: Scope, level: int, route: str | None, status: int, seconds: float) -> None:
    """Log a request that was answered.

    JSON is written without a record, which costs less, unless someone besides `stdout` wants records:
    another handler of the root logger, or a handler or a filter of `app.requests`.
    """
    if not requests.isEnabledFor(level):
        return
    method, path = scope["method"], scope["path"]
    client = scope["client"][0] if scope.get("client") else None
    message, duration = f"{method} {route or '(no route)'} {status}", round(seconds * 1000, 3)
    direct = isinstance(stdout.formatter, JSONFormatter) and logging.root.handlers == [stdout]
    if direct and not (requests.handlers or requests.filters or stdout.filters):
        line = (
            f'"time": "{utc(time.time())}", "level": "{logging.getLevelName(level)}", '
            f'"logger": "{requests.name}", "message": {encode(message)}, '
            f'"request_id": "{request_id.get()}", "method": {encode(method)}, '
            f'"route": {encode(route)}, "path": {encode(path)}, "status": {status}, '
            f'"duration_ms": {duration}, "client": {encode(client)}'
        )
        stdout.write_soon("{" + line + "}\n")
    else:
        extra = {"method": method, "route": route, "path": path, "status": status}
        requests.log(level, message, extra=extra | {"duration_ms": duration, "client": client})


def hide_query(record: logging.LogRecord) -> bool:
    """Cut the query string off uvicorn's lines about WebSockets."""
    if '"WebSocket %s"' in str(record.msg) and isinstance(record.args, tuple):
        values = (
            value.partition("?")[0] if isinstance(value, str) else value for value in record.args
        )
        record.args = tuple(values)
    return True


def configure(level: str = "INFO", form: str | None = None) -> None:
    """Write what this process logs to standard output, whoever configured logging before.

    `level` holds for the service's own loggers; other libraries log INFO and above, since they write
    values at DEBUG. `form` is json or console, by default console if standard output is a terminal.
    """
    terminal = os.isatty(stdout.file)
    console = form == "console" if form else terminal
    stdout.setFormatter(ConsoleFormatter(terminal) if console else JSONFormatter())
    # Keep the handlers of an owner or of pytest; a plain one would write each line a second time.
    others = [other for other in logging.root.handlers if type(other) is not logging.StreamHandler]
    logging.root.handlers = [*(other for other in others if other is not stdout), stdout]
    logging.root.setLevel("INFO" if level == "DEBUG" else level)
    logging.getLogger("app").setLevel(level if level == "DEBUG" else logging.NOTSET)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "gunicorn.error", "gunicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.setLevel(logging.NOTSET)
        # The access lines of the servers would repeat those of `app.requests`.
        logger.propagate = not name.endswith(".access")
    logging.getLogger("uvicorn.error").addFilter(hide_query)
    logging.captureWarnings(capture=True)
    if not console:
        sys.excepthook = log_exception
        threading.excepthook = lambda args: log_exception(*args[:3])


def log_exception(
    kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None
) -> None:
    """Log the error that ends this process, with its message where people look first."""
    logging.getLogger("app").critical(
        "%s: %s", kind.__name__, error, exc_info=(kind, error or kind(), traceback)
    )
