"""PostgreSQL: its password and its messages."""

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from fastapi.testclient import TestClient

from app import database, migrations, postgresql
from app.main import create_app
from app.settings import Settings


def test_without_a_schema_it_does_not_start(settings: Settings) -> None:
    if not settings.database_url.startswith("sqlite"):
        alembic = migrations.alembic_config(settings)
        command.downgrade(alembic, "base")
        try:
            with (
                pytest.raises(LookupError, match=r"python -m app\.database"),
                TestClient(create_app(settings)),
            ):
                pass
        finally:
            command.upgrade(alembic, "head")


def test_a_table_in_another_schema_is_found(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not settings.database_url.startswith("sqlite"):
        metadata = sa.MetaData()
        for table in database.Base.metadata.tables.values():
            table.to_metadata(metadata)
        other = sa.Table("others", metadata, sa.Column("id", sa.Integer), schema="other")
        monkeypatch.setattr(database.Base, "metadata", metadata)
        engine = database.create_engine(settings)
        with engine.begin() as connection:
            connection.execute(sa.schema.CreateSchema("other"))
            other.create(connection)
        try:
            command.check(migrations.alembic_config(settings))
        finally:
            with engine.begin() as connection:
                connection.execute(sa.schema.DropSchema("other", cascade=True))
            engine.dispose()


def test_a_migration_that_changes_a_column_is_survived(
    client: TestClient, settings: Settings
) -> None:
    """A prepared statement of before would fail until the service is started again."""
    if not settings.database_url.startswith("sqlite"):
        for _ in range(10):  # the driver prepares what it runs more than five times
            assert client.get("/readyz").status_code == 200
        engine = database.create_engine(settings)
        try:
            for length in 300, 32:
                with engine.begin() as connection:
                    change = f"ALTER TABLE alembic_version ALTER version_num TYPE VARCHAR({length})"
                    connection.exec_driver_sql(change)
                statuses = [client.get("/readyz").status_code for _ in range(10)]
                assert (statuses[0], set(statuses[1:])) == (503, {200})
        finally:
            engine.dispose()


def test_a_connection_to_a_server_that_became_read_only_is_replaced(settings: Settings) -> None:
    """As after a failover: the pooled connection stays with the old server, a standby now."""

    def delete(connection: sa.Connection) -> None:
        connection.exec_driver_sql("DELETE FROM alembic_version WHERE false")

    def become_read_only(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SET default_transaction_read_only = on")

    async def scenario() -> None:
        async with database.Database.open(settings) as opened:
            await opened.read(become_read_only)
            with pytest.raises(database.DatabaseUnavailable, match="read-only transaction"):
                await opened.write(delete)
            await opened.write(delete)

    if not settings.database_url.startswith("sqlite"):
        asyncio.run(scenario())


def with_password(**values: object) -> str | None:
    """Return the password with which `values` would connect."""
    settings = Settings.model_construct(
        **{"database_url": "postgresql://app@localhost/app"} | values  # type: ignore[arg-type]
    )
    return database.create_engine(settings).url.password


def test_the_password_comes_from_the_url_a_setting_or_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(" from a file \n", "utf-8-sig")  # as some editors do
    assert with_password(database_url="postgres://app:in%40it@localhost/app") == "in@it"
    assert with_password(database_password="s3cr3t") == "s3cr3t"
    assert with_password(database_password_file=str(secret)) == " from a file "


@pytest.mark.parametrize(
    "values",
    [
        {"database_password": postgresql.SAMPLE_PASSWORD},
        {"database_url": f"postgresql://app:{postgresql.SAMPLE_PASSWORD}@localhost/app"},
    ],
)
def test_the_sample_password_is_for_development_alone(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="DATABASE_PASSWORD is the sample"):
        with_password(**values)
    assert with_password(development=True, **values) == postgresql.SAMPLE_PASSWORD


def test_a_password_is_not_shown() -> None:
    url = "postgresql://app:s3cr3t@h/app"
    settings = Settings.model_construct(database_url=url, database_password="s3cr3t")
    assert "s3cr3t" not in repr(settings)


def test_a_file_that_is_not_utf_8_is_named_by_its_variable(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cr3t", "utf-16")
    with pytest.raises(ValueError, match="DATABASE_PASSWORD_FILE: it is not UTF-8"):
        with_password(database_password_file=str(secret))


def test_a_password_where_a_file_name_belongs_is_not_shown() -> None:
    with pytest.raises(ValueError, match="DATABASE_PASSWORD_FILE: No such file") as caught:
        with_password(database_password_file="s3cr3t")
    assert "s3cr3t" not in repr(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:s3cr3t",
        "postgresql://app:s3@cr3t@host/app",
        "s3cr3t",
        "mysql://s3cr3t@h/a",
    ],
)
def test_the_message_about_a_wrong_url_does_not_show_it(url: str) -> None:
    with pytest.raises(ValueError, match="database_url") as caught:
        Settings(database_url=url)
    assert "cr3t" not in str(caught.value)
