"""Logs: JSON lines in a container, readable lines on a terminal, however the service is started."""

import asyncio
import json
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache

from starlette.types import Scope

if sys.platform != "win32":
    import fcntl

request_id: ContextVar[str] = ContextVar("request_id", default="")

requests = logging.getLogger("app.requests")

# Attributes of every record. Others came with `extra=` and are logged, too.
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}

# For people: without the extras, which JSON has.
CONSOLE = logging.Formatter("%(asctime)s %(levelname)-8s %(name)s: %(message)s", "%H:%M:%S")

encode = json.JSONEncoder(default=str, allow_nan=False).encode


@lru_cache(1)
def format_second(seconds: float) -> str:
    """Return the part of a time that all lines of one second share."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def format_time(seconds: float) -> str:
    """Return a time in milliseconds."""
    return f"{format_second(seconds // 1)}.{int(seconds % 1 * 1000):03}+00:00"


class JSONFormatter(logging.Formatter):
    """Format a record as one line of ASCII JSON, which nothing in it can break."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time (UTC), level, logger, message; request_id, exception and extras if any."""
        line = {
            "time": format_time(record.created),
            "level": record.levelname,
            "logger": record.name,
        }
        line["message"] = f"{record.msg!r} {record.args!r}"
        if current := request_id.get():
            line["request_id"] = current
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        try:
            line["message"] = record.getMessage()
            extras = {key: value for key, value in vars(record).items() if key not in STANDARD}
            # An extra of one of these names gets another, or it would be lost.
            return encode(line | {key + "_" * (key in line): extras[key] for key in extras})
        except Exception as error:  # wrong arguments, or an extra that JSON cannot hold
            return encode({**line, "log_error": repr(error)})


class StdoutHandler(logging.Handler):
    """Write lines to standard output, each in one piece, even if other processes write there."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[str] = []
        # If standard output is closed, the next opened file gets its number.
        self.file = 1 if sys.__stdout__ else os.open(os.devnull, os.O_WRONLY)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            self.flush(self.format(record) + "\n")
        except Exception:
            self.handleError(record)

    def write_soon(self, line: str) -> None:
        """Write a line before the next record, or at the end of this turn of the event loop."""
        self.waiting.append(line)
        if len(self.waiting) == 1:
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self, text: str = "") -> None:
        """Write the lines that wait, then `text`; lose both if standard output is closed or full.

        `logging` calls this when the process ends.
        """
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
                    data = data[os.write(self.file, data) :]
            with suppress(OSError, NameError):
                fcntl.lockf(self.file, fcntl.LOCK_UN)
        finally:
            self.release()


stdout = StdoutHandler()

if sys.platform != "win32":  # a forked child must not repeat its parent's waiting lines
    os.register_at_fork(after_in_child=stdout.waiting.clear)


def log_request(scope: Scope, level: int, route: str | None, status: int, seconds: float) -> None:
    """Log a request that was answered.

    JSON is written without a record, which costs less. A record is made if the service has another
    handler, filter, level, formatter or factory of records.
    """
    if not requests.isEnabledFor(level):
        return
    method, path = scope["method"], encode(scope["path"])
    client = scope["client"][0] if scope.get("client") else None
    # Escaped, without the quotes: a path may hold characters that control a terminal.
    message, duration = f"{method} {path[1:-1]} {status}", round(seconds * 1000, 3)
    unchanged = logging.root.handlers == [stdout] and not (requests.handlers or requests.filters)
    unchanged = unchanged and requests.propagate and not (stdout.filters or stdout.level)
    unchanged = unchanged and logging.getLogRecordFactory() is logging.LogRecord
    if unchanged and type(stdout.formatter) is JSONFormatter:
        line = (
            f'"time": "{format_time(time.time())}", "level": "{logging.getLevelName(level)}", '
            f'"logger": "{requests.name}", "message": {encode(message)}, '
            f'"request_id": "{request_id.get()}", "method": {encode(method)}, '
            f'"route": {encode(route)}, "path": {path}, "status": {status}, '
            f'"duration_ms": {duration}, "client": {encode(client)}'
        )
        stdout.write_soon("{" + line + "}\n")
    else:
        extra = {"method": method, "route": route, "path": scope["path"], "status": status}
        requests.log(level, message, extra=extra | {"duration_ms": duration, "client": client})


def hide_query(record: logging.LogRecord) -> bool:
    """Cut the query string off uvicorn's lines about WebSockets."""
    if '"WebSocket %s"' in str(record.msg) and isinstance(record.args, tuple):
        client, path, *rest = record.args
        record.args = (client, str(path).partition("?")[0], *rest)
    return True


def configure(level: str = "INFO", log_format: str | None = None) -> None:
    """Write the log of this process to standard output, even if logging was configured before.

    `level` holds for the service's own loggers; other libraries log INFO and above, since they write
    values at DEBUG. `log_format` is json or console, by default console if standard output is a terminal.
    """
    console = log_format == "console" if log_format else os.isatty(stdout.file)
    stdout.setFormatter(CONSOLE if console else JSONFormatter())
    with suppress(OSError, AttributeError):  # a full pipe that does not block loses lines
        os.set_blocking(stdout.file, True)
    # Keep the handlers of an owner or of pytest; a plain one would write each line a second time.
    replaced = (logging.StreamHandler, StdoutHandler)
    others = [handler for handler in logging.root.handlers if type(handler) not in replaced]
    logging.root.handlers = [*others, stdout]
    logging.root.setLevel("INFO" if level == "DEBUG" else level)
    logging.getLogger("app").setLevel(level if level == "DEBUG" else logging.NOTSET)
    # It logs whole URLs, which may hold secrets.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "gunicorn.error", "gunicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.setLevel(logging.NOTSET)
        # The access lines of the servers would repeat those of `app.requests`.
        logger.propagate = not name.endswith(".access")
    logging.getLogger("uvicorn.error").addFilter(hide_query)
    logging.captureWarnings(capture=True)
    if not console:
        sys.excepthook = lambda *error: logging.getLogger("app").critical(
            "%s: %s", error[0].__name__, error[1], exc_info=error
        )
        threading.excepthook = lambda error: sys.excepthook(
            error.exc_type, error.exc_value or error.exc_type(), error.exc_traceback
        )
