"""The server as the image runs it, `python -m app`, spoken to over real connections."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

if os.name == "nt":
    pytest.skip("gunicorn does not run on Windows", allow_module_level=True)

from app.server import MAX_HEAD, refuse_at_stop

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("settings")


def start(*command: str, **environment: str) -> subprocess.Popen[str]:
    """Start `python -m app`, or another command of this Python; its output is a pipe."""
    return subprocess.Popen(
        [sys.executable, "-B", *(command or ("-m", "app"))],
        cwd=ROOT,
        env={
            "PATH": os.defpath,
            "WORKERS": "1",
            # {% if cookiecutter.database != "none" %}
            "DATABASE_URL": os.environ["DATABASE_URL"],
            # {% endif %}
            # {% if cookiecutter.database == "postgresql" %}
            "DEVELOPMENT": "true",
            # {% endif %}
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def serving(*command: str, **environment: str) -> Iterator[tuple[int, list[str]]]:
    """Serve on a free port; yield it, and the lines of the log, complete when this ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    log: list[str] = []
    with start(*command, PORT=str(port), **environment) as process:
        try:
            assert process.stdout
            for line in process.stdout:
                log.append(line)
                if "Application startup complete" in line:
                    break
            yield port, log
        finally:
            process.send_signal(signal.SIGTERM)
            log += process.communicate(timeout=20)[0].splitlines()
    assert process.returncode == 0, log


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Return the port of a server that waits a second for slow clients."""
    with serving(READ_TIMEOUT="1") as (port, _):
        yield port


def exchange(port: int, *parts: bytes) -> bytes:
    """Send raw bytes; return what comes back until the server closes the connection, or resets it."""
    answer = b""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
        suppress(BrokenPipeError, ConnectionResetError),
    ):
        for part in parts:
            connection.sendall(part)
        while received := connection.recv(65536):
            answer += received
    return answer


def test_it_serves_logs_json_and_stops() -> None:
    with serving(ROOT_PATH="/shop", WEB_CONCURRENCY="") as (port, log):
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/health?q=x")
        answer = connection.getresponse()
        assert answer.status == 200
        assert json.load(answer) == {"status": "healthy"}
        assert answer.getheader("server") is None
        assert answer.getheader("x-content-type-options") == "nosniff"
        connection.close()
    assert {json.loads(line)["level"] for line in log} == {"INFO"}


POST = b"POST /items/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9"


@pytest.mark.parametrize("begun", [b"", b"GET / HT", POST[:50], POST + b"\r\n\r\n{"])
def test_a_client_that_does_not_go_on_is_dropped(begun: bytes, port: int) -> None:
    assert exchange(port, begun) == b""


@pytest.mark.parametrize("form", [b"GET / HTTP/1.1\r\nX-Y: %s\r\n", b"GET /?%s HTTP/1.1\r\n"])
def test_a_head_that_is_too_large_is_refused(form: bytes, port: int) -> None:
    end = b"Host: x\r\nConnection: close\r\n\r\n"
    assert exchange(port, form % (b"y" * (MAX_HEAD - 100)) + end).startswith(b"HTTP/1.1 200 ")
    assert exchange(port, form % (b"y" * MAX_HEAD) + end).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nX-Y: %s\r\n\r\n" % (b"y" * MAX_HEAD),
        b"no HTTP\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n",
    ],
)
def test_what_the_server_itself_refuses_has_the_one_format(sent: bytes, port: int) -> None:
    head, _, body = exchange(port, sent).partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    assert status == "HTTP/1.1 400 Bad Request"
    assert json.loads(body).keys() == {"detail"}
    assert {
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
        "x-content-type-options: nosniff",
    } <= {*headers}


def test_a_head_in_many_pieces_is_counted_once(port: int) -> None:
    head = b"GET / HTTP/1.1\r\nConnection: close\r\nX-Y: %s\r\n\r\n" % (b"y" * 20_000)
    pieces = (head[begin : begin + 1000] for begin in range(0, len(head), 1000))
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.005)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


def test_an_offer_of_another_protocol_is_ignored_and_the_body_is_read(port: int) -> None:
    body = b'{"name": "Lamp", "price": 1}'
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n"
    head = POST.replace(b"Content-Length: 9", b"Content-Length: %d\r\n" % len(body)) + offer
    last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answers = exchange(port, head + b"\r\n" + body, last)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"201", b"200"]


def test_a_trailer_is_no_header(port: int) -> None:
    chunked = POST.replace(b"Content-Length: 9", b"Transfer-Encoding: chunked\r\nConnection: close")
    trailer = b"X-Request-ID: forged\r\n"
    answer = exchange(port, chunked + b"\r\n\r\n2\r\n{}\r\n0\r\n" + trailer + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 422 ")
    assert b"forged" not in answer


STOPPING = """
import asyncio, sys
import app.__main__, app.main

@app.main.app.get("/slow")
async def slow(seconds: float) -> None:
    await asyncio.sleep(seconds)

app.__main__.main()
"""


def test_a_stop_lets_requests_finish_and_ends_those_that_do_not() -> None:
    with serving("-c", STOPPING, GRACEFUL_TIMEOUT="2") as (port, _):
        connections = [socket.create_connection(("127.0.0.1", port), timeout=15) for _ in range(3)]
        for connection, path in zip(
            connections, (b"/slow?seconds=1", b"/slow?seconds=60"), strict=False
        ):
            connection.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.5)
    answers = []
    for connection in connections:
        with connection:
            answers.append(connection.recv(65536))
    quick, endless, idle = answers
    assert quick.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in quick
    assert endless.startswith(b"HTTP/1.1 503 ")
    assert idle == b""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can refuse without closing")
def test_a_stop_begins_with_refusing_new_connections_and_keeps_those_that_wait() -> None:
    said: list[bool] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        master: Any = SimpleNamespace(LISTENERS=[SimpleNamespace(sock=listener)], stop=said.append)
        refuse_at_stop(master)
        with socket.create_connection(address, timeout=5) as waiting:
            master.stop(True)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address, timeout=5)
            waiting.sendall(b"still heard")
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(100) == b"still heard"
    assert said == [True]


def test_a_header_that_does_not_end_is_refused(port: int) -> None:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
        pytest.raises((BrokenPipeError, ConnectionResetError)),
    ):
        # More than the kernel's buffers hold, in less time than the read timeout.
        connection.sendall(b"GET / HTTP/1.1\r\nX-Y: " + b"y" * 40_000_000)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, "setting PORT: Field required"),
        ({"PORT": "abc"}, "setting PORT: Input should be a valid integer"),
        ({"PORT": "8000", "WEB_CONCURRENCY": "auto"}, "setting WEB_CONCURRENCY: "),
        ({"PORT": "8000", "DOCS": "perhaps"}, "setting DOCS: "),
    ],
)
def test_a_bad_setting_ends_it_with_the_reason(environment: dict[str, str], reason: str) -> None:
    with start(**environment) as process:
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 1, output
    assert json.loads(output.splitlines()[-1])["message"].startswith(reason)


FAILING = """
import contextlib, sys
import app.__main__, app.main

@contextlib.asynccontextmanager
async def failing(_):
    raise ConnectionError("the warehouse does not answer")
    yield

app.main.app.router.lifespan_context = failing
app.__main__.main()
"""


def test_a_service_that_cannot_start_ends_it_with_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with start("-c", FAILING, PORT=str(port), WORKERS="2") as process:
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 3, output
    lines = [json.loads(line)["message"] for line in output.splitlines()]
    assert lines[-1] == "cannot start: ConnectionError: the warehouse does not answer"
    assert len(re.findall("Booting worker", output)) <= 2
