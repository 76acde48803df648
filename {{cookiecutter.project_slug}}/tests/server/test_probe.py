"""The health probe, against servers that answer, fail, hang or are not there."""

import inspect
import re
import socket
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from server import probe
from tests.server.serving import needs_ipv6


def ask(answer: bytes, linger: bool = False) -> int:
    """Return the probe's exit status when the server sends `answer`, and closes unless `linger`."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(answer)
                if linger:
                    connection.recv(1024)

        thread = Thread(target=serve)
        thread.start()
        try:
            return probe.main("0.0.0.0", server.getsockname()[1], timeout=0.3)
        finally:
            thread.join()


@pytest.mark.parametrize(
    "status", [b"HTTP/1.1 200 OK", b"HTTP/1.0 204 No Content", b"HTTP/1.1 307 x", b"HTTP/1.1 401 x"]
)
def test_an_answer_below_500_is_healthy(status: bytes) -> None:
    assert ask(status + b"\r\n\r\n") == 0


@pytest.mark.parametrize(
    "status",
    [b"HTTP/1.1 500 ".ljust(65, b"x"), b"HTTP/1.1 503 ", b"HTTP/1.1 2", b"220 ", b""],
)
def test_any_other_answer_is_unhealthy(status: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(status + b"\r\nDate: x\r\n" * bool(status)) == 1
    assert capsys.readouterr().out == f"/livez: {status[:64].decode() or 'no answer'}\n"


def test_no_answer_is_unhealthy() -> None:
    assert ask(b"", linger=True) == 1


def test_no_server_is_unhealthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert probe.main("127.0.0.1", port) == 1


@pytest.mark.parametrize(
    ("host", "address"),
    [
        pytest.param("::", "::1", marks=needs_ipv6),
        pytest.param("::1", "::1", marks=needs_ipv6),
        ("0.0.0.0", "127.0.0.1"),
    ],
)
def test_it_asks_the_address_that_the_server_listens_on(host: str, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        thread = Thread(target=serve)
        thread.start()
        assert probe.main(host, server.getsockname()[1]) == 0
        thread.join()


@needs_ipv6
def test_the_command_asks_the_host_and_port_of_the_environment() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        thread = Thread(target=serve, daemon=True)
        thread.start()
        environment = {"HOST": "::1", "PORT": str(server.getsockname()[1])}
        command = [sys.executable, "-I", "-S", probe.__file__]
        assert subprocess.run(command, env=environment).returncode == 0
        thread.join()


def test_it_says_why_before_docker_ends_it() -> None:
    """Docker shows no reason for a probe that it ends itself."""
    dockerfile = Path(__file__).parents[2].joinpath("Dockerfile").read_text()
    limit = re.search(r"HEALTHCHECK .*--timeout=(\d+)s", dockerfile)
    assert limit is not None
    assert inspect.signature(probe.main).parameters["timeout"].default == int(limit[1]) - 1
