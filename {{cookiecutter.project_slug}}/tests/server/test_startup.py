"""How the service starts, fails to start, and starts again in a worker that replaces another one."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.server.serving import GET, Process, answer, serving, wait_until

FAILING = "raise ConnectionError('the warehouse does not answer')"


def ended(**environment: str) -> tuple[int, list[str]]:
    """Run a server that cannot start; return its exit status and the messages of its log."""
    server = Process(**environment)
    status = server.popen.wait(timeout=20)
    return status, [line["message"] for line in server.log()]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"PORT": "abc"}, "setting PORT: Input should be a valid integer"),
        ({"WEB_CONCURRENCY": "auto"}, "setting WEB_CONCURRENCY: "),
        ({"HOST": "localhost"}, "setting HOST: "),
        ({"WORKERS": "0"}, "setting WORKERS: "),
    ],
)
def test_a_bad_setting_ends_it_with_the_reason(environment: dict[str, str], reason: str) -> None:
    status, messages = ended(**environment)
    assert status == 1
    assert messages[-1].startswith(reason)


LIST = """
from pydantic_settings import BaseSettings

class Settings(BaseSettings):
    shops: list[str]

Settings()
"""


BOTH = """
from pydantic import model_validator
from pydantic_settings import BaseSettings

class Settings(BaseSettings):
    @model_validator(mode="after")
    def check(self):
        raise ValueError("CITY needs a COUNTRY")

Settings()
"""
FOLDER = """
from pydantic_settings import BaseSettings

class Settings(BaseSettings):
    city: str = ""

Settings(_secrets_dir=__import__("sys").executable)
"""


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (LIST, "setting SHOPS: Input should be JSON"),
        (BOTH, "setting: Value error, CITY needs a COUNTRY"),
        (FOLDER, "setting secrets_dir must reference a directory"),
        ("import nothing", "ModuleNotFoundError: No module named 'nothing'"),
        ("raise ValueError('no')", "ValueError: no"),
        ("raise SystemExit(0)", "cannot start: the service ended itself with status 0"),
        ("import time; time.sleep(60)", "cannot start: the start took longer than START_TIMEOUT"),
        # In the worker, not in the master.
        ("import uvicorn; uvicorn.Config.load = None", "cannot start: TypeError: 'NoneType'"),
    ],
)
def test_an_import_that_fails_ends_it_with_the_reason(code: str, reason: str) -> None:
    status, messages = ended(IMPORT=code, START_TIMEOUT="2", SHOPS="Rome,Oslo")
    assert status not in (0, None)
    assert messages[-1].startswith(reason)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (FAILING, "ConnectionError: the warehouse does not answer"),
        ("raise SystemExit(0)", "RuntimeError: SystemExit 0"),
        ("raise KeyboardInterrupt", "RuntimeError: KeyboardInterrupt "),
        ("raise asyncio.CancelledError", "RuntimeError: CancelledError "),
        ("await asyncio.sleep(60)", "the start took longer than START_TIMEOUT, 2 s"),
        ("time.sleep(60)", "the start took longer than START_TIMEOUT, 2 s"),
    ],
)
@pytest.mark.parametrize("workers", ["1", pytest.param("3", marks=pytest.mark.slow)])
def test_a_lifespan_that_fails_ends_it_with_the_reason(
    code: str, reason: str, workers: str
) -> None:
    status, messages = ended(START=code, START_TIMEOUT="2", WORKERS=workers)
    assert status == 3
    assert messages[-1] == f"cannot start: {reason}"
    assert len([message for message in messages if "Booting worker" in message]) <= int(workers)


def test_a_worker_that_dies_while_it_starts_ends_the_service() -> None:
    for code in "os._exit(1)", "os.kill(os.getpid(), 9)":
        status, messages = ended(START=code, WORKERS="2")
        assert status == 3
        assert re.fullmatch(r"cannot start: worker \d+ died while it started", messages[-1])


@pytest.mark.slow
def test_a_start_may_take_longer_than_a_worker_may_be_blocked() -> None:
    begin = time.monotonic()
    with serving(
        START="await asyncio.sleep(5)", WORKER_TIMEOUT="1", GRACEFUL_TIMEOUT="1"
    ) as server:
        assert time.monotonic() - begin > 5
        assert server.status("/") == 200
        assert len(server.messages("Booting worker")) == 1


# Number the workers from 255 on, because a part of what they share is used again by the 256th one.
AGED = """
from gunicorn.workers.base import Worker

init = Worker.__init__
Worker.__init__ = lambda worker, age, *rest: init(worker, age + 254, *rest)
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["kill", "recycle", "reload"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_replaced_worker_waits_for_its_dependency(way: str, workers: int, tmp_path: Path) -> None:
    """The warehouse goes away; workers are replaced; it comes back."""
    warehouse = tmp_path / "warehouse"
    warehouse.touch()
    with serving(
        IMPORT=AGED,
        START=f"available({str(warehouse)!r})",
        WORKERS=str(workers),
        MAX_REQUESTS="20" if way == "recycle" else "0",
        GRACEFUL_TIMEOUT="2",
    ) as server:
        old = server.workers()
        warehouse.unlink()
        if way == "kill":
            for worker in old:
                os.kill(worker, signal.SIGKILL)
        elif way == "reload":
            server.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: server.status("/") and not {*old} & {*server.workers()})
        wait_until(lambda: len(server.messages("cannot start: ConnectionError")) >= workers)
        assert server.popen.poll() is None
        assert {server.status("/livez") for _ in range(10)} == {200}
        assert {server.status(path) for path in ("/readyz", "/", "/nowhere")} == {503}
        warehouse.touch()
        begin = time.monotonic()
        wait_until(lambda: {server.status("/readyz") for _ in range(20)} == {200}, 5)
        assert time.monotonic() - begin < 5
        assert not server.messages("START_TIMEOUT")


@pytest.mark.slow
def test_a_replaced_worker_serves_as_soon_as_its_start_ends(tmp_path: Path) -> None:
    warehouse = tmp_path / "warehouse"
    warehouse.touch()
    start = f"while not Path({str(warehouse)!r}).exists(): await asyncio.sleep(0.1)"
    with serving(START=start) as server:
        warehouse.unlink()
        os.kill(server.workers()[0], signal.SIGKILL)
        wait_until(lambda: len(server.messages("Booting worker")) == 2)
        assert (server.status("/livez"), server.status("/")) == (200, 503)
        time.sleep(0.5)
        warehouse.touch()
        wait_until(lambda: server.status("/") == 200)
        assert len(server.messages("Booting worker")) == 2
        assert not server.messages("Exception")


@pytest.mark.slow
def test_a_replaced_worker_answers_while_its_dependency_is_silent(tmp_path: Path) -> None:
    warehouse = tmp_path / "warehouse"
    warehouse.touch()
    start = f"Path({str(warehouse)!r}).exists() or await asyncio.sleep(5); available({str(warehouse)!r})"
    with serving(START=start) as server:
        warehouse.unlink()
        os.kill(server.workers()[0], signal.SIGKILL)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            assert server.status("/livez") == 200
            time.sleep(0.2)


@pytest.mark.slow
def test_a_replaced_worker_that_starts_too_slowly_is_replaced_again(tmp_path: Path) -> None:
    warehouse = tmp_path / "warehouse"
    warehouse.touch()
    start = f"Path({str(warehouse)!r}).exists() or time.sleep(60)"
    with serving(START=start, START_TIMEOUT="2") as server:
        warehouse.unlink()
        os.kill(server.workers()[0], signal.SIGKILL)
        wait_until(lambda: len(server.messages("cannot start: .* START_TIMEOUT")) == 2)
        warehouse.touch()
        wait_until(lambda: len(server.messages("startup complete")) == 2)
        assert server.status("/") == 200
        assert server.messages("exited with code 1")


@pytest.mark.slow
def test_a_worker_that_waits_takes_no_request_from_the_others(tmp_path: Path) -> None:
    warehouse = tmp_path / "warehouse"
    warehouse.touch()
    with serving(START=f"available({str(warehouse)!r})", WORKERS="2") as server:
        warehouse.unlink()
        os.kill(server.workers()[0], signal.SIGKILL)
        wait_until(lambda: server.messages("cannot start: ConnectionError"))
        assert {server.status("/") for _ in range(100)} == {200}
        wait_until(lambda: server.messages("exited with code 1"))


@pytest.mark.slow
def test_a_replaced_worker_that_waits_can_be_stopped(tmp_path: Path) -> None:
    warehouse = tmp_path / "warehouse"
    warehouse.touch()
    with serving(START=f"available({str(warehouse)!r})") as server:
        warehouse.unlink()
        os.kill(server.workers()[0], signal.SIGKILL)
        wait_until(lambda: server.messages("cannot start: ConnectionError"))
        begin = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begin < 5
        assert "cannot start" not in server.log()[-1]["message"]


def test_a_worker_whose_lifespan_ends_is_replaced(tmp_path: Path) -> None:
    with serving(TASK=str(tmp_path / "failed")) as server:
        with server.connect() as connection:
            answers = []

            def told() -> bool:
                connection.sendall(GET)
                answers.append(answer(connection))
                return b"connection: close" in answers[-1]

            wait_until(told)
            assert answers[-1].startswith(b"HTTP/1.1 503 ")
        wait_until(lambda: len(server.messages("startup complete")) == 2)
        assert server.status("/") == 200
        assert len(server.messages("the lifespan ended: ExceptionGroup")) == 1


SHOW_STACK = """
import logging

def show(record):
    record.msg += str(record.stack_info)
    return True

logging.getLogger("server.worker").addFilter(show)
"""


def test_a_blocked_worker_is_replaced_and_the_log_shows_where_it_was_blocked() -> None:
    with serving(IMPORT=SHOW_STACK, WORKER_TIMEOUT="1", GRACEFUL_TIMEOUT="1") as server:
        assert (
            server.exchange(b"GET /sleep?seconds=30&blocking=1 HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        )
        wait_until(lambda: len(server.messages("startup complete")) == 2)
        assert server.status("/") == 200
        (message,) = server.messages("the event loop was blocked")
        assert "in sleep" in message
        assert len(server.messages("exited with code 1")) == 1


def test_nothing_is_written_to_disk(tmp_path: Path) -> None:
    with serving(HOME=str(tmp_path)) as server:
        for process in server.popen.pid, *server.workers():
            files = {str(file.readlink()) for file in Path(f"/proc/{process}/fd").iterdir()}
            written = {file for file in files if re.match("/(?!dev/)", file)}
            assert written <= {str(server.log_file)}
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_every_line_is_json_after_any_signal() -> None:
    with serving(WORKERS="2") as server:
        for name in "USR1", "TTIN", "TTOU", "WINCH", "HUP", "CHLD", "CONT":
            server.popen.send_signal(signal.Signals[f"SIG{name}"])
            time.sleep(0.3)
        wait_until(lambda: server.status("/") == 200)
        time.sleep(2)
        assert {line["level"] for line in server.log()} <= {"INFO", "WARNING"}
        assert not server.messages("GET")  # the service logs its requests itself
