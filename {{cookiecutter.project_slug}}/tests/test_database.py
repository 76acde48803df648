"""The database: its schema, units of work, and answers without it."""

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from fastapi import HTTPException
from fastapi.testclient import TestClient
from sqlalchemy import Connection, exc, text
from sqlalchemy.dialects import postgresql

from app import migrations
from app.database import Database, DatabaseDep, DatabaseUnavailable, UtcDateTime, create_engine
from app.main import create_app
from app.settings import Settings

ROOT = Path(__file__).parents[1]
LAMPS = sa.Table(
    "lamps",
    sa.MetaData(),
    sa.Column("lamp_id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(20)),
)
# Takes much longer than any test may.
ENDLESS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
    "postgresql": "SELECT pg_sleep(600)",
}


@pytest.fixture
def lamps(settings: Settings) -> Iterator[None]:
    """Make a table that does not depend on app/items, which may be deleted."""
    engine = create_engine(settings)
    LAMPS.create(engine)
    yield
    LAMPS.drop(engine)
    engine.dispose()


def create(connection: Connection, name: str) -> None:
    """Create a lamp."""
    connection.execute(sa.insert(LAMPS).values(name=name))


def names(connection: Connection) -> list[str]:
    """Return the names of the lamps."""
    return list(connection.scalars(sa.select(LAMPS.c.name)))


def run_endless(connection: Connection) -> None:
    """Ask for something that takes for ever."""
    connection.exec_driver_sql(ENDLESS[connection.dialect.name])


@asynccontextmanager
async def opened(settings: Settings, **changes: object) -> AsyncIterator[Database]:
    """Open the tests' database with other settings."""
    async with Database.open(settings.model_copy(update=changes)) as database:
        yield database


# The schema ---------------------------------------------------------------------------------------


@pytest.fixture
def alembic(settings: Settings) -> Iterator[Config]:
    """Return how Alembic finds the migrations; the schema is up to date again afterwards."""
    config = migrations.alembic_config(settings)
    yield config
    command.upgrade(config, "head")


def sample(column: sa.Column[Any]) -> object:
    """Return a value for `column`; every key is 1, so that rows refer to each other."""
    if isinstance(column.type, sa.Enum):
        return column.type.enums[0]
    if isinstance(column.type, sa.JSON):
        return {}
    values: dict[type, object] = {str: "1", bytes: b"1", bool: True, UUID: UUID(int=1), list: []}
    # SQLAlchemy does not know what some types are, such as an address of PostgreSQL.
    values |= {datetime: datetime.now(UTC), date: date.max, object: None}
    kind = column.type.python_type
    return values[kind] if kind in values else kind(1)


def fill(connection: Connection) -> dict[str, int]:
    """Empty each table and insert a row, if CHECKs accept it; return the number of rows of each."""
    metadata = sa.MetaData()
    metadata.reflect(connection)
    tables = [table for table in metadata.sorted_tables if table.name != "alembic_version"]
    for table in reversed(tables):
        connection.execute(table.delete())
    for table in tables:
        row = {column.name: sample(column) for column in table.columns if not column.computed}
        with suppress(exc.IntegrityError), connection.begin_nested():
            connection.execute(table.insert(), row)
    return rows(connection)


def rows(connection: Connection) -> dict[str, int]:
    """Count the rows of each table."""
    names = set(sa.inspect(connection).get_table_names()) - {"alembic_version"}
    return {n: connection.scalar(text(f'SELECT count(*) FROM "{n}"')) or 0 for n in names}


def test_models_and_migrations_agree(alembic: Config) -> None:
    command.check(alembic)


def test_each_migration_goes_up_and_down_and_loses_no_row(
    alembic: Config, settings: Settings
) -> None:
    """A table that is there before and after a migration has as many rows afterwards."""

    def count(do: Callable[[Connection], dict[str, int]]) -> dict[str, int]:
        engine = create_engine(settings)
        with engine.begin() as connection:
            counted = do(connection)
        engine.dispose()
        return counted

    def kept(before: dict[str, int], after: dict[str, int]) -> bool:
        return all(before[name] == after[name] for name in before.keys() & after.keys())

    command.downgrade(alembic, "base")
    for script in reversed(list(ScriptDirectory.from_config(alembic).walk_revisions())):
        before = count(fill)
        command.upgrade(alembic, script.revision)
        assert kept(before, count(rows))
        after = count(rows)
        previous = script.down_revision or "base"  # two, if it merges branches
        command.downgrade(alembic, previous if isinstance(previous, str) else previous[0])
        assert kept(after, count(rows))
        command.upgrade(alembic, script.revision)
    command.check(alembic)


def test_migrations_that_run_at_once_wait_for_each_other(alembic: Config) -> None:
    command.downgrade(alembic, "base")
    running = [
        subprocess.Popen([sys.executable, "-m", "app.database"], cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    command.check(alembic)


def test_the_command_ends_with_the_name_of_a_bad_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://app:s3cr3t@host/app")
    command = [sys.executable, "-m", "app.database"]
    done = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE)
    assert done.returncode == 1
    assert b'"message": "setting DATABASE_URL: Value error, must be ' in done.stdout
    assert b"Traceback" not in done.stdout


def test_an_older_version_starts_with_a_newer_schema(
    client: TestClient, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine(settings)
    before = text("UPDATE alembic_version SET version_num = :revision")
    with engine.begin() as connection:
        (newest,) = migrations.current(connection)
        connection.execute(before, {"revision": "newer"})
    try:
        done = subprocess.run([sys.executable, "-m", "app.database"], cwd=ROOT, check=False)
        assert done.returncode == 0
        with TestClient(create_app(settings)) as older:
            assert older.get("/readyz").status_code == 200
        assert migrations.NEWER in caplog.messages
    finally:
        with engine.begin() as connection:
            connection.execute(before, {"revision": newest})
        engine.dispose()


@pytest.mark.parametrize("kind", [UtcDateTime(), sa.DateTime(timezone=True)], ids=["ours", "usual"])
def test_a_datetime_is_aware_and_utc(
    kind: sa.types.TypeEngine[datetime], settings: Settings
) -> None:
    table = sa.Table("times", sa.MetaData(), sa.Column("at", kind), prefixes=["TEMPORARY"])
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    engine = create_engine(settings)
    with engine.connect() as connection:
        table.create(connection)
        elsewhere = noon.astimezone(timezone(timedelta(hours=5)))
        connection.execute(table.insert(), {"at": elsewhere})
        read = connection.execute(table.select()).scalar_one()
        with pytest.raises(exc.StatementError, match="needs a time zone"):
            connection.execute(table.insert(), {"at": datetime(2026, 1, 1)})  # noqa: DTZ001 - refused
        connection.rollback()
    engine.dispose()

    assert (read, read.utcoffset()) == (noon, timedelta())


def test_a_datetime_takes_intervals_and_variants() -> None:
    kind = postgresql.TIMESTAMP(timezone=True, precision=3)
    either = sa.DateTime(timezone=True).with_variant(kind, "postgresql")
    column = sa.Column("at", sa.DateTime(timezone=True))
    table = sa.Table("times", sa.MetaData(), column, sa.Column("exact", either))
    assert isinstance((column + timedelta(hours=1)).right.type, sa.Interval)
    created = str(sa.schema.CreateTable(table).compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
    assert "TIMESTAMP(3) WITH TIME ZONE" in created


# Units of work ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("lamps")
def test_a_write_is_kept_when_it_returns_and_undone_when_it_fails(settings: Settings) -> None:
    def create_and_fail(connection: Connection) -> None:
        create(connection, "undone")
        raise HTTPException(409)

    async def scenario() -> list[str]:
        # The only connection has no transaction left over.
        async with opened(settings, database_pool_size=1) as database:
            for _ in range(2):
                with pytest.raises(HTTPException):
                    await database.write(create_and_fail)
                await database.write(create, "kept")
            return await database.read(names)

    assert asyncio.run(scenario()) == ["kept", "kept"]


@pytest.mark.usefixtures("lamps")
def test_a_write_that_goes_on_after_a_failed_statement_is_kept_or_fails(settings: Settings) -> None:
    """PostgreSQL would answer the commit of such a transaction with a silent rollback."""

    def create_twice(connection: Connection) -> None:
        for _ in range(2):
            with suppress(exc.IntegrityError):
                connection.execute(sa.insert(LAMPS).values(lamp_id=1, name="twice"))

    async def scenario() -> None:
        async with opened(settings) as database:
            try:
                await database.write(create_twice)
            except exc.InternalError as error:
                assert "begin_nested" in str(error)  # noqa: PT017 - SQLite raises none
            else:
                assert await database.read(names) == ["twice"]

    asyncio.run(scenario())


@pytest.mark.usefixtures("lamps")
def test_a_result_that_would_be_read_later_is_refused(settings: Settings) -> None:
    async def scenario() -> None:
        async with opened(settings) as database:
            for call in database.read, database.write:
                for query in sa.select(LAMPS), sa.delete(LAMPS).returning(LAMPS):
                    for read in Connection.execute, Connection.scalars:
                        with pytest.raises(TypeError, match="return rows"):
                            await call(read, query)
            await database.write(Connection.execute, sa.delete(LAMPS))

    asyncio.run(scenario())


@pytest.mark.usefixtures("lamps")
def test_a_write_waits_while_another_process_writes(settings: Settings) -> None:
    async def scenario() -> None:
        async with opened(settings) as database:
            with locked(settings):
                write = asyncio.create_task(database.write(create, "Lamp"))
                await asyncio.sleep(0.5)
                assert not write.done()
            await write

    asyncio.run(scenario())


def test_context_variables_reach_the_thread(settings: Settings) -> None:
    request_id = ContextVar("request_id", default="")

    async def scenario() -> str:
        async with opened(settings) as database:
            request_id.set("42")
            return await database.read(lambda _: request_id.get())

    assert asyncio.run(scenario()) == "42"


@pytest.mark.usefixtures("lamps")
def test_a_statement_that_takes_too_long_is_ended(settings: Settings) -> None:
    """Its thread and its connection are free again, and so are its locks."""

    async def scenario() -> None:
        async with opened(settings, database_pool_size=1, database_timeout=1) as database:
            for call in database.read, database.write:
                with pytest.raises(DatabaseUnavailable):
                    await call(run_endless)
                await asyncio.sleep(1)
                await database.write(create, "Lamp")

    asyncio.run(scenario())


@pytest.mark.usefixtures("lamps")
def test_short_statements_that_take_too_long_are_ended(settings: Settings) -> None:
    ended = 0.0

    def create_many(connection: Connection) -> None:
        nonlocal ended
        try:
            while time.monotonic() < begin + 10:
                create(connection, "undone")
        finally:
            ended = time.monotonic() - begin

    async def scenario() -> None:
        async with opened(settings, database_timeout=1) as database:
            with pytest.raises(DatabaseUnavailable):
                await database.write(create_many)

    begin = time.monotonic()
    asyncio.run(scenario())
    assert ended < 5


@pytest.mark.usefixtures("lamps")
def test_waiting_for_a_thread_counts_and_ping_does_not_wait(settings: Settings) -> None:
    async def scenario() -> list[object]:
        async with opened(settings, database_pool_size=1, database_timeout=1) as database:
            calls = [database.read(lambda _: time.sleep(2)), database.read(names)]
            running = [asyncio.create_task(call) for call in calls]
            await asyncio.sleep(0.1)
            await database.ping()
            assert not any(call.done() for call in running)
            return list(await asyncio.gather(*running, return_exceptions=True))

    assert [type(result) for result in asyncio.run(scenario())] == [DatabaseUnavailable] * 2


# Answers ------------------------------------------------------------------------------------------


def test_without_the_database_it_does_not_start(settings: Settings) -> None:
    url = sa.make_url(settings.database_url)
    url = url.set(port=1) if url.host else url.set(database="/no/such/folder/service.db")
    away = settings.model_copy(update={"database_url": url.render_as_string(False)})
    with pytest.raises((OSError, DatabaseUnavailable)), TestClient(create_app(away)):
        pass


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Keep the database from writing lamps."""
    lock = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "LOCK TABLE lamps"}
    engine = create_engine(settings)
    with engine.connect() as connection:
        connection.exec_driver_sql(lock[engine.dialect.name])
        yield
    engine.dispose()


@pytest.mark.usefixtures("lamps")
def test_a_late_call_of_the_database_is_answered_with_503(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(settings.model_copy(update={"database_timeout": 1}))

    @app.post("/lamps", status_code=201)
    async def create_lamp(database: DatabaseDep) -> None:
        await database.write(create, "Lamp")

    @app.get("/lamps")
    async def list_lamps(database: DatabaseDep) -> list[str]:
        return await database.read(names)

    with TestClient(app) as impatient:
        with locked(settings):
            answer = impatient.post("/lamps")
            assert answer.status_code == 503
            assert answer.json()["code"] == "database_unavailable"
            assert answer.headers["retry-after"] == "1"
        assert impatient.post("/lamps").status_code == 201
        assert impatient.get("/lamps").json() == ["Lamp"]
        assert impatient.get("/readyz").status_code == 200
    (error,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    assert error.getMessage().startswith("database_unavailable: ")


def fail_in_sql(connection: Connection) -> None:
    """Ask for a column that does not exist."""
    connection.exec_driver_sql("SELECT nothing FROM alembic_version")


def fail_in_syntax(connection: Connection) -> None:
    """Ask for nonsense."""
    connection.exec_driver_sql("SELEC 1")


def fail_in_state(connection: Connection) -> None:
    """Ask for the last value of a sequence that was not used; SQLite lacks the function."""
    connection.exec_driver_sql("SELECT lastval()")


def time_out(_: Connection) -> None:
    """Fail as a call of another service does."""
    raise TimeoutError


@pytest.mark.parametrize("function", [fail_in_sql, fail_in_syntax, fail_in_state, time_out])
def test_a_mistake_is_answered_500_and_logged(
    function: Callable[[Connection], None],
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = create_app(settings)

    @app.get("/mistake")
    async def mistake(database: DatabaseDep) -> None:
        await database.read(function)

    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/mistake").status_code == 500
    assert "Traceback" in caplog.text


# A traceback shows the source, so its lines name it.
SECRET = "s3cr3t"


def wrong_value(connection: Connection) -> None:
    """Compare a number with a text."""
    connection.execute(text("SELECT CAST(:value AS INTEGER)"), {"value": f'{SECRET} "a"\nb'})


def duplicate(connection: Connection) -> None:
    """Insert a value twice where it must be unique."""
    connection.exec_driver_sql("CREATE TEMPORARY TABLE people (email VARCHAR UNIQUE)")
    insert = text("INSERT INTO people VALUES (:email)")
    connection.execute(insert, [{"email": SECRET}, {"email": SECRET}])


@pytest.mark.parametrize("function", [wrong_value, duplicate])
def test_no_error_and_no_log_shows_a_value(
    function: Callable[[Connection], None], settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(settings)

    @app.get("/mistake")
    async def mistake(database: DatabaseDep) -> None:
        await database.write(function)

    caplog.set_level(logging.DEBUG)
    with TestClient(app, raise_server_exceptions=False) as client:
        client.get("/mistake")
    assert "GET /mistake" in caplog.text
    assert SECRET not in caplog.text
# {% if cookiecutter.database == "sqlite" %}


def test_sqlite_checks_foreign_keys_and_keeps_acknowledged_writes(settings: Settings) -> None:
    names = ("foreign_keys", "journal_mode", "synchronous", "temp_store")

    def pragmas(connection: Connection) -> list[object]:
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

    async def scenario() -> list[object]:
        async with opened(settings) as database:
            return await database.write(pragmas)

    if settings.database_url.startswith("sqlite"):
        # FULL (2): acknowledged writes survive a power failure. MEMORY (2): no temporary folder.
        assert asyncio.run(scenario()) == [1, "wal", 2, 2]


def test_the_file_may_be_written_by_its_group_and_is_no_link(tmp_path: Path) -> None:
    file, link = tmp_path / "service.db", tmp_path / "link.db"
    file.touch(0o644)
    link.symlink_to(file)
    migrations.upgrade(Settings.model_construct(database_url=f"sqlite:///{file.as_posix()}"))
    assert file.stat().st_mode & 0o777 == 0o660
    with pytest.raises(OSError, match=r"link\.db"):
        migrations.upgrade(Settings.model_construct(database_url=f"sqlite:///{link.as_posix()}"))


@pytest.mark.parametrize("rest", ["", "/", "/:memory:", "/file:service.db?uri=true", "host/a.db"])
def test_a_url_without_a_file_is_refused(rest: str) -> None:
    with pytest.raises(ValueError, match="must be sqlite:///FILE "):
        Settings(database_url=f"sqlite://{rest}")
# {% endif %}
