"""Fixtures for every test."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings


@pytest.fixture(scope="session")
def settings() -> Settings:
    """Return the default settings, without the environment."""
    return Settings.model_construct()


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """Return a client of a service with the default settings; errors in it become answers."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client
