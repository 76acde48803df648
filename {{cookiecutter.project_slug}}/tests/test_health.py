"""The health endpoints."""

import pytest
from fastapi.testclient import TestClient

from app import health


@pytest.mark.parametrize("path", sorted(health.PATHS))
def test_a_service_that_works_is_healthy(path: str, client: TestClient) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.json() == {"status": "healthy"}


def test_every_health_endpoint_is_known_to_the_log(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {
        path for path in paths if "health" in paths[path].get("get", {}).get("tags", [])
    } == health.PATHS
