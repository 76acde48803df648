"""What surrounds every request."""

import logging

import pytest
from fastapi.testclient import TestClient
from starlette.types import Receive, Scope, Send

from app.main import create_app
from app.middleware import RequestMiddleware
from app.settings import Settings


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the access lines."""
    return [record for record in caplog.records if hasattr(record, "duration_ms")]


def test_every_answer_has_an_id_and_is_not_cached(client: TestClient) -> None:
    ids = set()
    for path in "/", "/nowhere", "/items/x":
        answer = client.get(path)
        assert answer.headers["cache-control"] == "no-store"
        ids.add(answer.headers["x-request-id"])
    assert len(ids) == 3


@pytest.mark.parametrize("given", ["a", "7b3c.D_-", "x" * 64])
def test_a_plain_id_is_taken_from_the_client(given: str, client: TestClient) -> None:
    assert client.get("/", headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\x1bb", "é", "a;b"])
def test_any_other_id_is_replaced(given: str, client: TestClient) -> None:
    answer = client.get("/", headers={b"x-request-id": given.encode()})
    assert answer.headers["x-request-id"] != given
    assert len(answer.headers["x-request-id"]) == 32


def test_a_request_is_one_line_without_its_query(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client.get("/items/7?q=secret")
    (line,) = lines(caplog)
    assert line.getMessage().startswith("GET /items/{item_id} ")
    assert vars(line).items() >= {"path": "/items/7", "route": "/items/{item_id}"}.items()
    assert "secret" not in str(vars(line))


def test_health_checks_are_logged_only_for_debugging(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client.get("/livez")
    assert [line.levelname for line in lines(caplog)] == ["DEBUG"]


def test_a_failure_is_logged_once_and_tells_the_client_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = create_app(Settings.model_construct())

    @app.get("/fails")
    async def fails() -> None:
        raise RuntimeError("secret")

    # Errors are raised here, if any comes out of the service.
    answer = TestClient(app).get("/fails")
    assert answer.status_code == 500
    assert answer.json() == {"detail": "Internal Server Error"}
    assert len(answer.headers["x-request-id"]) == 32
    (error,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert error.exc_info
    assert str(error.exc_info[1]) == "secret"


def test_a_failure_after_half_an_answer_is_left_to_the_server() -> None:
    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        TestClient(RequestMiddleware(breaks, max_body_size=0)).get("/")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(chunked: bool, settings: Settings) -> None:
    body = b'{"name": "a", "price": 12345678}'
    with TestClient(create_app(settings.model_copy(update={"max_body_size": 30}))) as client:
        for content, status in ((body[:-3] + b"}", 201), (body, 413)):
            answer = client.post(
                "/items/",
                content=iter([content[:9], content[9:]]) if chunked else content,
                headers={"content-type": "application/json"},
            )
            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/json"
