"""How Alembic runs the migrations in versions/, on the command line and for `app.database.migrate`."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

import app.items.tables  # noqa: F401 - every module with tables is imported here
from app.database import Base, create_engine
from app.settings import Settings

# What makes one migration wait for another that has begun, by the kind of database. The number is
# any; it names the lock.
LOCK = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "SELECT pg_advisory_xact_lock(20240101)",
}


def create(file: Path) -> None:
    """See that there is a file, and that any user in group 0 can go on with it."""
    file.touch()  # or fail, where SQLite would only read
    with suppress(PermissionError):  # it is another user's, who has done this
        file.chmod(0o660)


def use_wal(connection: Connection) -> None:
    """Let readers not wait for a writer, nor it for them; SQLite remembers this in the file."""
    for _ in range(30):
        with suppress(OperationalError):
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            return
        time.sleep(0.1)  # another process does the same, and SQLite does not wait for that


def migrate(connection: Connection) -> None:
    """Run what is to be run, all of it in one transaction."""
    sqlite = connection.dialect.name == "sqlite"
    if sqlite:
        use_wal(connection)
    connection.exec_driver_sql(LOCK[connection.dialect.name])
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=sqlite)
    context.run_migrations()


async def main() -> None:
    """Connect, migrate, disconnect."""
    engine = create_engine(context.config.attributes.get("settings") or Settings())
    try:
        if engine.dialect.name == "sqlite":
            create(Path(str(engine.url.database)))
        async with engine.begin() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


asyncio.run(main())
