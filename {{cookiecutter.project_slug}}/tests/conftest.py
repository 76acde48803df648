"""What every test may ask for."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings


@pytest.fixture
def client() -> Iterator[TestClient]:
    """Return a client of a service with the default settings; errors in it become answers."""
    settings = Settings.model_construct()
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client
