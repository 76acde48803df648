"""The middleware around every request."""

import asyncio
import logging
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from app.main import create_app, lifespan
from app.middleware import RequestMiddleware, Service
from app.settings import Settings


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the access lines."""
    return [record for record in caplog.records if hasattr(record, "duration_ms")]


def app_of(client: TestClient) -> FastAPI:
    """Return the service that `client` speaks to."""
    assert isinstance(client.app, FastAPI)
    return client.app


def test_every_answer_has_an_id_and_safe_headers(client: TestClient) -> None:
    ids = set()
    for path in "/", "/nowhere", "/items/x":
        answer = client.get(path)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        ids.add(answer.headers["x-request-id"])
    assert len(ids) == 3


@pytest.mark.parametrize(
    "headers",
    [
        {
            "cache-control": "max-age=60",
            "x-frame-options": "SAMEORIGIN",
            "referrer-policy": "origin",
            "x-request-id": "mine",
        },
        {"etag": '"1"'},
    ],
)
def test_a_header_of_an_endpoint_replaces_the_default(
    headers: dict[str, str], client: TestClient
) -> None:
    app_of(client).get("/own")(lambda: Response(headers=headers))
    answer = client.get("/own")
    assert answer.headers.items() >= headers.items()
    assert len(answer.headers.get_list("x-request-id")) == 1
    # An answer with an ETag is not told to be forgotten.
    assert answer.headers.get("cache-control") == headers.get("cache-control")


@pytest.mark.parametrize("given", ["a", "7b3c.D_-", "x" * 64])
def test_a_plain_id_is_taken_from_the_client(given: str, client: TestClient) -> None:
    assert client.get("/", headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\x1bb", "é", "a;b", "a\n"])
def test_any_other_id_is_replaced(given: str, client: TestClient) -> None:
    answer = client.get("/", headers={b"x-request-id": given.encode()})
    assert answer.headers["x-request-id"] != given
    assert len(answer.headers["x-request-id"]) == 32


def test_a_request_is_one_line_without_its_query(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    app_of(client).get("/lamps/{lamp_id}")(lambda lamp_id: lamp_id)
    client.get("/lamps/7?q=secret")
    (line,) = lines(caplog)
    assert line.getMessage().startswith("GET /lamps/7 ")
    assert vars(line).items() >= {"path": "/lamps/7", "route": "/lamps/{lamp_id}"}.items()
    assert "secret" not in str(vars(line))


def test_the_route_in_the_log_has_the_prefix_of_its_router(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    inner, outer = APIRouter(), APIRouter(prefix="/shops")
    inner.get("/{name}")(lambda name: name)
    outer.include_router(inner, prefix="/{city}")
    app_of(client).include_router(outer, prefix="/v1")
    assert client.get("/v1/shops/Rome/x").status_code == 200
    (line,) = lines(caplog)
    assert vars(line)["route"] == "/v1/shops/{city}/{name}"


def test_the_route_in_the_log_has_the_path_of_its_mount(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    sub, router = FastAPI(), APIRouter(prefix="/items")
    router.get("/{name}")(lambda name: name)
    sub.get("/{name}")(lambda name: name)
    sub.include_router(router)
    app_of(client).mount("/sub", sub)
    mounting = APIRouter()
    mounting.mount("/sub", sub)
    app_of(client).include_router(mounting, prefix="/v1")
    for prefix in "/sub", "/v1/sub":
        for path in "/x", "/items/x", "/x/":
            assert client.get(prefix + path).status_code == 200
    assert [vars(line)["route"] for line in lines(caplog)] == [
        prefix + path
        for prefix in ("/sub", "/v1/sub")
        for path in ("/{name}", "/items/{name}", "/{name}")
    ]


def test_health_checks_are_logged_when_they_fail_else_for_debugging(
    client: TestClient, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client.get("/livez")
    app = create_app(settings)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["example.com"])
    TestClient(app).get("/livez")
    assert [line.levelname for line in lines(caplog)] == ["DEBUG", "INFO"]


def test_a_failure_is_logged_once_and_tells_the_client_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = create_app(Settings())

    @app.get("/fails")
    async def fails() -> None:
        raise RuntimeError("secret")

    # Errors are raised here, if any comes out of the service.
    answer = TestClient(app).get("/fails")
    assert answer.status_code == 500
    assert answer.json() == {"detail": "Internal Server Error"}
    assert len(answer.headers["x-request-id"]) == 32
    assert answer.headers["x-content-type-options"] == "nosniff"
    (error,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert error.exc_info
    assert str(error.exc_info[1]) == "secret"


def test_a_failure_after_half_an_answer_is_left_to_the_server() -> None:
    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        TestClient(RequestMiddleware(breaks)).get("/")


SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/lamps/",
    "query_string": b"",
    "headers": [],
}


async def receive_nothing() -> Message:
    """Wait for ever."""
    await asyncio.Event().wait()
    raise AssertionError


def test_a_request_that_the_server_cancels_is_answered() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def cancel() -> None:
        waits = RequestMiddleware(lambda scope, receive, send: receive())  # type: ignore[arg-type, return-value]
        task = asyncio.create_task(waits(SCOPE, receive_nothing, send))
        await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(cancel())
    assert sent[0]["status"] == 503


def test_an_endpoint_s_own_cancellation_is_not_a_stop() -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(RequestMiddleware(fails)(SCOPE, receive_nothing, receive_nothing))  # type: ignore[arg-type]


BODY = b'{"name": "a", "price": 12345678}'


def limited(settings: Settings, limit: int) -> TestClient:
    """Return a client of a service that takes bodies of `limit` bytes."""
    app = create_app(settings.model_copy(update={"max_body_size": limit}))

    @app.post("/lamps/", status_code=201)
    async def create_lamp(lamp: dict[str, str | int]) -> dict[str, str | int]:
        return lamp

    return TestClient(app)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(chunked: bool, settings: Settings) -> None:
    with limited(settings, 30) as client:
        for content, status in ((BODY[:-3] + b"}", 201), (BODY, 413)):
            answer = client.post(
                "/lamps/",
                content=iter([content[:9], content[9:]]) if chunked else content,
                headers={"content-type": "application/json"},
            )
            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "lengths", [[b" 32"], [b"\t32 "], [b"0x20"], [b"+1"], [b"1, 1"], [b"1", b"32"], [b"9" * 5000]]
)
def test_a_strange_length_does_not_switch_the_limit_off(
    lengths: list[bytes], settings: Settings
) -> None:
    """Servers pass such lengths on or not; the limit must not depend on that."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), *((b"content-length", n) for n in lengths)]
    scope = SCOPE | {"headers": headers}

    async def ask() -> None:
        await limited(settings, 30).app(scope, receive, send)

    asyncio.run(ask())
    assert sent[0]["status"] == 413
    assert (
        b"".join(message.get("body", b"") for message in sent) == b'{"detail":"Content Too Large"}'
    )


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/livez"), ("POST", "/nowhere"), ("PUT", "/")]
)
def test_an_unread_body_is_refused_in_the_same_format(
    method: str, path: str, settings: Settings
) -> None:
    with limited(settings, 30) as client:
        answer = client.request(method, path, content=BODY)
    assert answer.status_code == 413
    assert answer.json() == {"detail": "Content Too Large"}
    assert len(answer.headers["x-request-id"]) == 32


def test_a_413_of_an_endpoint_or_a_mount_is_left_alone(settings: Settings) -> None:
    app = create_app(settings)

    @app.post("/rows")
    async def refuse_rows() -> Response:
        return PlainTextResponse("at most 2 rows", 413)

    async def refuse_all(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 413})
        await send({"type": "http.response.body", "body": b"no"})

    app.mount("/bare", refuse_all)
    with TestClient(app) as client:
        assert client.post("/rows", content=BODY).text == "at most 2 rows"
        assert client.post("/bare/x", content=BODY).text == "no"


def test_a_route_may_take_more_or_less_than_the_limit(settings: Settings) -> None:
    with limited(settings, 30) as client:
        for path, limit in (("/more", 1000), ("/less", 10)):

            @app_of(client).post(path, max_body_size=limit)
            async def count(body: dict[str, Any]) -> int:
                return len(body)

            @app_of(client).post(f"{path}/raw", max_body_size=limit)
            async def count_raw(request: Request) -> int:
                return len(await request.body())

        for path, size, status in (
            ("/more", 900, 200),
            ("/more", 1100, 413),
            ("/less", 5, 200),
            ("/less", 20, 413),
        ):
            for endpoint in path, f"{path}/raw":
                answer = client.post(
                    endpoint,
                    content=b"{}".ljust(size),
                    headers={"content-type": "application/json"},
                )
                assert answer.status_code == status, (endpoint, size)
                assert answer.headers["content-type"] == "application/json"


def test_a_mounted_application_gets_head_once(settings: Settings) -> None:
    app, methods = create_app(settings), []

    async def answer_404(scope: Scope, receive: Receive, send: Send) -> None:
        methods.append(scope["method"])
        await PlainTextResponse("none", 404)(scope, receive, send)

    app.mount("/mounted", answer_404)
    with TestClient(app) as client:
        assert client.head("/mounted/x").status_code == 404
    assert methods == ["HEAD"]


@pytest.mark.parametrize("options", [{}, {"lifespan": lifespan}], ids=["alone", "lifespan"])
def test_event_handlers_run_once(options: dict[str, Any], settings: Settings) -> None:
    events: list[str] = []
    app = Service(
        on_startup=[lambda: events.append("start")],
        on_shutdown=[lambda: events.append("stop")],
        **options,
    )
    app.state.settings = settings
    app.on_event("startup")(lambda: events.append("later"))
    with TestClient(app):
        pass
    assert events == ["start", "later", "stop"]


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/docs", "/openapi.json"])
def test_head_is_answered_wherever_get_is(path: str, client: TestClient) -> None:
    answer = client.head(path)
    assert answer.status_code == 200
    assert answer.content == b""
    assert answer.headers["content-length"] == client.get(path).headers["content-length"]
    assert not [path for path, item in app_of(client).openapi()["paths"].items() if "head" in item]


def test_the_last_slash_of_a_path_makes_no_difference(client: TestClient) -> None:
    app_of(client).get("/shops/{name}/")(lambda name: name)
    app_of(client).get("/plain")(lambda: 1)
    app_of(client).get("/lamps/")(lambda: 1)
    app_of(client).post("/lamps/", status_code=201)(lambda: 1)
    for path in "/lamps", "/lamps/", "/health/", "/shops/x", "/shops/x/?a=b c", "/plain/":
        for method in "GET", "HEAD":
            answer = client.request(method, path, follow_redirects=False)
            assert answer.status_code == 200, path
    assert client.post("/lamps", follow_redirects=False).status_code == 201
    assert client.get("/nowhere").status_code == client.get("/nowhere/").status_code == 404


def test_an_owner_s_redirect_is_not_followed(settings: Settings) -> None:
    app = create_app(settings)

    @app.exception_handler(404)
    async def go_home(*_: Any) -> Response:
        return Response(status_code=307, headers={"location": "/"})

    answer = TestClient(app).get("/nowhere", follow_redirects=False)
    assert answer.status_code == 307
    assert answer.headers["location"] == "/"
