"""Fixtures for every test."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app import logs
from app.main import create_app
from app.settings import Settings
from server.settings import ServerSettings


@pytest.fixture(scope="session", autouse=True)
def no_settings_of_this_shell() -> Iterator[None]:
    """Remove the service's variables, which this shell or .env may set."""
    with pytest.MonkeyPatch.context() as environment:
        for name in Settings.model_fields | ServerSettings.model_fields:
            environment.delenv(name.upper(), raising=False)
        logs.configure()
        yield


@pytest.fixture(scope="session")
def settings() -> Settings:
    """Return the default settings, without the environment."""
    return Settings.model_construct()


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """Return a client of a service with the default settings; errors in it become answers."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client
