"""Fixtures for every test."""

import os
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app import migrations
from app.database import Base, create_engine
from app.settings import Settings
from server.settings import ServerSettings

# The shell or .env may set variables of the service. The tests need the defaults, and keep the
# variables of settings without one.
for name, field in (Settings.model_fields | ServerSettings.model_fields).items():
    if not field.is_required():
        os.environ.pop(name.upper(), None)

from app.main import create_app  # noqa: E402 - it reads the environment when it is imported


@pytest.fixture(scope="session")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return where the tests' own database is."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        return url
    # {% if cookiecutter.database == "sqlite" %}
    return f"sqlite:///{tmp_path_factory.mktemp('database').as_posix()}/test.db"
    # {% endif %}
    # {% if cookiecutter.database == "postgresql" %}
    pytest.skip("TEST_DATABASE_URL does not say where a PostgreSQL server is")
    # {% endif %}


@pytest.fixture(scope="session")
def settings(database_url: str) -> Iterator[Settings]:
    """Return settings for the tests' own database, up to date; all others have their defaults."""
    settings = Settings(
        database_url=database_url,
        # {% if cookiecutter.database == "postgresql" %}
        development=True,
        # {% endif %}
    )
    with pytest.MonkeyPatch.context() as environment:
        # For processes that a test starts.
        environment.setenv("DATABASE_URL", database_url)
        # {% if cookiecutter.database == "postgresql" %}
        environment.setenv("DEVELOPMENT", "true")
        # {% endif %}
        migrations.upgrade(settings)
        yield settings


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """Return a client of a service with an empty database; errors in it become answers."""
    engine = create_engine(settings)
    with engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())
    engine.dispose()
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client
