"""The log: one line of JSON for whatever happens."""

import json
import logging
import sys
from datetime import UTC, datetime, timedelta

import pytest

from app import logs


def format_record(message: str, **extra: object) -> str:
    """Return the line for a record made here and now."""
    record = logging.makeLogRecord({"msg": message, "levelname": "INFO", "name": "x"} | extra)
    return logs.JSONFormatter().format(record)


def test_a_line_has_time_level_logger_message_and_extras() -> None:
    line = json.loads(format_record("hello", order=7, color_message="\x1b[1m"))
    assert line.keys() == {"time", "level", "logger", "message", "order"}
    assert line["order"] == 7
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


def test_what_ends_the_process_is_one_line_that_names_the_cause(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    level = root.level
    try:
        logs.configure()
        try:
            raise ModuleNotFoundError("No module named 'gone'")
        except ModuleNotFoundError as error:
            sys.excepthook(type(error), error, error.__traceback__)
    finally:
        root.setLevel(level)
        logging.captureWarnings(capture=False)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["message"] == "ModuleNotFoundError: No module named 'gone'"
    assert "Traceback" in json.loads(line)["exception"]
