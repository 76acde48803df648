"""The database: its schema, what it refuses, what is answered without it."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from fastapi import HTTPException
from fastapi.testclient import TestClient
from sqlalchemy import exc, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app import database
from app.items import tables
from app.main import create_app
from app.settings import Settings

ROOT = Path(__file__).parents[1]
LAMP = {"name": "Lamp", "price": 1}


@pytest.fixture
def alembic(settings: Settings) -> Iterator[Config]:
    """Return how Alembic finds the migrations; the schema is up to date again afterwards."""
    config = database.alembic_config(settings)
    yield config
    command.upgrade(config, "head")


def test_models_and_migrations_agree(alembic: Config) -> None:
    command.check(alembic)


def test_each_migration_goes_up_and_down_and_up_again(alembic: Config) -> None:
    command.downgrade(alembic, "base")
    while True:
        try:
            command.upgrade(alembic, "+1")
        except CommandError:  # there are no more
            break
        command.downgrade(alembic, "-1")
        command.upgrade(alembic, "+1")
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


def test_without_the_database_it_does_not_start(settings: Settings) -> None:
    url = make_url(settings.database_url)
    url = url.set(port=1) if url.host else url.set(database="/no/such/folder/service.db")
    away = settings.model_copy(update={"database_url": url.render_as_string(False)})
    with pytest.raises((OSError, exc.OperationalError)), TestClient(create_app(away)):
        pass


@contextmanager
def busy(settings: Settings) -> Iterator[None]:
    """Keep the database from writing items."""
    lock = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "LOCK TABLE items"}

    async def take() -> AsyncConnection:
        connection = await database.create_engine(settings).connect()
        await connection.exec_driver_sql(lock[connection.dialect.name])
        return connection

    async def release(connection: AsyncConnection) -> None:
        await connection.close()
        await connection.engine.dispose()

    with asyncio.Runner() as loop:
        connection = loop.run(take())
        try:
            yield
        finally:
            loop.run(release(connection))


def test_what_the_database_does_not_do_in_time_is_answered_503(
    client: TestClient, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    hasty = settings.model_copy(update={"database_timeout": 1})
    with TestClient(create_app(hasty)) as impatient:
        with busy(settings):
            answer = impatient.post("/items/", json=LAMP)
            assert answer.status_code == 503
            assert answer.json() == {"detail": "Service Unavailable"}
            assert answer.headers["retry-after"] == "1"
        assert impatient.post("/items/", json=LAMP).status_code == 201
        assert impatient.get("/readyz").status_code == 200
    (error,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    assert error.getMessage().startswith("the database is not available: ")
    assert len(client.get("/items/").json()["items"]) == 1


def test_what_fails_after_a_read_is_undone(client: TestClient, settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"database_pool_size": 1}))

    @app.post("/fail")
    async def fail(session: database.Session) -> None:
        async with session.begin():
            session.add(tables.Item(name="Lamp", price=Decimal(1)))
            await session.flush()
            raise HTTPException(409)

    with TestClient(app) as one:
        # The only connection has no transactions while it reads, and has them again.
        for _ in range(2):
            assert one.get("/items/").json()["items"] == []
            assert one.post("/fail").status_code == 409
    assert client.get("/items/").json()["items"] == []


def test_an_error_does_not_tell_the_values(settings: Settings) -> None:
    async def fail() -> None:
        engine = database.create_engine(settings)
        try:
            async with engine.begin() as connection:
                await connection.execute(text("SELECT :secret FROM nowhere"), {"secret": "s3cr3t"})
        finally:
            await engine.dispose()

    with pytest.raises(exc.DBAPIError) as caught:
        asyncio.run(fail())
    assert "s3cr3t" not in str(caught.value)
# {% if cookiecutter.database == "sqlite" %}


def test_sqlite_checks_foreign_keys_and_lets_readers_and_a_writer_work(settings: Settings) -> None:
    async def pragmas() -> list[object]:
        engine = database.create_engine(settings)
        try:
            async with engine.connect() as connection:
                names = ("foreign_keys", "journal_mode", "busy_timeout", "synchronous")
                found = [await connection.exec_driver_sql(f"PRAGMA {name}") for name in names]
                return [result.scalar() for result in found]
        finally:
            await engine.dispose()

    if make_url(settings.database_url).get_backend_name() == "sqlite":
        # 2 is FULL: what was acknowledged survives a power failure.
        assert asyncio.run(pragmas()) == [1, "wal", settings.database_timeout * 1000, 2]


def test_a_file_that_was_restored_may_be_written_by_its_group(
    alembic: Config, settings: Settings
) -> None:
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite":
        file = Path(str(url.database))
        file.chmod(0o644)
        command.upgrade(alembic, "head")
        assert file.stat().st_mode & 0o777 == 0o660
# {% endif %}
# {% if cookiecutter.database == "postgresql" %}


def test_without_a_schema_it_does_not_start(alembic: Config, settings: Settings) -> None:
    if make_url(settings.database_url).get_backend_name() == "postgresql":
        command.downgrade(alembic, "base")
        with pytest.raises(exc.NoResultFound), TestClient(create_app(settings)):
            pass


def with_password(**values: object) -> str | None:
    """Return the password with which `values` would connect."""
    settings = Settings.model_construct(
        **{"database_url": "postgresql://app@localhost/app"} | values  # type: ignore[arg-type]
    )
    return database.create_engine(settings).url.password


def test_the_password_comes_from_the_url_a_setting_or_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from a file\n")
    assert with_password(database_url="postgres://app:in%40it@localhost/app") == "in@it"
    assert with_password(database_password="s3cr3t") == "s3cr3t"  # noqa: S106
    assert with_password(database_password_file=str(secret)) == "from a file"


@pytest.mark.parametrize(
    "values",
    [
        {"database_password": database.SAMPLE_PASSWORD},
        {"database_url": f"postgresql://app:{database.SAMPLE_PASSWORD}@localhost/app"},
    ],
)
def test_the_sample_password_is_for_development_alone(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="DATABASE_PASSWORD is the sample"):
        with_password(**values)
    assert with_password(development=True, **values) == database.SAMPLE_PASSWORD


def test_a_password_is_not_shown() -> None:
    settings = Settings(database_url="postgresql://app:s3cr3t@h/app", database_password="s3cr3t")  # noqa: S106
    assert "s3cr3t" not in repr(settings)
# {% endif %}
