"""The database: its engine, what requests use it through, its schema, what is answered without it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from fastapi import Depends, Request, status
from fastapi.responses import JSONResponse
from sqlalchemy import BigInteger, Dialect, Numeric, TypeDecorator, event, exc, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeEngine

from app import errors, logs
from app.settings import Settings

# Imported where it is needed: to serve requests, it is not.
if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger("app.database")

# Where there is a schema, one row.
VERSION = text("SELECT version_num FROM alembic_version")


class Base(DeclarativeBase):
    """What every table derives from."""


class Money(TypeDecorator[Decimal]):
    """Hold a decimal with two places; in SQLite, which has no decimals, the number of hundredths."""

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type of the column."""
        return BigInteger() if dialect.name == "sqlite" else self.impl_instance

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Decimal | int | None:
        """Convert what is written."""
        return value if value is None or dialect.name != "sqlite" else int(value * 100)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """Convert what is read."""
        return value if value is None or dialect.name != "sqlite" else Decimal(value).scaleb(-2)


class State(TypedDict):
    """What the lifespan gives to requests."""

    engine: AsyncEngine
    # The same one; with PostgreSQL, each statement is by itself.
    reading: AsyncEngine
    # Seconds that a request may use the database for, all in all.
    timeout: float


def create_engine(settings: Settings) -> AsyncEngine:
    """Create the engine for `DATABASE_URL`; it connects when it is first used."""
    url = make_url(settings.database_url)
    # {% if cookiecutter.database == "postgresql" %}
    if password := _password(settings):
        url = url.set(password=password)
    if url.drivername in ("postgres", "postgresql"):  # as hosting platforms write it
        url = url.set(drivername="postgresql+psycopg")
    if url.password == SAMPLE_PASSWORD and not settings.development:
        raise ValueError("DATABASE_PASSWORD is the sample; set another one, or DEVELOPMENT=true")
    # {% endif %}
    sqlite = url.get_backend_name() == "sqlite"
    engine = create_async_engine(
        url,
        # Values may be secret; they are not logged with errors.
        hide_parameters=True,
        # A connection that the server has closed is replaced before it is used.
        pool_pre_ping=not sqlite,
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=settings.database_timeout,
        # For SQLite, how long to wait while another process writes.
        connect_args={"timeout" if sqlite else "connect_timeout": settings.database_timeout},
    )
    if sqlite:
        event.listen(engine.sync_engine, "connect", _check_foreign_keys)
    return engine


# {% if cookiecutter.database == "postgresql" %}
# As in .env.example.
SAMPLE_PASSWORD = "change-me"  # noqa: S105


def _password(settings: Settings) -> str:
    if settings.database_password_file:
        return Path(settings.database_password_file).read_text("utf-8").strip()
    return settings.database_password


# {% endif %}
def _check_foreign_keys(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _limits(request: Request) -> tuple[asyncio.Timeout, asyncio.Timeout]:
    """Return what ends a request's use of the database: the second does, and the first sees to it.

    psycopg takes ten seconds more to cancel a query on a server that is frozen.
    """
    seconds: float = request.state.timeout
    return asyncio.timeout(seconds + 1), asyncio.timeout(seconds)


async def _connection(request: Request) -> AsyncIterator[AsyncConnection]:
    reading: AsyncEngine = request.state.reading
    last, limit = _limits(request)
    try:
        async with last, limit, reading.connect() as connection:
            yield connection
    except TimeoutError as error:
        raise exc.TimeoutError("too slow") from error


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    engine: AsyncEngine = request.state.engine
    last, limit = _limits(request)
    try:
        async with last, limit, AsyncSession(engine, expire_on_commit=False) as session:
            yield session
    except TimeoutError as error:
        raise exc.TimeoutError("too slow") from error


# Both end before the answer is sent, so that an error at the end can still be told. Each takes a
# connection out of the pool: one of them for a request, never both, which could wait for each other.
# For what only reads: rows instead of objects, and no transaction. What is written here may be lost.
Reading = Annotated[AsyncConnection, Depends(_connection, scope="function")]
# For what writes, too: within `async with session.begin()`, and write first, then read, because SQLite
# does not let a transaction that has read wait for one that writes.
Session = Annotated[AsyncSession, Depends(_session, scope="function")]


async def _ping(connection: Reading) -> None:
    await connection.execute(text("SELECT 1"))


# For what needs nothing but that the database answers.
Reachable = Depends(_ping)


def alembic_config(settings: Settings) -> "Config":
    """Return how Alembic finds the migrations and, through them, the database."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["settings"] = settings
    return config


def migrate(settings: Settings) -> None:
    """Bring the database's schema up to date, or leave it as it is when anything fails.

    Two processes that do it at once wait for each other.
    """
    # It would log a line for each of its plug-ins.
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    from alembic import command

    command.upgrade(alembic_config(settings), "head")


async def unavailable(_: Request, error: Exception) -> JSONResponse:
    """Answer 503 when the database cannot be reached, is too slow, or is busy for too long."""
    log.error("the database is not available: %s", str(getattr(error, "orig", error)) or "too slow")
    return JSONResponse(
        {"detail": "Service Unavailable"},
        status.HTTP_503_SERVICE_UNAVAILABLE,
        {"Retry-After": "1"},
    )


errors.HANDLERS |= dict.fromkeys(
    (exc.OperationalError, exc.InterfaceError, exc.TimeoutError), unavailable
)


@asynccontextmanager
async def connect(settings: Settings) -> AsyncIterator[State]:
    """Open the database, after the fork, and close it."""
    # {% if cookiecutter.database == "sqlite" %}
    if settings.migrate_at_start:
        # In a thread, because Alembic runs a loop of its own.
        await asyncio.to_thread(migrate, settings)
    # {% endif %}
    engine = create_engine(settings)
    try:
        async with asyncio.timeout(settings.database_timeout), engine.connect() as connection:
            (await connection.execute(VERSION)).one()
        # SQLite begins no transaction to read.
        sqlite = engine.dialect.name == "sqlite"
        reading = engine if sqlite else engine.execution_options(isolation_level="AUTOCOMMIT")
        yield {"engine": engine, "reading": reading, "timeout": settings.database_timeout}
    finally:
        await engine.dispose()


if __name__ == "__main__":  # `python -m app.database`, as `make migrate` runs it
    logs.configure()
    migrate(Settings())
    log.info("the schema is up to date")
