"""Logs: one JSON object a line, on standard output, from the first line to the last."""

import json
import logging
import logging.config
import sys
import threading
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

request_id: ContextVar[str] = ContextVar("request_id", default="")

# What every record has; anything else on it came with `extra=` and is logged too.
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "color_message"}

encode = json.JSONEncoder(default=str, allow_nan=False).encode


class JSONFormatter(logging.Formatter):
    """Format a record as one line of ASCII JSON, so that nothing in it can break the line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time (UTC), level, logger, message; request_id, exception and extras if any."""
        try:
            message = record.getMessage()
        except Exception as error:  # a wrong call, which must not cost the line
            message = f"{record.msg!r} % {record.args!r}: {error}"
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": message,
        }
        if current := request_id.get():
            line["request_id"] = current
        for key, value in vars(record).items():
            if key not in STANDARD:
                line.setdefault(key, value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        try:
            return encode(line)
        except (TypeError, ValueError):  # keys that are no strings, cycles, NaN
            return json.dumps({key: str(value) for key, value in line.items()})


def configure(level: str = "INFO") -> None:
    """Log everything that this process says as JSON: records, warnings, and what ends it."""
    config: dict[str, Any] = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JSONFormatter}},
        "handlers": {
            "stdout": {
                "class": "logging.StreamHandler",
                "formatter": "json",
                "stream": "ext://sys.stdout",
            }
        },
        "root": {"handlers": ["stdout"], "level": level},
    }
    logging.config.dictConfig(config)
    # What no line has need not be found out for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.captureWarnings(capture=True)
    sys.excepthook = log_exception
    threading.excepthook = lambda args: log_exception(*args[:3])


def log_exception(
    kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None
) -> None:
    """Log the error that ends this process, with its message where people look first."""
    logging.getLogger("app").critical(
        "%s: %s", kind.__name__, error, exc_info=(kind, error or kind(), traceback)
    )
