"""Fixtures for every test."""

import os
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app.settings import Settings
from server.settings import ServerSettings

# The shell or .env may set variables of the service. The tests need the defaults, and keep the
# variables of settings without one.
for name, field in (Settings.model_fields | ServerSettings.model_fields).items():
    if not field.is_required():
        os.environ.pop(name.upper(), None)

from app.main import create_app  # noqa: E402 - it reads the environment when it is imported


@pytest.fixture(scope="session")
def settings() -> Settings:
    """Return the default settings."""
    return Settings()


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """Return a client of a service with the default settings; errors in it become answers."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client
