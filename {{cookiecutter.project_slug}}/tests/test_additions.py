"""Additions to a service work as FastAPI documents them: each alone, and all together."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from fastapi.sse import EventSourceResponse
from fastapi.staticfiles import StaticFiles
from fastapi.testclient import TestClient
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.errors import ServerErrorMiddleware

from app.main import create_app
from app.settings import Settings

log = logging.getLogger("app.additions")
ORIGIN = {"origin": "https://shop.example"}
# Not compressed, if the service compresses answers.
PLAIN = {"accept-encoding": "identity"}


class Owner:
    """Additions of an owner, each in a method; `events` lists those that ran.

    The paths are not those of a service, such as /static.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[str] = []

    def router_with_lifespan(self, app: FastAPI) -> None:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
            self.events.append("opened")
            yield {"warehouse": "open"}
            self.events.append("closed")

        router = APIRouter(prefix="/added-warehouse", lifespan=lifespan)

        @router.get("/")
        async def state(request: Request) -> str:
            log.info("asked")
            return str(request.state.warehouse)

        app.include_router(router)

    def event_handlers(self, app: FastAPI) -> None:
        @app.on_event("startup")
        async def start() -> None:
            self.events.append("started")

        @app.on_event("shutdown")
        def stop() -> None:
            self.events.append("stopped")

    def middleware(self, app: FastAPI) -> None:
        app.add_middleware(CORSMiddleware, allow_origins=[ORIGIN["origin"]])

        @app.middleware("http")
        async def see_errors(request: Request, call_next: Callable[..., Any]) -> Response:
            try:
                answer: Response = await call_next(request)
            except Exception:
                self.events.append("middleware saw the error")
                raise
            answer.headers["x-owner"] = "1"
            return answer

    def handler_of_everything(self, app: FastAPI) -> None:
        @app.exception_handler(Exception)
        async def handle(request: Request, error: Exception) -> Response:
            return JSONResponse({"detail": "Sorry"}, 500)

    def handler_of_500(self, app: FastAPI) -> None:
        @app.exception_handler(500)
        def handle(request: Request, error: Exception) -> Response:
            return JSONResponse({"detail": "Sorry"}, 500)

    def handler_that_fails(self, app: FastAPI) -> None:
        @app.exception_handler(Exception)
        async def handle(request: Request, error: Exception) -> Response:
            raise LookupError("no such template")

    def handlers_of_http_errors(self, app: FastAPI) -> None:
        @app.exception_handler(StarletteHTTPException)
        async def handle(request: Request, error: StarletteHTTPException) -> Response:
            return JSONResponse({"error": error.detail}, error.status_code)

        @app.exception_handler(KeyError)
        async def handle_key(request: Request, error: KeyError) -> Response:
            return JSONResponse({"error": str(error)}, 418)

    def endpoints(self, app: FastAPI) -> None:
        async def user() -> str:
            return "nobody"

        @app.get("/added-fail")
        async def fail() -> None:
            raise RuntimeError("secret")

        @app.get("/added-key")
        def key() -> None:
            raise KeyError("x")

        @app.post("/added-size")
        async def size(request: Request) -> int:
            return len(await request.body())

        @app.get("/added-events", response_class=EventSourceResponse)
        async def events() -> AsyncIterator[int]:
            while True:
                yield 1
                await asyncio.sleep(0)

        @app.get("/added-user")
        async def who(user: Annotated[str, Depends(user)], tasks: BackgroundTasks) -> str:
            tasks.add_task(self.events.append, "ran after the answer")
            return user

        @app.websocket("/added-echo")
        async def echo(socket: WebSocket) -> None:
            await socket.accept()
            log.info("accepted")
            await socket.send_text(await socket.receive_text())
            await socket.close()

        app.dependency_overrides[user] = lambda: "somebody"

    def mounts(self, app: FastAPI) -> None:
        (self.folder / "style.css").write_text("a {}")
        (self.folder / "guide").mkdir(exist_ok=True)
        for page in "index.html", "guide/index.html":
            (self.folder / page).write_text('<a href="next.html">')
        app.mount("/added-static", StaticFiles(directory=self.folder, html=True))
        app.frontend("/added-ui", directory=self.folder)
        sub, inner = FastAPI(), FastAPI()

        @sub.get("/")
        async def root() -> str:
            raise HTTPException(409, "busy")

        @sub.get("/shelf/")
        @inner.get("/shelf")
        async def shelf() -> str:
            return "shelf"

        @sub.middleware("http")
        async def pass_on(request: Request, call_next: Callable[..., Any]) -> Response:
            answer: Response = await call_next(request)
            return answer

        sub.mount("/inner", inner)
        app.mount("/added-sub", sub)


ADDITIONS = [
    Owner.router_with_lifespan,
    Owner.event_handlers,
    Owner.middleware,
    Owner.handler_of_everything,
    Owner.handlers_of_http_errors,
    Owner.endpoints,
    Owner.mounts,
]


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    """Return an owner who has a folder of static files."""
    return Owner(tmp_path)


def serve(settings: Settings, *additions: Callable[[FastAPI], None]) -> TestClient:
    """Return a client of a service with these additions."""
    app = create_app(settings)
    for add in additions:
        add(app)
    return TestClient(app)


@pytest.fixture(params=["alone", "together"])
def others(
    request: pytest.FixtureRequest, owner: Owner
) -> Callable[..., list[Callable[[FastAPI], None]]]:
    """Return the additions: only the given ones, or all that do not exclude each other."""

    def choose(*wanted: Callable[[FastAPI], None]) -> list[Callable[[FastAPI], None]]:
        if request.param == "alone":
            return list(wanted)
        names = {add.__name__ for add in wanted}
        bound = [getattr(owner, add.__name__) for add in ADDITIONS]
        return [add for add in bound if add.__name__ not in names] + list(wanted)

    return choose


Others = Callable[..., list[Callable[[FastAPI], None]]]


def test_a_router_has_a_lifespan_of_its_own(
    owner: Owner, others: Others, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(settings, *others(owner.router_with_lifespan)) as client:
        assert "opened" in owner.events
        assert client.get("/added-warehouse").json() == "open"
        assert client.get("/readyz").status_code == 200
    assert "closed" in owner.events
    assert "asked" in caplog.messages


def test_event_handlers_are_called(owner: Owner, others: Others, settings: Settings) -> None:
    with serve(settings, *others(owner.event_handlers)):
        assert owner.events.count("started") == 1
        assert "stopped" not in owner.events
    assert owner.events.count("stopped") == 1


def test_middleware_sees_answers_and_errors(
    owner: Owner, others: Others, settings: Settings
) -> None:
    with serve(settings, *others(owner.endpoints, owner.middleware)) as client:
        for path in "/nowhere", "/items/x", "/added-user":
            answer = client.get(path, headers=ORIGIN)
            assert answer.headers["access-control-allow-origin"] == ORIGIN["origin"]
            assert answer.headers["x-owner"] == "1"
            assert len(answer.headers["x-request-id"]) == 32
        assert client.get("/added-fail").status_code == 500
    assert "middleware saw the error" in owner.events


def test_errors_from_outside_of_added_middleware_have_cors_headers_too(
    owner: Owner, others: Others, settings: Settings
) -> None:
    with serve(settings, *others(owner.endpoints, owner.middleware)) as client:
        failed = client.get("/added-fail", headers=ORIGIN)
        # Nobody reads the first body, and the endpoint the others, of which one has no length.
        bodies = (
            ("/nowhere", bytes(2**21)),
            ("/added-size", bytes(2**21)),
            ("/added-size", iter([bytes(2**21)])),
        )
        too_large = [client.post(path, content=body, headers=ORIGIN) for path, body in bodies]
        assert failed.status_code == 500
        for answer in too_large:
            assert answer.status_code == 413
            assert answer.json() == {"detail": "Content Too Large"}
        for answer in failed, *too_large:
            assert answer.headers["access-control-allow-origin"] == ORIGIN["origin"]


@pytest.mark.parametrize("name", ["handler_of_everything", "handler_of_500"])
def test_a_handler_of_all_errors_is_called(
    name: str, owner: Owner, others: Others, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(settings, *others(owner.endpoints, getattr(owner, name))) as client:
        answer = client.get("/added-fail")
    assert answer.status_code == 500
    assert answer.json() == {"detail": "Sorry"}
    assert len(answer.headers["x-request-id"]) == 32
    (error,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert error.exc_info
    assert str(error.exc_info[1]) == "secret"


def test_an_error_that_no_handler_answers_is_a_500(
    owner: Owner, others: Others, settings: Settings
) -> None:
    with serve(settings, *others(owner.endpoints, owner.handler_that_fails)) as client:
        answer = client.get("/added-fail")
        assert answer.status_code == 500
        assert answer.json() == {"detail": "Internal Server Error"}


def test_a_handler_replaces_the_service_s_own(
    owner: Owner, others: Others, settings: Settings
) -> None:
    additions = others(owner.endpoints, owner.mounts, owner.handlers_of_http_errors)
    with serve(settings, *additions) as client:
        for path in "/nowhere", "/added-static/nowhere":
            assert client.get(path).json() == {"error": "Not Found"}
        assert client.get("/added-key").json() == {"error": "'x'"}
        # Not an error for the owner's handler.
        assert client.get("/added-user/").json() == "somebody"
        assert client.head("/added-user").status_code == 200


def test_instrumentation_can_wrap_the_middleware(
    owner: Owner, others: Others, settings: Settings
) -> None:
    """OpenTelemetry's replaces the outermost middleware, and does nothing if it has another type."""

    def instrument(app: FastAPI) -> None:
        build = app.build_middleware_stack

        def wrap() -> ServerErrorMiddleware:
            stack = build()
            assert isinstance(stack, ServerErrorMiddleware)
            return ServerErrorMiddleware(stack.app, stack.handler, stack.debug)

        app.build_middleware_stack = wrap  # type: ignore[method-assign]

    with serve(settings, *others(owner.endpoints, owner.middleware), instrument) as client:
        answer = client.get("/added-fail", headers=ORIGIN)
        assert answer.status_code == 500
        assert len(answer.headers["x-request-id"]) == 32
        assert answer.headers["access-control-allow-origin"] == ORIGIN["origin"]


def test_head_of_an_endless_stream_ends(owner: Owner, others: Others, settings: Settings) -> None:
    with serve(settings, *others(owner.endpoints, owner.middleware)) as client:
        answer = client.head("/added-events")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")


def test_dependencies_can_be_replaced_and_work_goes_on_after_the_answer(
    owner: Owner, others: Others, settings: Settings
) -> None:
    with serve(settings, *others(owner.endpoints)) as client:
        assert client.get("/added-user").json() == "somebody"
    assert "ran after the answer" in owner.events


def test_a_web_socket_has_a_request_id_in_the_log(
    owner: Owner, others: Others, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        serve(settings, *others(owner.endpoints)) as client,
        client.websocket_connect("/added-echo", headers={"x-request-id": "ws-1"}) as socket,
    ):
        socket.send_text("hello")
        assert socket.receive_text() == "hello"
    (line,) = (line for line in capfd.readouterr().out.splitlines() if "accepted" in line)
    assert "ws-1" in line


def test_mounted_files_and_applications_answer(
    owner: Owner, others: Others, settings: Settings
) -> None:
    with serve(settings, *others(owner.mounts)) as client:
        answer = client.get("/added-static/style.css")
        assert answer.text == "a {}"
        assert "cache-control" not in answer.headers  # it has an ETag
        assert client.head("/added-static/style.css").status_code == 200
        assert client.get("/added-sub/").json() == {"detail": "busy"}
        for path in "/added-static/nowhere", "/added-sub/nowhere":
            answer = client.get(path)
            assert answer.status_code == 404
            assert answer.headers["content-type"] == "application/json"
            assert len(answer.headers["x-request-id"]) == 32
        assert client.post("/added-static/style.css").status_code == 405


def test_a_mounted_application_answers_head_and_the_other_slash_itself(
    owner: Owner, others: Others, settings: Settings
) -> None:
    with serve(settings, *others(owner.mounts)) as client:
        for path in "/shelf", "/shelf/", "/inner/shelf", "/inner/shelf/":
            for method in "GET", "HEAD":
                url = "/added-sub" + path
                answer = client.request(method, url, headers=PLAIN, follow_redirects=False)
                assert answer.status_code == 200, (method, path)
                assert answer.headers["content-length"] == "7"
        assert client.head("/added-sub/").status_code == 409


def test_what_is_mounted_at_the_root_hides_no_route(owner: Owner, settings: Settings) -> None:
    for files in StaticFiles(directory=owner.folder, html=True), FastAPI():
        with serve(settings, lambda app, files=files: app.mount("/", files)) as client:  # type: ignore[misc]
            for method, path in ("GET", "/livez"), ("HEAD", "/livez"), ("HEAD", "/health"):
                assert client.request(method, path).status_code == 200, (method, path)
            assert client.head("/nowhere").status_code == 404


def test_a_folder_of_files_redirects_to_its_slash(
    owner: Owner, others: Others, settings: Settings
) -> None:
    """Without it, the relative links of its page lead elsewhere."""
    with serve(settings, *others(owner.mounts)) as client:
        for path in "/added-static", "/added-static/guide", "/added-ui", "/added-ui/guide":
            answer = client.get(path, follow_redirects=False)
            assert answer.status_code == 307, path
            assert answer.headers["location"] == f"http://testserver{path}/"


def test_routes_that_are_added_later_are_documented(owner: Owner, settings: Settings) -> None:
    with serve(settings, owner.router_with_lifespan, owner.endpoints) as client:
        paths = client.get("/openapi.json").json()["paths"]
        assert {"/added-warehouse/", "/added-user"} <= paths.keys()
