"""What PostgreSQL needs: its password, an end for each statement, errors without values."""

import select
from collections.abc import Callable
from math import ceil
from pathlib import Path
from time import monotonic
from typing import Any, Self, TypeVar

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import URL, Engine, event, exc

from app.settings import Settings

T = TypeVar("T")

# As in .env.example.
SAMPLE_PASSWORD = "change-me"  # noqa: S105
# Seconds for the server to cancel a statement; then the connection is closed.
CANCEL_TIMEOUT = 0.4


def find_password(settings: Settings, url: URL) -> str:
    """Return the password; raise ValueError for the sample one outside of development."""
    secret = settings.database_password or str(url.password or "")
    if settings.database_password_file:
        try:
            secret = Path(settings.database_password_file).read_text("utf-8").strip()
        except OSError as error:
            # The path is not shown: some write the password there.
            raise ValueError(f"DATABASE_PASSWORD_FILE: {error.strerror}") from None
    if secret == SAMPLE_PASSWORD and not settings.development:
        raise ValueError("DATABASE_PASSWORD is the sample; set another one, or DEVELOPMENT=true")
    return secret


def set_up_postgresql(
    engine: Engine, settings: Settings, seconds_left: Callable[[], float]
) -> None:
    """Make each connection of `engine` end what it does when `seconds_left()` says so."""

    class LimitedCursor(psycopg.Cursor[Any]):
        def execute(self, *args: Any, **options: Any) -> Self:
            if seconds_left() <= 0:
                raise psycopg.OperationalError("too slow")
            return super().execute(*args, **options)

    class LimitedConnection(psycopg.Connection[Any]):
        def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
            try:
                return super().wait(_limited(gen, seconds_left), interval, timeout)
            except _TooLateError:
                pass
            # Without this the server would go on, and keep its locks.
            end = monotonic() + CANCEL_TIMEOUT
            try:
                self.cancel_safe(timeout=CANCEL_TIMEOUT)
                return super().wait(_limited(gen, lambda: end - monotonic()), interval, timeout)
            except (_TooLateError, psycopg.errors.CancellationTimeout):
                self.close()
                raise psycopg.OperationalError("the server does not answer") from None

    def connect(*args: Any) -> psycopg.Connection[Any]:
        arguments, options = args[2:]
        left = min(seconds_left(), settings.database_timeout)
        options |= {"connect_timeout": max(2, ceil(left)), "cursor_factory": LimitedCursor}
        if not settings.database_prepare:
            options["prepare_threshold"] = None
        return LimitedConnection.connect(*arguments, **options)

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "checkout", _replace_if_closed)
    event.listen(engine, "handle_error", _hide_values)


class _TooLateError(Exception):
    """There is no time left to wait."""


def _limited(gen: PQGen[T], seconds_left: Callable[[], float]) -> PQGen[T]:
    """Do what `gen` does, and raise `_TooLateError` when it waits for too long."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and seconds_left() <= 0:
                raise _TooLateError
            wanted = gen.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result


def _replace_if_closed(connection: psycopg.Connection[Any], *_: object) -> None:
    """Replace a connection that the server has closed; a query to find out would take longer."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):  # a server has nothing to say unasked
        raise exc.DisconnectionError("closed by the server")


def _hide_values(context: Any) -> None:
    """Take out of an error what PostgreSQL tells of rows: values may be secret."""
    cause, error = context.original_exception, context.sqlalchemy_exception
    if isinstance(cause, psycopg.Error) and error is not None:
        for values in cause.diag.message_detail, cause.diag.context:
            if values:
                cause.args = tuple(str(text).replace(values, "(hidden)") for text in cause.args)
                error.args = tuple(str(text).replace(values, "(hidden)") for text in error.args)
