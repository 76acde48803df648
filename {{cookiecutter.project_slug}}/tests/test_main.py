"""The service as a whole, and its health endpoints."""

import tomllib
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app import health
from app.main import app, create_app
from app.settings import Settings

ROOT = Path(__file__).parents[1]


def test_the_root_welcomes(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.json() == {"message": "Hello from FastAPI in a Docker container!"}


def test_the_docs_are_served(client: TestClient) -> None:
    assert "/openapi.json" in client.get("/docs").text
    assert client.get("/openapi.json").json()["info"]["title"] == app.title


def test_the_docs_can_be_turned_off() -> None:
    client = TestClient(create_app(Settings(docs=False)))
    assert client.get("/docs").status_code == 404
    assert client.get("/openapi.json").status_code == 404


def test_the_version_is_the_project_s() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert app.version == project["version"]
    assert app.description == project["description"]


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


def test_health_endpoints_have_names_of_their_own() -> None:
    """FastAPI's guide to generated clients makes operation ids of them; a duplicate is a warning."""
    app = FastAPI(generate_unique_id_function=lambda route: f"{route.tags[0]}-{route.name}")
    health.add_routes(app)
    app.openapi()
