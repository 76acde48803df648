"""The database: engine, threads, `Database.read()` and `Database.write()`."""

# {% if cookiecutter.database == "sqlite" %}
import asyncio
# {% endif %}
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Annotated, Any, Concatenate, ParamSpec, Self, TypeVar

import sqlalchemy as sa
from fastapi import Depends, status
from sqlalchemy import Connection, Engine, event, exc
from sqlalchemy.orm import DeclarativeBase
from starlette.requests import HTTPConnection

from app import migrations
from app.errors import ServiceError
# {% if cookiecutter.database == "postgresql" %}
from app.postgresql import create_postgresql_engine
# {% endif %}
from app.settings import Settings
from app.threads import Threads, seconds_left

P = ParamSpec("P")
T = TypeVar("T")

# SQLite takes the lock for writers at once, so that reading before writing is safe.
BEGIN = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "BEGIN"}
VERSION = sa.text("SELECT version_num FROM alembic_version")
# Seconds for /readyz; Kubernetes gives a probe one.
PING_TIMEOUT = 0.9


class UtcDateTime(sa.TypeDecorator[datetime]):
    """Column of aware datetimes in UTC, on SQLite too, which knows no time zones."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Convert to UTC; raise ValueError for a datetime without a time zone."""
        if value is not None and value.tzinfo is None:
            raise ValueError("a datetime needs a time zone, as datetime.now(UTC) has")
        return value and value.astimezone(UTC)

    def coerce_compared_value(self, op: Any, value: object) -> Any:
        """Take a timedelta for an interval, as `DateTime` does."""
        return sa.Interval() if isinstance(value, timedelta) else self

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Return a datetime in UTC."""
        return value and (value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC))


@event.listens_for(sa.Column, "before_parent_attach")
def _make_aware(column: sa.Column[Any], _: object) -> None:
    """Return aware datetimes from `DateTime(timezone=True)`, too."""
    if type(kind := column.type) is sa.DateTime and kind.timezone and not kind._variant_mapping:
        column.type = UtcDateTime()


class Base(DeclarativeBase):
    """Base class of every table; its constraints have names, so that migrations can change them."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    # `Mapped[datetime]` is aware on both databases; an enum is text, which is easy to change.
    type_annotation_map = {
        datetime: UtcDateTime,
        Enum: sa.Enum(Enum, native_enum=False, length=50),
    }


class DatabaseUnavailable(ServiceError):
    """The database cannot be reached, is too slow or is busy; a write may have been kept."""

    status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    code = "database_unavailable"
    headers = {"Retry-After": "1"}


def create_engine(settings: Settings, **options: Any) -> Engine:
    """Create the engine for `DATABASE_URL`; it connects when it is first used."""
    url = sa.make_url(settings.database_url)
    # Values may be secret: SQLAlchemy writes none into errors and logs.
    options["hide_parameters"] = True
    # {% if cookiecutter.database == "postgresql" %}
    if url.get_backend_name() != "sqlite":
        return create_postgresql_engine(url, settings, **options)
    # {% endif %}
    # Seconds to wait while another process writes.
    options.setdefault("connect_args", {"timeout": settings.database_timeout})
    engine = sa.create_engine(url.set(drivername="sqlite"), **options)
    event.listen(engine, "connect", _set_up_sqlite)
    return engine


def _set_up_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    # Large sorts and updates need no temporary folder.
    connection.execute("PRAGMA temp_store = MEMORY")
    # SQLite calls it each 10,000 steps, about 1 ms; true ends the statement.
    connection.set_progress_handler(lambda: seconds_left() <= 0, 10_000)


def _sqlite_code(error: exc.OperationalError) -> int:
    return int(getattr(error.orig, "sqlite_errorcode", 0)) & 0xFF


def _is_mistake(error: exc.DBAPIError) -> bool:
    """Tell a mistake in SQL from a database that is away, too slow or busy."""
    if error.connection_invalidated:
        return False
    if not isinstance(error, exc.OperationalError):
        return True
    state = str(getattr(error.orig, "sqlstate", None))
    # PostgreSQL: a limit of a statement, or a wrong state of an object; 55P03 is a lock.
    mistake = state.startswith(("54", "55")) and state != "55P03"
    return mistake or _sqlite_code(error) == sqlite3.SQLITE_ERROR


def _begin(connection: Connection) -> None:
    """Begin a transaction, as soon as no other process writes to SQLite."""
    while True:
        try:
            connection.exec_driver_sql(BEGIN[connection.dialect.name])
        except exc.OperationalError as error:
            # SQLite itself retries only ten times a second, and faster processes would win.
            if _sqlite_code(error) != sqlite3.SQLITE_BUSY or seconds_left() <= 0:
                raise
        else:
            return


def _refuse_open_result(result: T) -> T:
    """Return `result`; raise TypeError if reading it would need the connection."""
    kinds = sa.Result, sa.ScalarResult, sa.MappingResult
    if isinstance(result, kinds) and getattr(result, "returns_rows", True):
        result.close()  # SQLite would keep its lock until then
        raise TypeError("return rows, such as result.all(): the connection of a result is closed")
    return result


class Database:
    """Call plain functions of a SQLAlchemy `Connection` in threads, one for each pooled connection.

    A call takes at most `DATABASE_TIMEOUT` seconds, waiting for a thread included. Raises
    `DatabaseUnavailable` when the database cannot be reached, is too slow or is busy.
    """

    def __init__(self, settings: Settings) -> None:
        size = settings.database_pool_size
        self._timeout = settings.database_timeout
        # Each statement is its own transaction, unless `write` begins one. One connection is for `ping`.
        options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", "max_overflow": 0}
        self._engine = create_engine(settings, pool_size=size + 1, **options)
        self._write_engine = self._engine
        self._readers = self._writers = Threads(size, "database")
        if self._engine.dialect.name == "sqlite":
            # SQLite has one writer at a time. They take turns; racing for its lock, some would starve.
            options["connect_args"] = {"timeout": 0.02}
            self._write_engine = create_engine(settings, pool_size=1, **options)
            self._writers = Threads(1, "database-writer")
        self._pinger = Threads(1, "database-ping")

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Self]:
        """Open the database and close it at the end; raise an error if it cannot be used."""
        # {% if cookiecutter.database == "sqlite" %}
        if settings.migrate_at_start and settings.database_url.startswith("sqlite"):
            await asyncio.to_thread(migrations.upgrade, settings)
        # {% endif %}
        database = cls(settings)
        try:
            await database.read(migrations.check)
            yield database
        finally:
            for threads in database._readers, database._writers, database._pinger:
                threads.close()
            database._engine.dispose()
            database._write_engine.dispose()

    async def read(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return `function(connection, *args, **kwargs)`; there is no transaction."""

        def read(connection: Connection) -> T:
            return _refuse_open_result(function(connection, *args, **kwargs))

        return await self._call(self._engine, self._readers, self._timeout, read)

    async def write(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return `function(connection, *args, **kwargs)`, called in one transaction.

        It is committed when the function returns, and rolled back when it raises an error.
        """

        def write(connection: Connection) -> T:
            with connection.begin():
                _begin(connection)
                result = _refuse_open_result(function(connection, *args, **kwargs))
                if seconds_left() <= 0:
                    raise DatabaseUnavailable("too slow")
                return result

        return await self._call(self._write_engine, self._writers, self._timeout, write)

    async def ping(self) -> None:
        """Return within a second if the database answers, even while many calls wait."""
        await self._call(self._engine, self._pinger, PING_TIMEOUT, lambda c: c.scalar(VERSION))

    async def _call(
        self, engine: Engine, threads: Threads, seconds: float, function: Callable[[Connection], T]
    ) -> T:
        def call() -> T:
            try:
                with engine.connect() as connection:
                    return function(connection)
            except exc.DBAPIError as error:
                if _is_mistake(error):
                    raise
                raise DatabaseUnavailable(str(error.orig)) from None

        return await threads.call(call, seconds, DatabaseUnavailable("too slow"))


async def _database(connection: HTTPConnection) -> Database:
    database: Database = connection.state.database
    return database


DatabaseDep = Annotated[Database, Depends(_database)]


async def _ping(database: DatabaseDep) -> None:
    await database.ping()


# Answer 503 while the database does not answer.
RequiresDatabase = Depends(_ping)


if __name__ == "__main__":  # python -m app.database
    migrations.main()
