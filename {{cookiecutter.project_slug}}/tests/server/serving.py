"""The server as a process of its own, and clients with raw sockets."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Serve the tests' own service.
COMMAND = (
    "import server.settings, server.__main__\n"
    "server.settings.SERVICE = 'tests.server.service:app'\n"
    "server.__main__.main()"
)
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def has_ipv6() -> bool:
    """Tell whether this machine has IPv6; many containers have none."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Return when `condition` is true; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


class Process:
    """A running server: its port, and its log as a list of JSON objects."""

    def __init__(self, **environment: str) -> None:
        self.port = free_port()
        self.log_file = Path(os.environ["SERVER_LOGS"]) / f"{self.port}.log"
        with self.log_file.open("wb") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-B", "-c", COMMAND],
                cwd=ROOT,
                env={"PATH": os.defpath, "WORKERS": "1", "PORT": str(self.port), **environment},
                stdout=output,
                stderr=output,
            )

    def log(self) -> list[dict[str, str]]:
        """Return the log; each line must be a JSON object."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def messages(self, pattern: str) -> list[str]:
        """Return the messages that contain `pattern`."""
        return [line["message"] for line in self.log() if re.search(pattern, line["message"])]

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        children = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def wait_started(self, workers: int = 1, seconds: float = 20) -> None:
        """Wait until that many workers have ever started."""
        wait_until(lambda: len(self.messages("startup complete")) >= workers, seconds)

    def stop(self) -> int:
        """Stop the server as Docker does; return its exit status."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(timeout=20)

    def connect(self, timeout: float = 10) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def exchange(self, *parts: bytes, timeout: float = 10) -> bytes:
        """Send raw bytes; return what comes back until the server closes the connection."""
        received = b""
        with (
            self.connect(timeout) as connection,
            contextlib.suppress(BrokenPipeError, ConnectionResetError),
        ):
            for part in parts:
                connection.sendall(part)
            while data := connection.recv(65536):
                received += data
        return received

    def status(self, path: str) -> int:
        """Return the status of a GET of `path`."""
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        return int(self.exchange(head.encode())[9:12])


@contextmanager
def serving(**environment: str) -> Iterator[Process]:
    """Serve the tests' own service with these settings; stop it afterwards, which must succeed."""
    server = Process(**environment)
    try:
        server.wait_started(int(environment.get("WORKERS", "1")))
        yield server
    finally:
        if server.popen.poll() is None:
            assert server.stop() == 0, server.log_file.read_text()


def answer(connection: socket.socket) -> bytes:
    """Read one answer that has a Content-Length, and nothing after it."""
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        received += (byte := connection.recv(1))
        assert byte, received
    for line in received.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
            while length > 0:
                received += (data := connection.recv(length))
                assert data, received
                length -= len(data)
    return received


def statuses(received: bytes) -> list[int]:
    """Return the status of each answer."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]
