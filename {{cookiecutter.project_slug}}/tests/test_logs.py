"""The log: one line of JSON for each event."""

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pytest

if os.name == "nt":
    pytest.skip("pipes and terminals are others on Windows", allow_module_level=True)

import pty

from app import logs

ROOT = Path(__file__).parents[1]
log = logging.getLogger("app.test")


def run(
    *arguments: str, stdout: int, stderr: int | None = None, cwd: Path = ROOT, **environment: str
) -> "subprocess.Popen[str]":
    """Start this Python with `arguments` and the settings of the tests."""
    return subprocess.Popen(
        [sys.executable, "-B", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=stdout,
        stderr=stderr,
        text=True,
    )


def format_record(message: str, **extra: object) -> str:
    """Return the line for a record made here and now."""
    record = logging.makeLogRecord({"msg": message, "levelname": "INFO", "name": "x"} | extra)
    return logs.JSONFormatter().format(record)


def test_a_line_has_time_level_logger_message_and_extras() -> None:
    line = json.loads(format_record("hello", order=7, level=3, color_message="\x1b[1m"))
    assert line.keys() == {"time", "level", "logger", "message", "order", "level_"}
    assert (line["order"], line["level"], line["level_"]) == (7, "INFO", 3)
    time = datetime.fromisoformat(line["time"])
    assert time.utcoffset() == timedelta(0)
    assert datetime.now(UTC) - time < timedelta(minutes=1)


@pytest.mark.parametrize("evil", ["a\nb", "\x1b[31m", "\x85\u2028", "\ud800", '"}{"', "\0"])
def test_nothing_breaks_a_line(evil: str) -> None:
    line = format_record(evil, order=evil)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["message"] == evil
    assert json.loads(line)["order"] == evil


def test_a_request_s_lines_have_its_id() -> None:
    token = logs.request_id.set("abc")
    try:
        assert json.loads(format_record("x"))["request_id"] == "abc"
    finally:
        logs.request_id.reset(token)


def test_a_record_that_cannot_be_formatted_loses_no_line() -> None:
    line = json.loads(format_record("%d", args=("x",)))
    assert line["message"] == "'%d' ('x',)"
    assert line["log_error"].startswith("TypeError")
    assert json.loads(format_record("x", bad=float("nan")))["message"] == "x"


def test_requests_are_logged_in_order_with_other_lines(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait for the end of the loop's turn, but no other line gets before them."""
    monkeypatch.setattr(logging.root, "handlers", [logs.stdout])
    monkeypatch.setattr(logs.stdout, "formatter", logs.JSONFormatter())

    async def turn() -> None:
        logs.log_request({"method": "GET", "path": '/"\x1b'}, logging.INFO, None, 404, 0.25)
        assert capfd.readouterr().out == ""
        log.info("next")
        logs.log_request({"method": "GET", "path": "/"}, logging.INFO, "/", 200, 0.25)
        await asyncio.sleep(0)

    asyncio.run(turn())
    first, second, third = map(json.loads, capfd.readouterr().out.splitlines())
    assert first["path"] == '/"\x1b'
    assert first["message"] == 'GET /\\"\\u001b 404'
    assert first["route"] is None
    assert second["message"] == "next"
    assert third["message"] == "GET / 200"
    assert list(third) == [
        *("time", "level", "logger", "message", "request_id"),
        *("method", "route", "path", "status", "duration_ms", "client"),
    ]


class OwnFormatter(logs.JSONFormatter):
    """A formatter of the owner."""

    def format(self, record: logging.LogRecord) -> str:
        return "own"


def own_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    """Make a record as tracing libraries do."""
    record = logging.LogRecord(*args, **kwargs)
    record.trace = "t1"
    return record


CHANGES: dict[str, tuple[Callable[[], Any], str]] = {
    "filter": (lambda: logs.stdout.addFilter(lambda _: False), ""),
    "level": (lambda: logs.stdout.setLevel("WARNING"), ""),
    "propagate": (lambda: setattr(logs.requests, "propagate", False), ""),
    "formatter": (lambda: logs.stdout.setFormatter(OwnFormatter()), "own"),
    "factory": (lambda: logging.setLogRecordFactory(own_record), '"trace": "t1"'),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_for_all_lines_holds_for_requests(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change, written = CHANGES[name]
    monkeypatch.setattr(logging.root, "handlers", [logs.stdout])
    monkeypatch.setattr(logs.stdout, "formatter", logs.JSONFormatter())
    monkeypatch.setattr(logs.stdout, "filters", [])
    monkeypatch.setattr(logs.stdout, "level", logging.NOTSET)
    monkeypatch.setattr(logs.requests, "propagate", True)
    try:
        change()

        async def turn() -> None:
            logs.log_request({"method": "GET", "path": "/"}, logging.INFO, "/", 200, 0.25)

        asyncio.run(turn())
    finally:
        logging.setLogRecordFactory(logging.LogRecord)
    output = capfd.readouterr().out
    assert written in output if written else not output


FORK = """
import asyncio, logging, multiprocessing
from app import logs

logs.configure(log_format="json")
log = logging.getLogger("app.test")

async def turn():
    logs.log_request({"method": "GET", "path": "/"}, logging.INFO, "/", 200, 0.25)
    child = multiprocessing.get_context("fork").Process(target=log.info, args=("child",))
    child.start()
    child.join()

asyncio.run(turn())
"""


def test_a_child_process_does_not_repeat_a_line_that_waits() -> None:
    output, _ = run("-c", FORK, stdout=subprocess.PIPE).communicate()
    assert [json.loads(line)["message"] for line in output.splitlines()] == ["child", "GET / 200"]


def test_a_client_s_lines_about_its_urls_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    import_module("app.main")
    logging.getLogger("httpx2").info("HTTP Request: GET https://shop.example/?token=s3cr3t")
    assert caplog.messages == []


def test_uvicorn_s_line_about_a_web_socket_has_no_query(caplog: pytest.LogCaptureFixture) -> None:
    import_module("app.main")
    uvicorn = logging.getLogger("uvicorn.error")
    uvicorn.info('%s - "WebSocket %s" [accepted]', "127.0.0.1:5", "/echo?token=s3cr3t")
    uvicorn.info('%s - "WebSocket %s" %d', "127.0.0.1:5", "/echo?token=s3cr3t", 403)
    assert caplog.messages == [
        '127.0.0.1:5 - "WebSocket /echo" [accepted]',
        '127.0.0.1:5 - "WebSocket /echo" 403',
    ]


WRITE = """
import logging, sys
from app import logs

logs.configure()
who, lines = sys.argv[1], int(sys.argv[2])
for number in range(lines):
    size = 20_000 if number % 7 == 0 else 100 + number * 13 % 4_000
    logging.getLogger("app").info("x" * size, extra={"who": who, "number": number})
"""


def test_lines_of_several_processes_do_not_mix() -> None:
    """All share one pipe, which keeps only writes of up to 4 KiB together by itself."""
    count = 400
    reading, writing = os.pipe()
    writers = [run("-c", WRITE, str(who), str(count), stdout=writing) for who in range(4)]
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        found = [json.loads(line) for line in pipe]
    for writer in writers:
        assert writer.wait() == 0
    assert len(found) == 4 * count
    for who in "0123":
        assert [line["number"] for line in found if line["who"] == who] == list(range(count))


def test_a_line_waits_for_a_pipe_that_is_full_and_does_not_block() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    writer = run("-c", WRITE, "0", "50", stdout=writing)
    os.close(writing)
    time.sleep(0.5)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        assert [json.loads(line)["number"] for line in pipe] == list(range(50))
    assert writer.wait() == 0


@pytest.mark.parametrize("output", ["closed", "full", "gone"])
def test_a_log_that_cannot_be_written_does_not_stop_the_service(output: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-Bc", WRITE, "0", "3"]
    if output == "closed":
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    with Path("/dev/full").open("wb") as full:
        stdout = {"closed": None, "full": full, "gone": writing}[output]
        done = subprocess.run(
            command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
        )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


# Code that an owner adds; the tests start it in several ways.
# Not through a proxy that this shell may name.
urlopen = build_opener(ProxyHandler({})).open

OWNER = """
import logging
from app.main import app

log = logging.getLogger("app.owner")
logging.getLogger("app.owner").debug("details")

@app.get("/hello")
async def hello() -> str:
    log.info("hello from the owner")
    return "hello"
"""

UVICORN = ["-m", "uvicorn", "owner:app", "--port", "{port}"]
SERVER = """
import server.__main__, server.settings

server.settings.SERVICE = "owner:app"
server.__main__.main()
"""
WAYS = {
    "uvicorn": UVICORN,
    "uvicorn, two workers": [*UVICORN, "--workers", "2"],
    "uvicorn, reloading": [*UVICORN, "--reload"],
    "gunicorn": ["-m", "gunicorn", "owner:app", "-k", "asgi", "-b", "127.0.0.1:{port}"],
    "server": ["-c", SERVER],
}


@contextmanager
def serving(
    way: list[str], folder: Path, terminal: bool = False, **environment: str
) -> Iterator[tuple[int, list[str]]]:
    """Serve `OWNER`; yield the port, and the lines of its output, complete when this ends."""
    (folder / "owner.py").write_text(OWNER)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    reading, writing = pty.openpty() if terminal else os.pipe()
    path = os.pathsep.join([str(ROOT), str(folder)])
    command = [argument.replace("{port}", str(port)) for argument in way]
    environment |= {"PYTHONPATH": path, "PORT": str(port), "WORKERS": "2"}
    process = run(*command, stdout=writing, stderr=writing, cwd=folder, **environment)
    os.close(writing)
    output: list[str] = []

    def read() -> None:
        with suppress(OSError), os.fdopen(reading, encoding="utf-8") as lines:
            output.extend(line.rstrip("\r\n") for line in lines)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/livez").close()
                break
            except OSError:
                assert time.monotonic() < deadline
                assert process.poll() is None, output
                time.sleep(0.1)
        yield port, output
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        reader.join(10)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_every_way_to_start_it_logs_alike(way: list[str], tmp_path: Path) -> None:
    with serving(way, tmp_path) as (port, output):
        urlopen(f"http://127.0.0.1:{port}/hello?q=secret").close()
    lines = [json.loads(line) for line in output if line.startswith("{")]
    messages = [line["message"] for line in lines]
    said = lines[messages.index("hello from the owner")]
    answered = lines[messages.index("GET /hello 200")]
    assert said["request_id"] == answered["request_id"]
    assert sum("hello" in line for line in output) == 2
    assert "details" not in messages
    assert not [line for line in output if "secret" in line or "livez" in line]
    if way in (
        WAYS["uvicorn"],
        WAYS["server"],
    ):  # else, a first process does not import the service
        assert len(lines) == len(output)
        assert messages.count("Application startup complete.") == (1 if way == UVICORN else 2)


@pytest.mark.usefixtures("settings")
def test_a_terminal_gets_readable_lines(tmp_path: Path) -> None:
    with serving(UVICORN, tmp_path, terminal=True, LOG_LEVEL="debug") as (port, output):
        urlopen(f"http://127.0.0.1:{port}/hello").close()
    (said,) = (line for line in output if "hello from the owner" in line)
    (answered,) = (line for line in output if "GET /hello 200" in line)
    assert re.search(r"^\S+ INFO +app.owner: hello from the owner$", said)
    assert answered.endswith(" INFO     app.requests: GET /hello 200")
    assert any("DEBUG    app.owner: details" in line for line in output)


@pytest.mark.usefixtures("settings")
def test_the_level_holds_for_the_server_too(tmp_path: Path) -> None:
    with serving(UVICORN, tmp_path, LOG_LEVEL="warning", LOG_FORMAT="JSON") as (port, output):
        urlopen(f"http://127.0.0.1:{port}/hello").close()
    assert output == []


@pytest.mark.parametrize("name", ["LOG_LEVEL", "LOG_FORMAT"])
def test_a_bad_setting_ends_any_way_to_start_it(name: str) -> None:
    done = run("-m", "uvicorn", "app.main:app", stdout=subprocess.PIPE, stderr=-2, **{name: "loud"})  # type: ignore[arg-type]
    output, _ = done.communicate(timeout=20)
    assert done.returncode != 0
    assert f"{name.lower()}\n  Input should be " in output
    assert "loud" not in output


END = """
import threading, sys
from app import logs
logs.configure()
def fail():
    raise ModuleNotFoundError("No module named 'gone'")
if sys.argv[1:]:
    threading.Thread(target=fail).start()
else:
    fail()
"""


@pytest.mark.parametrize("arguments", [[], ["thread"]])
def test_an_error_that_ends_a_process_or_thread_is_one_line(
    arguments: list[str],
) -> None:
    process = run("-c", END, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    (line,) = process.communicate(timeout=20)[0].splitlines()
    assert json.loads(line)["message"] == "ModuleNotFoundError: No module named 'gone'"
    assert "Traceback" in json.loads(line)["exception"]
