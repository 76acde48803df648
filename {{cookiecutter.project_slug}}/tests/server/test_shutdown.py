"""How the server stops, reloads and recycles, with clients that go on."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.server.serving import (
    COMMAND,
    GET,
    ROOT,
    Process,
    answer,
    free_port,
    needs_ipv6,
    serving,
    wait_until,
)


class Clients:
    """Clients that ask again and again on connections that they keep."""

    def __init__(self, server: Process | SimpleNamespace, count: int = 8) -> None:
        self.server = server
        self.outcomes: Counter[str] = Counter()
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(count)]

    def run(self) -> None:
        """Ask until told to end. An answer that said `close` ends a connection without a loss."""
        while not self.ended.is_set():
            try:
                connection = self.server.connect()
            except OSError:
                self.outcomes["refused"] += 1
                time.sleep(0.05)
                continue
            with connection:
                while not self.ended.is_set():
                    try:
                        connection.sendall(GET)
                        received = answer(connection)
                    except (OSError, AssertionError):
                        self.outcomes["lost"] += 1
                        break
                    self.outcomes["answered"] += 1
                    if b"connection: close" in received:
                        self.outcomes["told"] += 1
                        break
                    time.sleep(0.002)

    def __enter__(self) -> "Clients":
        """Start them."""
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End them."""
        self.end()

    def end(self) -> None:
        """End them."""
        self.ended.set()
        for thread in self.threads:
            thread.join()


def test_at_a_stop_every_client_is_told_which_answer_is_the_last() -> None:
    for _ in range(int(os.environ.get("TURNS", "1"))):
        with serving(WORKERS="2") as server, Clients(server) as clients:
            time.sleep(0.5)
            assert server.stop() == 0
        assert clients.outcomes["lost"] == 0
        assert clients.outcomes["told"] >= 8


AT_EXIT = """
import atexit, sys

atexit.register(lambda: print("at the", "exit", end=""))

class Memory:
    def __del__(self, write=os.write):
        write(1, b"freed")

sys.memory = Memory()
"""


def test_each_worker_runs_what_the_service_registers_for_the_exit_and_frees_no_memory() -> None:
    with serving(WORKERS="2", IMPORT=AT_EXIT, PYTHONUNBUFFERED="") as server:
        assert server.stop() == 0
        assert server.log_file.read_text().count("at the exit") == 3
        assert server.log_file.read_text().count("freed") == 1  # by the master


@pytest.mark.slow
def test_no_request_is_lost_at_a_reload() -> None:
    with serving(WORKERS="2") as server, Clients(server) as clients:
        for turn in range(1, 1 + int(os.environ.get("TURNS", "3"))):
            server.popen.send_signal(signal.SIGHUP)
            wait_until(lambda turn=turn: len(server.messages("startup complete")) == 2 + 2 * turn)  # type: ignore[misc]
            wait_until(lambda: len(server.workers()) == 2)
    assert clients.outcomes["lost"] == clients.outcomes["refused"] == 0
    assert clients.outcomes["told"] >= 8


@pytest.mark.slow
def test_no_request_is_lost_when_workers_are_recycled() -> None:
    with serving(WORKERS="2", MAX_REQUESTS="300") as server, Clients(server) as clients:
        wait_until(
            lambda: (
                len(server.messages("startup complete")) >= 2 + int(os.environ.get("TURNS", "6"))
            ),
            300,
        )
    assert clients.outcomes["lost"] == clients.outcomes["refused"] == 0


@pytest.mark.slow
def test_no_request_is_lost_when_a_new_master_takes_over() -> None:
    with serving(WORKERS="2") as server, Clients(server) as clients:
        workers = server.workers()
        server.popen.send_signal(signal.SIGUSR2)
        wait_until(lambda: len(server.messages("startup complete")) == 4)
        (successor,) = {*server.workers()}.difference(workers)
        try:
            assert server.stop() == 0
            answered = clients.outcomes["answered"]
            wait_until(lambda: clients.outcomes["answered"] > answered + 100)
            clients.end()
        finally:
            os.kill(successor, signal.SIGTERM)
    assert clients.outcomes["lost"] == clients.outcomes["refused"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can do this")
def test_connections_are_refused_while_the_last_requests_are_answered() -> None:
    def refused() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            server.connect().close()
            return False
        return True

    with serving() as server, server.connect() as connection:
        connection.sendall(b"GET /sleep?seconds=3&blocking=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.3)
        server.popen.send_signal(signal.SIGTERM)
        wait_until(refused)
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
        connection.setblocking(True)
        assert answer(connection).startswith(b"HTTP/1.1 200 ")


def test_running_requests_finish_and_endless_ones_are_cancelled() -> None:
    with serving(GRACEFUL_TIMEOUT="2") as server:
        quick, endless, idle, half = (server.connect() for _ in range(4))
        quick.sendall(b"GET /sleep?seconds=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        endless.sendall(b"GET /sleep?seconds=60 HTTP/1.1\r\nHost: x\r\n\r\n")
        half.sendall(b"GET / HT")
        time.sleep(0.3)
        begin = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begin < 6
        assert b"connection: close" in answer(quick)
        assert not endless.recv(100).startswith(b"HTTP/1.1 200")
        assert idle.recv(1) == b""
        for connection in quick, endless, idle, half:
            connection.close()


def test_a_stop_waits_for_requests_but_not_for_idle_clients() -> None:
    with serving(GRACEFUL_TIMEOUT="60") as server:
        new, used, busy = (server.connect() for _ in range(3))
        used.sendall(GET)
        answer(used)
        busy.sendall(b"GET /sleep?seconds=3 HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.3)
        assert server.stop() == 0
        assert answer(busy).startswith(b"HTTP/1.1 200 ")
        for connection in new, used, busy:
            connection.close()


def test_a_quick_stop_waits_for_nothing() -> None:
    with serving(DRAIN="60") as server, server.connect() as endless:
        endless.sendall(b"GET /sleep?seconds=60 HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.3)
        begin = time.monotonic()
        server.popen.send_signal(signal.SIGINT)
        assert server.popen.wait(timeout=20) == 0
        assert time.monotonic() - begin < 4


def test_a_drain_serves_requests_and_readyz_answers_503() -> None:
    with serving(DRAIN="2", WORKERS="2") as server:
        server.popen.send_signal(signal.SIGTERM)
        wait_until(lambda: server.status("/readyz") == 503, 1)
        assert {server.status("/readyz") for _ in range(10)} == {503}
        assert server.status("/livez") == server.status("/") == 200
        os.kill(server.workers()[0], signal.SIGKILL)
        time.sleep(0.5)
        assert {server.status("/") for _ in range(5)} == {200}
        assert server.popen.wait(timeout=20) == 0
        assert not server.messages("cannot start")
        with pytest.raises(ConnectionRefusedError):
            server.connect()


@pytest.mark.slow
def test_a_quick_stop_ends_a_drain() -> None:
    with serving(DRAIN="60", GRACEFUL_TIMEOUT="60") as server, server.connect() as endless:
        endless.sendall(b"GET /sleep?seconds=60 HTTP/1.1\r\nHost: x\r\n\r\n")
        server.popen.send_signal(signal.SIGTERM)
        wait_until(lambda: server.status("/readyz") == 503, 2)
        server.popen.send_signal(signal.SIGINT)
        assert server.popen.wait(timeout=10) == 0


@pytest.mark.slow
def test_a_start_that_fails_is_not_drained() -> None:
    server = Process(DRAIN="60", START="raise ValueError")
    assert server.popen.wait(timeout=20) == 3


@contextmanager
def activated(listener: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server with a socket that somebody else opened, as systemd and Podman do."""
    prelude = "import os; os.environ['LISTEN_PID'] = str(os.getpid())\n"
    if listener.fileno() != 3:
        os.dup2(listener.fileno(), 3, inheritable=True)
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", prelude + COMMAND],
        cwd=ROOT,
        env={"PATH": os.defpath, "WORKERS": "1", "PORT": str(free_port()), "LISTEN_FDS": "1"},
        stdout=subprocess.DEVNULL,
        pass_fds=[3],
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_a_successor_takes_over_a_socket_that_somebody_else_opened(
    family: int, tmp_path: Path
) -> None:
    def connect() -> socket.socket:
        connection = socket.socket(family)
        connection.settimeout(20)
        connection.connect(address)
        return connection

    saved = None
    with contextlib.suppress(OSError):
        saved = os.dup(3)
    try:
        with socket.socket(family) as listener:
            listener.bind(
                ("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "socket")
            )
            listener.listen()
            address = listener.getsockname()
            server = SimpleNamespace(connect=connect)
            with activated(listener) as process, Clients(server) as clients:
                wait_until(lambda: clients.outcomes["answered"] > 100)
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=20) == 0
                answered = clients.outcomes["answered"]
                with activated(listener) as successor:
                    wait_until(lambda: clients.outcomes["answered"] > answered + 100)
                    clients.end()
                    successor.terminate()
                    assert successor.wait(timeout=20) == 0
            assert clients.outcomes["told"] >= 8
            assert clients.outcomes["lost"] == clients.outcomes["refused"] == 0
    finally:
        if saved is not None:
            os.dup2(saved, 3)
            os.close(saved)


@needs_ipv6
def test_it_listens_on_ipv6_too() -> None:
    with serving(HOST="::") as server:
        for address in "::1", "127.0.0.1":
            with socket.create_connection((address, server.port), timeout=5) as client:
                client.sendall(GET)
                assert answer(client).startswith(b"HTTP/1.1 200 ")
