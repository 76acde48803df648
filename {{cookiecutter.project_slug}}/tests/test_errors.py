"""Every error has the one format, and repeats nothing of the request."""

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect

from app.errors import ServiceError

JSON = {"content-type": "application/json"}


class Lamp(BaseModel):
    """A lamp; the tests do not depend on app/items, which may be deleted."""

    model_config = ConfigDict(extra="forbid")

    name: str
    price: Annotated[float, Field(allow_inf_nan=False)]


async def create_lamp(lamp: Lamp) -> Lamp:
    """Return the lamp."""
    return lamp


@pytest.fixture
def lamps(client: TestClient) -> TestClient:
    """Return a client of a service that has lamps."""

    async def read_lamp(lamp_id: int) -> int:
        return lamp_id

    assert isinstance(client.app, FastAPI)
    client.app.post("/lamps/")(create_lamp)
    client.app.get("/lamps/{lamp_id}")(read_lamp)
    return client


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nowhere", b"", 404),
        ("GET", "/nowhere/", b"", 404),
        ("DELETE", "/health", b"", 405),
        ("POST", "/lamps/", b"\xff\xfe{", 400),
        ("POST", "/lamps/", b"x" * 2_000_000, 413),
        ("GET", "/lamps/secret", b"", 422),
        ("POST", "/lamps/", b"secret", 422),
        ("POST", "/lamps/", b'{"name": "secret"}', 422),
        ("POST", "/lamps/", b'{"name": "a", "price": NaN}', 422),
        ("POST", "/lamps/", b'{"name": "a", "price": 1, "\\ud800": 1}', 422),
    ],
)
def test_every_bad_request_is_answered_in_one_format(
    method: str, path: str, body: bytes, status: int, lamps: TestClient
) -> None:
    answer = lamps.request(method, path, content=body, headers=JSON)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"detail"}
    assert "secret" not in answer.text


def test_a_405_lists_all_methods_of_the_path(client: TestClient, tmp_path: Path) -> None:
    @client.app.put("/health")  # type: ignore[attr-defined, untyped-decorator]
    async def put_health() -> None: ...

    client.app.mount("/files", StaticFiles(directory=tmp_path))  # type: ignore[attr-defined]
    assert client.post("/files/x").headers["allow"] == "GET, HEAD"

    for method in "TRACE", "PROPFIND", "DELETE":
        answer = client.request(method, "/health")
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, HEAD, PUT"
        assert answer.json() == {"detail": "Method Not Allowed"}


def test_a_refusal_of_an_endpoint_s_own_keeps_its_headers_and_text(client: TestClient) -> None:
    refusal = HTTPException(405, "Closed on Sundays", {"Allow": "PUT", "Retry-After": "60"})
    unreadable = HTTPException(400, "The stock file cannot be read")

    @client.app.get("/closed")  # type: ignore[attr-defined, untyped-decorator]
    async def closed() -> None:
        raise refusal

    @client.app.get("/stock")  # type: ignore[attr-defined, untyped-decorator]
    async def stock() -> None:
        raise unreadable from FileNotFoundError("stock.csv")

    answer = client.get("/closed")
    assert answer.json() == {"detail": "Closed on Sundays"}
    assert answer.headers["allow"] == "GET, HEAD, PUT"
    assert answer.headers["retry-after"] == "60"
    answer = client.get("/stock")
    assert answer.status_code == 400
    assert answer.json() == {"detail": "The stock file cannot be read"}


def test_an_endpoint_may_find_a_request_invalid(client: TestClient) -> None:
    @client.app.get("/lamps")  # type: ignore[attr-defined, untyped-decorator]
    async def lamps() -> None:
        raise RequestValidationError([{"loc": ["query", "colour"], "msg": "No such colour"}])

    answer = client.get("/lamps")
    assert answer.status_code == 422
    assert answer.json() == {"detail": [{"loc": ["query", "colour"], "msg": "No such colour"}]}


class SoldOutError(ServiceError):
    status_code = 409
    code = "sold_out"


@pytest.mark.parametrize(
    "error", [SoldOutError("No lamps"), ServiceError("No lamps", status_code=409, code="sold_out")]
)
def test_a_service_error_sets_status_text_and_code(error: ServiceError, client: TestClient) -> None:
    @client.app.get("/lamps")  # type: ignore[attr-defined, untyped-decorator]
    async def lamps() -> None:
        raise error

    answer = client.get("/lamps")
    assert answer.status_code == 409
    assert answer.json() == {"detail": "No lamps", "code": "sold_out"}


def test_a_service_error_from_500_on_is_logged_with_its_cause(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    @client.app.get("/lamps")  # type: ignore[attr-defined, untyped-decorator]
    async def lamps() -> None:
        raise ServiceError("Try again", status_code=503, code="no_stock") from OSError("unplugged")

    answer = client.get("/lamps")
    assert answer.status_code == 503
    assert answer.json() == {"detail": "Service Unavailable", "code": "no_stock"}
    (error,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert error.getMessage() == "no_stock: Try again"
    assert "unplugged" in logging.Formatter().format(error)


def test_a_timeout_error_of_an_endpoint_is_a_500_with_a_traceback(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    @client.app.get("/slow")  # type: ignore[attr-defined, untyped-decorator]
    async def slow() -> None:
        async with asyncio.timeout(0):
            await asyncio.sleep(1)

    assert client.get("/slow").status_code == 500
    (error,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert error.exc_info
    assert error.exc_info[0] is TimeoutError


@pytest.mark.parametrize(
    ("failure", "status", "message"),
    [
        (OSError(28, "No space left on device"), 507, "[Errno 28] No space left on device"),
        (FileNotFoundError("no usable temporary directory"), 507, "no usable temporary directory"),
        (ClientDisconnect(), 499, ""),
    ],
)
def test_a_body_that_cannot_be_stored_is_no_error_of_the_client(
    failure: Exception,
    status: int,
    message: str,
    lamps: TestClient,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(_: Request) -> bytes:
        raise failure  # as form parsing does when it cannot write a temporary file

    monkeypatch.setattr(Request, "body", fail)
    answer = lamps.post("/lamps/", content=b"{}", headers=JSON)
    assert answer.status_code == status
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == ([f"the body cannot be stored: {message}"] if message else [])


def test_json_that_is_nested_too_deep_is_refused(lamps: TestClient) -> None:
    deep = b"[" * 50_000 + b"]" * 50_000
    # Some versions of Python cannot read it, others find that it is no lamp.
    assert lamps.post("/lamps/", content=deep, headers=JSON).status_code in {400, 422}


def test_every_answer_that_an_endpoint_can_give_is_documented(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    always = {"400", "413", "500", "503"}
    assert paths["/health"]["get"]["responses"].keys() == {"200", *always}
