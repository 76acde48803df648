"""List the migrations, and run them.

Alembic takes 10 MiB of memory, so it is imported only to run one.
"""

import logging
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from sqlalchemy import Connection, inspect, text
from sqlalchemy.pool import NullPool

from app import logs
from app.settings import Settings

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger("app.migrations")

FOLDER = Path(__file__).parent
NEWER = "a newer version of the service has changed the schema; it is left as it is"
# An arbitrary number, which names the lock.
LOCK = text("SELECT pg_try_advisory_xact_lock(20240101)")


def revisions() -> tuple[set[str], set[str]]:
    """Return the revisions of all migrations, and of the newest: those that no other follows."""
    every, followed = set[str](), set[str]()
    for file in (FOLDER / "versions").glob("*.py"):
        revision = r"^(down_)?revision\b[^=\n]*=\s*([(\[][^)\]]*|.+)"  # a merge may fill lines
        for down, value in re.findall(revision, file.read_text("utf-8"), re.MULTILINE):
            (followed if down else every).update(re.findall(r"[\"']([^\"']+)", value))
    return every, every - followed


def current(connection: Connection) -> set[str]:
    """Return the revision that the schema has; none in a new database."""
    if not inspect(connection).has_table("alembic_version"):
        return set()
    return set(connection.scalars(text("SELECT version_num FROM alembic_version")))


def check(connection: Connection) -> None:
    """Log a warning if the schema is not the one of this image; raise LookupError if there is none."""
    found = current(connection)
    every, newest = revisions()
    if not found:
        raise LookupError("the database has no tables yet: run python -m app.database")
    if found - every:
        log.warning(NEWER)
    elif found != newest:
        old = " and ".join(sorted(found))
        log.warning("the schema is at revision %s, an old one: run python -m app.database", old)


@contextmanager
def connect(settings: Settings) -> Iterator[Connection]:
    """Yield a connection to migrate with, when no other process does that."""
    from app import database
    # {% if cookiecutter.database == "sqlite" %}
    from app.migrations import sqlite

    if settings.database_url.startswith("sqlite"):
        engine = sqlite.create_engine(settings)
        with engine.begin() as connection:
            yield connection
        return
    # {% endif %}

    engine = database.create_engine(settings, poolclass=NullPool)
    with engine.connect() as lock, engine.connect() as connection:
        # Poll: a statement that waits for the lock would block CREATE INDEX CONCURRENTLY.
        while not lock.scalar(LOCK):
            lock.rollback()
            time.sleep(0.2)
        yield connection


def alembic_config(settings: Settings, connection: Connection | None = None) -> "Config":
    """Return how Alembic finds the migrations and, through them, the database."""
    # Alembic would log a line for each of its plug-ins when it is imported.
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    from alembic.config import Config

    config = Config(attributes={"settings": settings, "connection": connection})
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config


def upgrade(settings: Settings) -> bool:
    """Bring the schema up to date, or leave it as it was when anything fails.

    Returns false where a newer version of the service has changed it: it is left as it is.
    """
    with connect(settings) as connection:
        found = current(connection)
        every, newest = revisions()
        if found - every:
            return False
        if found != newest:
            config = alembic_config(settings, connection)
            from alembic import command

            command.upgrade(config, "head")
    return True


def downgrade(settings: Settings, revision: str) -> None:
    """Undo the migrations after `revision`, and lose the data that they added."""
    config = alembic_config(settings)
    from alembic import command

    command.downgrade(config, revision)


def main() -> None:
    """Run a command of `python -m app.database`; without a command, migrate."""
    # {% if cookiecutter.database == "sqlite" %}
    if sys.argv[1:] in (["backup"], ["restore"]):
        from app.migrations import sqlite

        sqlite.copy_file(sys.argv[1])
        return
    # {% endif %}
    logs.configure()
    # The first process of a container ignores SIGTERM, unless it has a handler.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        match sys.argv[1:]:
            case []:
                if upgrade(Settings()):
                    log.info("the schema is up to date")
                else:
                    log.warning(NEWER)
            case ["downgrade", revision]:
                downgrade(Settings(), revision)
            case _:
                sys.exit("usage: python -m app.database [downgrade REVISION]; DATABASE.md has more")
    except ValidationError as error:  # of the settings; a validator of all of them gives no name
        for problem in error.errors():
            name = "".join(f" {field}" for field in problem["loc"][:1]).upper()
            log.critical("setting%s: %s", name, problem["msg"])
        sys.exit(1)
    except KeyboardInterrupt:
        log.error("stopped; the schema is as it was")
        sys.exit(143)
