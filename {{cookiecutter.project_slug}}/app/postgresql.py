"""PostgreSQL: its password, time limits of statements, errors without values."""

import re
import select
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
from psycopg.abc import PQGen
from sqlalchemy import URL, Engine, event, exc

from app.settings import Settings
from app.threads import seconds_left

T = TypeVar("T")

# As in .env.example.
SAMPLE_PASSWORD = "change-me"  # noqa: S105 - it is public


def find_password(settings: Settings, url: URL) -> str:
    """Return the password; raise ValueError for the sample one outside of development."""
    secret = settings.database_password or str(url.password or "")
    if settings.database_password_file:
        try:
            secret = Path(settings.database_password_file).read_text("utf-8-sig").rstrip("\r\n")
        except (OSError, UnicodeError) as error:
            # The path is not shown: some write the password there.
            reason = getattr(error, "strerror", "it is not UTF-8")
            raise ValueError(f"DATABASE_PASSWORD_FILE: {reason}") from None
    if secret == SAMPLE_PASSWORD and not settings.development:
        raise ValueError("DATABASE_PASSWORD is the sample; set another one, or DEVELOPMENT=true")
    return secret


def create_postgresql_engine(url: URL, settings: Settings, **options: Any) -> Engine:
    """Create an engine for PostgreSQL."""
    url = url.set(drivername="postgresql+psycopg")
    if password := find_password(settings, url):
        url = url.set(password=password)
    arguments: dict[str, Any] = {"connect_timeout": max(2, settings.database_timeout)}
    if not settings.database_prepare:
        arguments["prepare_threshold"] = None
    engine = sa.create_engine(url, connect_args=arguments, **options)
    event.listen(engine, "do_connect", lambda _, __, args, kw: Connection.connect(*args, **kw))
    event.listen(engine, "checkout", _replace_if_closed)
    event.listen(engine, "handle_error", _hide_values)
    return engine


class Connection(psycopg.Connection[Any]):
    """A connection that waits for the server no longer than its thread's call may take."""

    def commit(self) -> None:
        """Commit; raise an error where a statement has failed: the server would roll back silently."""
        if self.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
            raise psycopg.errors.InFailedSqlTransaction(
                "a statement of the transaction failed: run it in `with connection.begin_nested():`"
            )
        super().commit()

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait for the server; ask it to cancel a statement that takes too long, and close."""
        try:
            return super().wait(gen, interval, max(0, seconds_left()))
        except psycopg.OperationalError:
            if seconds_left() <= 0:
                with suppress(psycopg.Error):  # without this the server would keep its locks
                    self.cancel_safe(timeout=0.4)
                self.close()
            raise


def _replace_if_closed(connection: Connection, *_: object) -> None:
    """Replace a connection that the server has closed; a query to find out would take longer."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):  # a server sends nothing without a query
        raise exc.DisconnectionError("closed by the server")


def _hide_values(context: Any) -> None:
    """Keep an error's first line, and no quotation in it if it is about a value: it may be secret."""
    cause, error = context.original_exception, context.sqlalchemy_exception
    if isinstance(cause, psycopg.Error) and (message := cause.diag.message_primary):
        # A migration has changed a column of a prepared statement; a server accepts no writes any more.
        if cause.diag.source_function == "RevalidateCachedQuery" or cause.sqlstate == "25006":
            context.is_disconnect = True
        if str(cause.sqlstate).startswith("22"):
            message = re.sub('".*"', "(hidden)", message, flags=re.DOTALL)
        if error is not None:
            error.args = (str(error.args[0]).replace(str(cause), message),)
        cause.args = (message,)
