"""Programs, ports and waiting."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

T = TypeVar("T")


def outcome(
    *command: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    input: str | None = None,  # noqa: A002 - as subprocess names it
    timeout: float | None = None,
) -> tuple[int, str]:
    """Run `command`; return its exit status, and what it prints on both streams."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        input=input,
        timeout=timeout,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, done.stdout


def run(
    *command: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    input: str | None = None,  # noqa: A002 - as subprocess names it
    status: int | None = 0,
) -> str:
    """Run `command`; return what it prints on both streams.

    Fail with that output if the exit status is not `status`; None stands for any but 0.
    """
    ended, output = outcome(*command, cwd=cwd, env=env, input=input)
    right = ended != 0 if status is None else ended == status
    assert right, f"{' '.join(map(str, command))}: exit {ended}\n{output}"
    return output


def edit(file: Path, old: str, new: str) -> None:
    """Replace a text that the file holds once."""
    text = file.read_text("utf-8")
    assert text.count(old) == 1, (file, old)
    file.write_text(text.replace(old, new), "utf-8")


def commit(repository: Path) -> None:
    """Commit all of a folder; make it a repository first, if it is none."""
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@localhost"]
    commit = ["commit", "-q", "--allow-empty", "-m", "Change"]
    for command in (["init", "-q"], ["add", "-A"], commit):
        subprocess.run([*git, *command], cwd=repository, check=True)


def free_port() -> int:
    """Return a port of loopback on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def lacking(reason: str) -> NoReturn:
    """Skip the test, or fail it if REQUIRE_DOCKER=1."""
    if os.environ.get("REQUIRE_DOCKER") == "1":
        pytest.fail(f"REQUIRE_DOCKER=1, and {reason}")
    pytest.skip(reason)


def program(name: str, package: str) -> str:
    """Return the path of a program; skip the test where it is missing, or fail it if REQUIRE_DOCKER=1."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        lacking(f"no {name}: apt install {package}")
    return path


def listens(port: int) -> bool:
    """Tell whether a program listens on a port of loopback."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_until(
    condition: Callable[[], T],
    seconds: float = 60,
    what: Callable[[], str] = str,
    pause: float = 0.1,
) -> T:
    """Return the first true value of `condition`, or fail after `seconds` with the text of `what`."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s\n{what()}"
        time.sleep(pause)
