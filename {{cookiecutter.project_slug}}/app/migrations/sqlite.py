"""Migrations of SQLite, which cannot alter a column.

Alembic copies the table, drops it and gives the copy its name. This module restores the parts that
Alembic forgets, or refuses the migration.
"""

import logging
import os
import re
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, event, inspect, make_url
from sqlalchemy.pool import NullPool

from app import database
from app.settings import Settings

log = logging.getLogger("app.migrations")

COPY = "_alembic_tmp_"
# Parts of a table that Alembic does not copy.
FORGOTTEN = {"AUTOINCREMENT", "COLLATE", "CONFLICT", "DESC", "GENERATED", "WHERE"}


def create_engine(settings: Settings) -> Engine:
    """Create an engine to migrate with; raise OSError if its file cannot be written."""
    _create_file(Path(str(make_url(settings.database_url).database)))
    # A short time-out, so that a signal can end the wait.
    engine = database.create_engine(settings, poolclass=NullPool, connect_args={"timeout": 0.1})
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    event.listen(engine, "before_cursor_execute", _before)
    event.listen(engine, "after_cursor_execute", _after)
    return engine


def _create_file(file: Path) -> None:
    """Create the file if there is none, and let group 0 write it; follow no link."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(file, flags, 0o660)
    try:
        if os.fstat(descriptor).st_mode & 0o777 != 0o660 and hasattr(os, "fchmod"):
            os.fchmod(descriptor, 0o660)
    except PermissionError:
        pass  # it belongs to another user, who has set its mode
    finally:
        os.close(descriptor)


def _execute(connection: sqlite3.Connection, statement: str) -> None:
    """Execute `statement`, as soon as no other process writes."""
    waiting = False
    while True:
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            if not waiting:
                log.info("waiting for another process that writes to the database")
            waiting = True
        else:
            return


def _set_up(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # nobody else begins transactions
    # Readers and the writer do not wait for each other; the file remembers this.
    _execute(connection, "PRAGMA journal_mode = WAL")
    # Dropping the original of a copied table would delete the rows that refer to it.
    connection.execute("PRAGMA foreign_keys = OFF")


def _begin(connection: Connection) -> None:
    driver: Any = connection.connection.driver_connection
    if not driver.in_transaction:
        _execute(driver, "BEGIN IMMEDIATE")


def _schema(connection: Connection, table: str) -> dict[tuple[str, str], str]:
    """Return the SQL of a table, its indexes and triggers, by their type and name."""
    sql = "SELECT type, name, sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL"
    rows = connection.exec_driver_sql(sql, (table,))
    return {(kind, name): str(sql) for kind, name, sql in rows}


def _before(connection: Connection, _: object, statement: str, *__: object) -> None:
    if dropped := re.match(r'\s*DROP TABLE "?([^"]+?)"?\s*$', statement):
        table = dropped[1]
        if _schema(connection, f"{COPY}{table}"[:50]):
            rebuilt = connection.info.setdefault("rebuilt", {})
            rebuilt.setdefault(table, _schema(connection, table))
            reflected = {index["name"] for index in inspect(connection).get_indexes(table)}
            kept = [
                sql
                for (kind, name), sql in _schema(connection, table).items()
                if kind == "trigger" or (kind == "index" and name not in reflected)
            ]
            connection.info["kept"] = kept, _last_id(connection, table)
    elif re.match(rf'\s*ALTER TABLE "?{COPY}', statement):
        # Views and triggers refer to the original, which does not exist now.
        connection.exec_driver_sql("PRAGMA legacy_alter_table = ON")


def _after(connection: Connection, _: object, statement: str, *__: object) -> None:
    if renamed := re.match(rf'\s*ALTER TABLE "?{COPY}.+ RENAME TO "?([^"]+?)"?\s*$', statement):
        connection.exec_driver_sql("PRAGMA legacy_alter_table = OFF")
        kept, last_id = connection.info.pop("kept")
        for sql in kept:
            connection.exec_driver_sql(sql)
        if last_id is not None:
            connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (renamed[1],))
            values = (renamed[1], last_id)
            connection.exec_driver_sql("INSERT INTO sqlite_sequence VALUES (?, ?)", values)


def _last_id(connection: Connection, table: str) -> int | None:
    """Return the highest id that was ever given, where ids are not given twice."""
    if not inspect(connection).has_table("sqlite_sequence"):
        return None
    sql = "SELECT seq FROM sqlite_sequence WHERE name = ?"
    return connection.exec_driver_sql(sql, (table,)).scalar()


@event.listens_for(Table, "column_reflect")
def _keep_autoincrement(inspector: Any, table: Table, _: object) -> None:
    if inspector.bind.dialect.name == "sqlite":
        (sql, *_rest) = _schema(inspector.bind, table.name).values()
        if "AUTOINCREMENT" in sql.upper():
            table.kwargs["sqlite_autoincrement"] = True


def verify(connection: Connection) -> None:
    """Raise ValueError if a migration has lost something that the database promises."""
    for table, _, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        raise ValueError(f"rows of {table} would refer to rows of {parent} that do not exist")
    for table, before in connection.info.pop("rebuilt", {}).items():
        after = _schema(connection, table)
        for key, sql in before.items():
            lost = _words(sql) - _words(after.get(key, sql))
            if lost:
                raise ValueError(f"a copy of {key[0]} {key[1]} would lose {', '.join(lost)}")
    # SQLite checks all views and triggers when a table is renamed.
    connection.exec_driver_sql("CREATE TABLE _check_views (x)")
    connection.exec_driver_sql("ALTER TABLE _check_views RENAME TO _check_triggers")
    connection.exec_driver_sql("DROP TABLE _check_triggers")


def _words(sql: str) -> Counter[str]:
    words = re.findall(r"\w+", sql.upper())
    return Counter(word for word in words if word in FORGOTTEN)
