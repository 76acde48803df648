"""Migrations of SQLite, which cannot alter a column.

Alembic copies the table, drops it and gives the copy its name. This module restores the parts that
Alembic forgets, or refuses the migration. You need not change it: `cruft update` keeps it current.
"""

import logging
import os
import re
import shutil
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, event, inspect, text
from sqlalchemy.pool import NullPool
from sqlalchemy.util import find_matching_paren

from app import database
from app.settings import Settings

log = logging.getLogger("app.migrations")

COPY = "_alembic_tmp_"
# Types whose values must survive a change of a column's type.
CHECKED = sa.String, sa.Integer, sa.Numeric, sa.Float, sa.Boolean, sa.Date
# Parts of a table that Alembic does not copy.
NOT_COPIED = {"AUTOINCREMENT", "COLLATE", "CONFLICT", "DESC"}
DEFERRABLE = r"REFERENCES\b[^,]*(?<!NOT )DEFERRABLE(?:\s+INITIALLY\s+(\w+))?"


def create_engine(settings: Settings) -> sa.Engine:
    """Create an engine to migrate with; raise OSError if its file cannot be written."""
    _create_file(_file(settings))
    # A short time-out, so that a signal can end the wait.
    engine = database.create_engine(settings, poolclass=NullPool, connect_args={"timeout": 0.1})
    # SQLAlchemy's hook for dialects, which its types do not declare.
    engine.dialect.inspector = _Inspector  # type: ignore[attr-defined]
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    event.listen(engine, "before_execute", _copy_without_casts, retval=True)
    event.listen(engine, "before_cursor_execute", _save_triggers)
    event.listen(engine, "after_cursor_execute", _restore_triggers)
    return engine


def copy_file(command: str) -> None:
    """Run `python -m app.database backup >FILE` or `python -m app.database restore <FILE`."""
    try:
        file = _file(Settings())
        with TemporaryDirectory(dir=file.parent) as folder:
            copy = Path(folder, "copy")
            if command == "backup":
                _backup(file, copy)
                with copy.open("rb") as source:
                    shutil.copyfileobj(source, sys.stdout.buffer)
            else:
                with copy.open("wb") as target:
                    shutil.copyfileobj(sys.stdin.buffer, target)
                _restore(file, copy)
    except (ValueError, OSError, sqlite3.Error) as error:
        sys.exit(f"{command}: {error}")


def _backup(file: Path, copy: Path) -> None:
    """Copy the database; other processes may use it meanwhile."""
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))


def _restore(file: Path, copy: Path) -> None:
    """Replace the whole database by `copy`, unless that is empty or damaged."""
    _create_file(file)
    with closing(sqlite3.connect(copy)) as new, closing(sqlite3.connect(file)) as old:
        new.execute("SELECT 1 FROM alembic_version")
        if new.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            raise ValueError("the copy is damaged")
        new.backup(old)


def _file(settings: Settings) -> Path:
    return Path(str(sa.make_url(settings.database_url).database))


def _create_file(file: Path) -> None:
    """Create the file if there is none, and let group 0 write it; follow no link."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(file, flags, 0o660)
    try:
        if os.fstat(descriptor).st_mode & 0o777 != 0o660 and hasattr(os, "fchmod"):
            os.fchmod(descriptor, 0o660)
    except PermissionError:
        pass  # another user owns the file, and has set its mode
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


def _schema(connection: Any, table: str) -> dict[tuple[str, str], str]:
    """Return the SQL of a table, its indexes and triggers, by their type and name."""
    sql = "SELECT type, name, sql FROM sqlite_master WHERE lower(tbl_name) = ? AND sql IS NOT NULL"
    rows = connection.exec_driver_sql(sql, (table.lower(),))
    return {(kind, name): str(sql) for kind, name, sql in rows}


def _table_sql(connection: Any, table: str) -> str:
    return next(
        (sql for (kind, _), sql in _schema(connection, table).items() if kind == "table"), ""
    )


def _columns(connection: Connection, table: str) -> set[str]:
    sql = "SELECT lower(name) FROM pragma_table_xinfo(?)"
    return {*connection.exec_driver_sql(sql, (table,)).scalars()}


def _find(pattern: str, column: str, sql: str) -> re.Match[str] | None:
    """Find `pattern` in the definition of a column."""
    name = rf'(?<!\w){re.escape(column)}["`\]]?\s'
    any_of_it = r"(?:[^,()]|\((?:[^()]|\([^()]*\))*\))*?"
    return re.search(rf"{name}{any_of_it}\b{pattern}", sql, re.IGNORECASE)


class _Inspector(sa.Inspector):
    """Reflects parts of a table that SQLAlchemy's inspector omits or changes."""

    def _pragma(self, name: str, argument: str) -> Any:
        bind: Any = self.bind
        return bind.exec_driver_sql(f"SELECT * FROM pragma_{name}(?)", (argument,)).all()  # noqa: S608 - names of this database

    def get_multi_columns(self, *args: Any, **options: Any) -> Any:
        """Return columns; SQLAlchemy may find the expression of another generated column."""
        found: Any = super().get_multi_columns(*args, **options)
        for (_, table), columns in found.items():
            sql = _table_sql(self.bind, table)
            for column in columns:
                if column["default"]:
                    column["default"] = _literal(column["default"])
                if begin := "computed" in column and _find(r"AS\s*\(", column["name"], sql):
                    expression = sql[begin.end() : find_matching_paren(sql, begin.end() - 1)]
                    column["computed"]["sqltext"] = _literal(expression)
        return found

    def get_multi_foreign_keys(self, *args: Any, **options: Any) -> Any:
        """Return foreign keys; SQLAlchemy omits ON DELETE if it is written after a column."""
        found: Any = super().get_multi_foreign_keys(*args, **options)
        for (_, table), keys in found.items():
            rows = self._pragma("foreign_key_list", table)
            for _, _, parent, column, _, update, delete, _ in rows:
                deferrable = _find(DEFERRABLE, column, _table_sql(self.bind, table))
                for key in keys:
                    if (key["referred_table"], key["constrained_columns"][0]) == (parent, column):
                        actions = {"onupdate": update, "ondelete": delete}
                        key["options"] |= {n: a for n, a in actions.items() if a != "NO ACTION"}
                        if deferrable:
                            key["options"] |= {"deferrable": True, "initially": deferrable[1]}
        return found

    def get_multi_unique_constraints(self, *args: Any, **options: Any) -> Any:
        """Return unique constraints; SQLAlchemy omits those after a type such as VARCHAR(9)."""
        found: Any = super().get_multi_unique_constraints(*args, **options)
        for (_, table), constraints in found.items():
            for _, index, _, origin, _ in self._pragma("index_list", table):
                columns = [row[2] for row in self._pragma("index_info", index)]
                if origin == "u" and columns not in [one["column_names"] for one in constraints]:
                    constraints.append({"name": None, "column_names": columns})
        return found

    def get_multi_check_constraints(self, *args: Any, **options: Any) -> Any:
        """Return CHECK constraints."""
        found: Any = super().get_multi_check_constraints(*args, **options)
        for constraints in found.values():
            for constraint in constraints:
                constraint["sqltext"] = _literal(constraint["sqltext"])
        return found

    def get_multi_indexes(self, *args: Any, **options: Any) -> Any:
        """Return indexes; SQLAlchemy reads the first line of a condition."""
        found: Any = super().get_multi_indexes(*args, **options)
        for (_, table), indexes in found.items():
            for index in indexes:
                if "sqlite_where" in index["dialect_options"]:
                    sql = _schema(self.bind, table)["index", index["name"]]
                    where = re.split(r"\)\s*WHERE\b", sql, maxsplit=1, flags=re.IGNORECASE)[1]
                    index["dialect_options"]["sqlite_where"] = text(_literal(where.strip()))
        return found


def _literal(sql: str) -> str:
    """Keep SQLAlchemy from taking a word after a colon for a parameter, as in '{"a":1}'."""
    return sql.replace(":", r"\:")


def _copy_without_casts(
    connection: Connection, statement: Any, values: Any, parameters: Any, _: object
) -> Any:
    """Copy each value as it is, and none of generated columns, which SQLite refuses.

    Alembic's casts would turn '2026-01-31' into 2026, and 'many' into 0.
    """
    if isinstance(statement, sa.Insert) and statement.table.name.startswith(COPY):
        table: Any = statement.table
        query: Any = statement.select
        copied = {k: c for k, c in query.selected_columns.items() if not table.c[k].computed}
        for name, value in copied.items():
            if not isinstance(value, sa.Cast) or isinstance(value.type, sa.LargeBinary):
                continue
            old, kind = value.clause, value.type
            copied[name] = value if isinstance(kind, sa.String) else old
            lossy: Any = (value != old) & (sa.func.typeof(old) != "blob")
            if isinstance(kind, sa.Date):
                copied[name] = day = sa.func.substr(old, 1, 10)
                lossy = sa.func.coalesce(sa.func.date(day), "") != day
            count = sa.select(sa.func.count()).where(lossy)
            if isinstance(kind, CHECKED) and connection.scalar(count):
                raise ValueError(f"column {name} has values that are no {kind}")
        query = query.with_only_columns(*copied.values())
        statement = sa.insert(table).inline().from_select(list(copied), query)
    return statement, values, parameters


def _save_triggers(connection: Connection, _: object, statement: str, *__: object) -> None:
    if dropped := re.match(r'\s*DROP TABLE "?([^"]+?)"?\s*$', statement):
        table = dropped[1]
        if _schema(connection, f"{COPY}{table}"[:50]):
            if ("table", table) not in _schema(connection, table):
                raise ValueError(f"the database writes the name of table {table} in another case")
            rebuilt = connection.info.setdefault("rebuilt", {})
            rebuilt.setdefault(table, (_schema(connection, table), _columns(connection, table)))
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


def _restore_triggers(connection: Connection, _: object, statement: str, *__: object) -> None:
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
    """Return the highest id that an AUTOINCREMENT table has used, else None."""
    if not inspect(connection).has_table("sqlite_sequence"):
        return None
    sql = "SELECT seq FROM sqlite_sequence WHERE lower(name) = ?"
    return connection.exec_driver_sql(sql, (table.lower(),)).scalar()


@event.listens_for(sa.Table, "column_reflect")
def _keep_autoincrement(inspector: Any, table: sa.Table, _: object) -> None:
    connection = inspector.bind
    sql = _table_sql(connection, table.name) if connection.dialect.name == "sqlite" else ""
    if "AUTOINCREMENT" in sql.upper():
        table.kwargs["sqlite_autoincrement"] = True


def verify(connection: Connection) -> None:
    """Raise ValueError if a migration has lost something that the database promises."""
    for table, _, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        raise ValueError(f"rows of {table} would refer to rows of {parent} that do not exist")
    rebuilt = connection.info.pop("rebuilt", {})
    for table, (before, _) in rebuilt.items():
        after = _schema(connection, table)
        for key, sql in before.items():
            lost = _words(sql) - _words(after.get(key, sql))
            if lost:
                raise ValueError(f"a copy of {key[0]} {key[1]} would lose {', '.join(lost)}")
    lost_columns = [old - _columns(connection, table) for table, (_, old) in rebuilt.items()]
    _check_names(connection, set().union(*lost_columns), rebuilt)


def _check_names(connection: Connection, lost: set[str], rebuilt: dict[str, Any]) -> None:
    """Raise an error if a view, trigger, index or CHECK refers to a column that is gone.

    SQLite checks most names when a column is renamed. A name in double quotes without a column is a
    text for SQLite, which then writes it in single quotes.
    """
    every = "SELECT type || name, name, sql FROM sqlite_master WHERE sql IS NOT NULL"
    before = connection.exec_driver_sql(every).all()
    with connection.begin_nested() as savepoint:
        connection.exec_driver_sql("CREATE TABLE _check_names (x)")
        connection.exec_driver_sql("ALTER TABLE _check_names RENAME COLUMN x TO y")
        after = {key: sql for key, _, sql in connection.exec_driver_sql(every)}
        savepoint.rollback()
    gone = {
        (column, name)
        for key, name, sql in before
        for column in _quoted(sql) - _quoted(after[key])
        if column.lower() in lost
    }
    triggers = "SELECT tbl_name, name, sql FROM sqlite_master WHERE type = 'trigger'"
    for table, name, sql in connection.exec_driver_sql(triggers).all():
        named = any(re.search(rf"\b{re.escape(one)}\b", sql, re.IGNORECASE) for one in rebuilt)
        if not named or not _table_sql(connection, table):
            continue  # a trigger of other tables, or of a view
        info = connection.exec_driver_sql("SELECT name FROM pragma_table_info(?)", (table,))
        columns = {column.lower() for column in info.scalars()}
        if of := re.search(r"\bUPDATE\s+OF\s+(.+?)\s+ON\b", sql, re.IGNORECASE | re.DOTALL):
            names = re.findall(r'[^\s,"`\[\]]+', of[1])
            gone |= {(column, name) for column in names if column.lower() in lost - columns}
        # SQLite checks the columns that a trigger sets when a statement is prepared.
        values = ", ".join(f'"{column}" = NULL' for column in columns)
        update = 'UPDATE "{}" SET ' + values  # noqa: S608 - names of this database
        for what in 'INSERT INTO "{}" DEFAULT VALUES', 'DELETE FROM "{}"', update:
            connection.exec_driver_sql("EXPLAIN " + what.format(table))
    for column, name in gone:
        raise ValueError(f"{name} would refer to the column {column}, which is gone")


def _quoted(sql: str) -> Counter[str]:
    return Counter(re.findall(r'"(\w+)"', sql))


def _words(sql: str) -> Counter[str]:
    words = re.findall(r"\w+", sql.upper())
    return Counter(word for word in words if word in NOT_COPIED)
