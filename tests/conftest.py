"""Fixtures that every test file shares."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from pytest_cookies.plugin import Cookies

from tests.support.commands import free_port, lacking, program, wait_until
from tests.support.containers import Build, answers, docker, require_docker
from tests.support.repository import DEFAULTS, QUESTIONS, ROOT
from tests.support.services import Bake, Service

# Variables and, with *, prefixes that change what git, make, Cookiecutter and the services do.
FOREIGN = "GIT_* MAKE* MFLAGS COOKIECUTTER_* TAG REGISTRY DATABASE_URL LC_ALL FORCE_COLOR".split()


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the environment that every process of a test inherits.

    The developer's settings do not reach the tests: git may sign commits, git's hooks set GIT_DIR,
    and make hands ARGS down.

    Byte-code is kept in a folder of its own, because tests compare the files of generated folders.
    Without byte-code each process would compile the standard library again: official images
    contain none, and an ordinary user cannot write beside its source.
    """
    if not hasattr(config, "workerinput"):  # the processes of pytest-xdist inherit all this
        for name in list(os.environ):
            foreign = [*FOREIGN, "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV"]
            if any(fnmatchcase(name, pattern) for pattern in foreign):
                del os.environ[name]
        os.environ |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_COUNT": "1"}
        os.environ |= {"GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
        folder = tempfile.TemporaryDirectory()
        sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = folder.name
        config.add_cleanup(folder.cleanup)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of this repository without caches, which Cookiecutter would copy into services."""
    copy = tmp_path_factory.mktemp("repository") / "template"
    left_behind = ".git", ".venv", "__pycache__", "*_cache", ".hypothesis", "build"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*left_behind))
    return copy


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Callable[[str], str]]:
    """Start a PostgreSQL server, and return a function that creates an empty database by its name.

    The function returns the database's URL, and replaces a database that exists. The tests skip where no server is installed.
    """
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not programs:
        lacking("no PostgreSQL server: apt install postgresql")
    port = free_port()
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

        def empty(name: str) -> str:
            run("dropdb", *connect, "--force", "--if-exists", name)
            run("createdb", *connect, name)
            return f"postgresql+psycopg://app@127.0.0.1:{port}/{name}"

        try:
            yield empty
        finally:
            run("pg_ctl", "stop", *data, "--mode=fast")


@pytest.fixture
def postgresql(postgresql_server: Callable[[str], str]) -> str:
    """Return the URL of an empty PostgreSQL database."""
    return postgresql_server("app")


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
        key = json.dumps(
            {name: answers[name] for name in sorted(answers) if answers[name] != DEFAULTS[name]}
        )
        if key not in baked:
            result = cookies_session.bake(extra_context=answers, template=str(template))
            assert result.exception is None, result.exception
            baked[key] = Service(result.project_path, result.context)
        return baked[key]

    return bake


@pytest.fixture(scope="session")
def build(bake: Bake) -> Iterator[Build]:
    """Return `build(**answers)`, which builds the image of a service once, and names it."""
    require_docker()
    built: dict[str, str] = {}

    def build(**answers: str | int) -> str:
        folder = str(bake(**answers).path)
        if folder not in built:
            built[folder] = f"template-test-{uuid.uuid4().hex[:12]}"
            docker("build", "--tag", built[folder], folder)
        return built[folder]

    yield build
    for tag in built.values():
        docker("rmi", "--force", tag, check=False)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a registry on loopback and return its address."""
    server_program = program("docker-registry", "docker-registry")
    address = f"127.0.0.1:{free_port()}"
    folder = tmp_path_factory.mktemp("registry")
    config = folder / "registry.yaml"
    storage = f"{{filesystem: {{rootdirectory: {folder}/data}}}}"
    config.write_text(f"version: 0.1\nstorage: {storage}\nhttp: {{addr: '{address}'}}\n")
    with subprocess.Popen(
        [server_program, "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            wait_until(lambda: answers(f"http://{address}/v2/"), 20)
            yield address
        finally:
            server.terminate()
