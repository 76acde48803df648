"""Fixtures that every test file shares."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
from pytest_cookies.plugin import Cookies

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "{{cookiecutter.project_slug}}"
CONFIG = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
QUESTIONS = [name for name in CONFIG if not name.startswith("_")]


def clean_environment() -> dict[str, str]:
    """Return this process's environment without the active virtual environment."""
    return {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Read a folder: mode and bytes of every file and folder below it."""
    return {
        path.relative_to(folder).as_posix(): (
            stat.S_IMODE(path.lstat().st_mode),
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(folder.rglob("*"))
    }


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is true, for a minute at most."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def commit(repository: Path) -> None:
    """Commit all of a folder; make it a repository first, if it is none."""
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@localhost"]
    commit = ["commit", "-q", "--allow-empty", "-m", "Change"]
    for command in (["init", "-q"], ["add", "-A"], commit):
        subprocess.run([*git, *command], cwd=repository, check=True)


def lacking(reason: str) -> NoReturn:
    """Skip the test, or fail it where REQUIRE_DOCKER=1 says that nothing it needs may be missing."""
    if os.environ.get("REQUIRE_DOCKER") == "1":
        pytest.fail(f"REQUIRE_DOCKER=1, and {reason}")
    pytest.skip(reason)


@dataclass(frozen=True)
class Service:
    """A generated service, as a folder and the answers that made it."""

    path: Path
    answers: dict[str, str | bool]

    def files(self) -> list[str]:
        """List every file, relative, with forward slashes, sorted."""
        return sorted(
            p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file()
        )

    def read(self, name: str) -> str:
        """Return the text of the file `name`."""
        return (self.path / name).read_text(encoding="utf-8")

    def run(self, *command: str, **environment: str) -> str:
        """Run `command` in the service's folder; return its output, or fail with it."""
        done = subprocess.run(
            command,
            cwd=self.path,
            env=clean_environment() | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}"
        return done.stdout

    def python(self, *arguments: str, **environment: str) -> str:
        """Run this Python, which has all of the service's packages, in the service's folder."""
        return self.run(sys.executable, *arguments, **environment)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of this repository without what working in it leaves behind.

    Cookiecutter copies everything that it finds, caches and virtual environments included.
    """
    copy = tmp_path_factory.mktemp("repository") / "template"
    left_behind = ".git", ".venv", "__pycache__", "*_cache", ".hypothesis", "build"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*left_behind))
    return copy


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Callable[[], str]]:
    """Start a PostgreSQL server, and return a function that empties its database `app`.

    The function returns the database's URL. The tests skip where no server is installed.
    """
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not programs:
        reason = "no PostgreSQL server: apt install postgresql"
        if os.environ.get("REQUIRE_DOCKER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # It does not run as root, and pytest's folders are closed to others.
    as_user = ["setpriv", "--reuid=nobody", "--clear-groups"] if os.getuid() == 0 else []

    def run(program: str, *arguments: str) -> None:
        command = [*as_user, str(programs[-1].with_name(program)), *arguments]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    with tempfile.TemporaryDirectory() as folder:
        if as_user:
            shutil.chown(folder, "nobody")
        data = ("--pgdata", f"{folder}/data")
        run("initdb", *data, "--username=app", "--auth=trust", "--encoding=UTF8", "--no-sync")
        options = f"-h 127.0.0.1 -p {port} -k {folder}"
        run("pg_ctl", "start", *data, "--options", options, "--log", f"{folder}/log")
        connect = ("--host=127.0.0.1", f"--port={port}", "--username=app")

        def empty() -> str:
            run("dropdb", *connect, "--force", "--if-exists", "app")
            run("createdb", *connect, "app")
            return f"postgresql+psycopg://app@127.0.0.1:{port}/app"

        try:
            yield empty
        finally:
            run("pg_ctl", "stop", *data, "--mode=fast")


@pytest.fixture
def postgresql(postgresql_server: Callable[[], str]) -> str:
    """Return the URL of an empty PostgreSQL database."""
    return postgresql_server()


Bake = Callable[..., Service]


@pytest.fixture(scope="session")
def bake(template: Path, cookies_session: Cookies) -> Bake:
    """Return `bake(**answers)`, which generates a service, once for each set of answers.

    Raises `ValueError` for an answer to a question that does not exist, which Cookiecutter
    ignores, and `AssertionError` where generating fails. No virtual environment is made unless
    `create_venv=True` is among the answers.
    """
    baked: dict[str, Service] = {}

    def bake(**answers: str | int | bool) -> Service:
        if unknown := answers.keys() - set(QUESTIONS):
            raise ValueError(f"no such question: {', '.join(sorted(unknown))}")
        answers = {"create_venv": False, **answers}
        key = json.dumps(answers, sort_keys=True)
        if key not in baked:
            result = cookies_session.bake(extra_context=answers, template=str(template))
            assert result.exception is None, result.exception
            baked[key] = Service(result.project_path, result.context)
        return baked[key]

    return bake
