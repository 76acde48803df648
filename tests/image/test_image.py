"""The image of a generated service, built and run for real."""

from __future__ import annotations

import gzip
import os
import re
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.support.clients import check_endpoints
from tests.support.commands import commit, edit, program, wait_until
from tests.support.containers import (
    HARDENED,
    Build,
    container,
    docker,
    measure,
    require_docker,
)
from tests.support.databases import database
from tests.support.repository import DEFAULTS
from tests.support.services import COMBINATIONS, Bake, Service, files

pytestmark = pytest.mark.docker


def version(answers: dict[str, str | int]) -> str:
    return str(answers.get("python_version", "default"))


@pytest.fixture(params=COMBINATIONS, ids=version)
def answers(request: pytest.FixtureRequest) -> dict[str, str | int]:
    asked = "python_version", "port", "workers", "database"
    return {**{question: DEFAULTS[question] for question in asked}, **request.param}


def test_it_runs_as_answered_and_stops(answers: dict[str, str | int], build: Build) -> None:
    image, port = build(**answers), int(answers["port"])
    with (
        database(str(answers["database"]), image) as (options, _),
        container(image, *HARDENED, "--memory", "1g", *options, port=port) as running,
    ):
        running.wait_healthy()
        check_endpoints(running.url)
        title = running.request("GET", "/openapi.json").json()["info"]["title"]
        assert title == answers.get("project_name", "My Service")
        version = docker("exec", running.name, "python", "--version")
        assert version.startswith(f"Python {answers['python_version']}.")
        assert running.inspect("{{.Config.User}}") == "10001:10001"
        users = {line.split()[0] for line in docker("top", running.name).splitlines()[1:]}
        assert users == {"10001"}
        code = "import server.cpus; print(server.cpus.available())"
        cpus = docker("exec", running.name, "python", "-c", code)
        workers = int(cpus if answers["workers"] == "auto" else answers["workers"])
        wait_until(lambda: len(running.worker_pids()) == workers, 20)
        assert running.stop() == 0
        assert {line["level"] for line in running.log()} == {"INFO"}


@pytest.fixture(scope="module")
def outputs(
    bake: Bake, postgresql_server: Callable[[str], str]
) -> Iterator[dict[str, Future[str]]]:
    """Install each service and run its tests, on its Python with plain pip; return what they print.

    Three run at a time, because they mostly wait.
    """
    require_docker()
    script = (
        "cp -r /service /tmp/service && cd /tmp/service && python -m venv .venv && .venv/bin/pip install --quiet"
        " --require-hashes -r requirements.txt -r requirements-dev.txt && .venv/bin/pip check"
        " && .venv/bin/python -W error -m pytest"
    )
    with ThreadPoolExecutor(3) as pool:
        running = {}
        for answers in COMBINATIONS:
            python = str(answers.get("python_version", DEFAULTS["python_version"]))
            options = [
                f"--volume={bake(**answers).path}:/service:ro",
                "--volume=template-test-pip:/root/.cache/pip",
            ]
            if answers.get("database") == "postgresql":
                url = postgresql_server(f"locks{python}")
                options += ["--network=host", f"--env=TEST_DATABASE_URL={url}"]
            image = f"python:{python}-slim-trixie"
            command = ("run", "--rm", *options, image, "sh", "-c", script)
            running[python] = pool.submit(docker, *command)
        yield running


def test_both_locks_install_and_its_tests_pass(
    answers: dict[str, str | int], outputs: dict[str, Future[str]]
) -> None:
    output = outputs[str(answers["python_version"])].result()
    assert re.search(r"\d+ passed", output)
    assert "skipped" not in output


@pytest.mark.parametrize(
    ("environment", "workers"),
    [({"WORKERS": "2", "WEB_CONCURRENCY": "3"}, 3), ({"PORT": "9999", "WORKERS": "1"}, 1)],
)
def test_the_environment_overrides_the_answers(
    environment: dict[str, str], workers: int, build: Build
) -> None:
    options = [f"--env={name}={value}" for name, value in environment.items()]
    with container(build(), *options, port=int(environment.get("PORT", 8000))) as running:
        running.wait_healthy()
        assert running.request("GET", "/health").status_code == 200
        wait_until(lambda: len(running.worker_pids()) == workers, 10)


SECRETS = [
    *(".env", ".env.local", "app/.env", "app/items/.env.production", ".git/config", "id_rsa"),
    *("app/id_rsa", "server.pem", "app/server.pem", ".netrc", "pip.conf", ".aws/credentials"),
    *(".venv/secret.py", "app/__pycache__/main.cpython-314.pyc", "tests/secret.py", "app/.netrc"),
]


def layers(image: str, folder: Path) -> Iterator[bytes]:
    """Yield every layer of `image`, unpacked, and its configuration."""
    docker("save", "--output", str(folder / "image.tar"), image)
    with tarfile.open(folder / "image.tar") as saved:
        for blob in saved:
            content = saved.extractfile(blob)
            if content is not None:
                data = content.read()
                yield gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def test_no_secret_test_or_cache_gets_in(bake: Bake, tmp_path: Path) -> None:
    require_docker()
    service = bake().copy(tmp_path / "service")
    for name in SECRETS:
        (service.path / name).parent.mkdir(parents=True, exist_ok=True)
        (service.path / name).write_text("canary-7f3a")
    docker("build", "--tag", "template-test-secrets", str(service.path))
    try:
        contents = list(layers("template-test-secrets", tmp_path))
        assert any(b"Hello from FastAPI" in content for content in contents)
        assert not any(b"canary-7f3a" in content for content in contents)
        measure(13, "secrets found", 0, f" of {len(SECRETS)}")
    finally:
        docker("rmi", "--force", "template-test-secrets")


def test_buildah_builds_the_same_from_the_same_folder(bake: Bake, tmp_path: Path) -> None:
    """Buildah, and Podman with it, read .dockerignore in another way than Docker."""
    require_docker()
    program("buildah", "buildah")
    service = bake().copy(tmp_path / "service")
    for name in [*SECRETS, "app/items/deeper/__init__.py"]:
        (service.path / name).parent.mkdir(parents=True, exist_ok=True)
        (service.path / name).write_text("# canary-7f3a")
    storage = ("--storage-driver=vfs", f"--root={tmp_path}/root", f"--runroot={tmp_path}/run")

    def buildah(*arguments: str) -> str:
        # Docker's client and Buildah read the same variable, but not the same file.
        return service.run("env", "-u", "DOCKER_CONFIG", "buildah", *storage, *arguments)

    base = "python:3.14-slim-trixie"
    docker("save", "--output", str(tmp_path / "base.tar"), base)
    try:
        pulled = buildah("pull", "--quiet", f"docker-archive:{tmp_path}/base.tar").split()[-1]
        buildah("tag", pulled, f"docker.io/library/{base}")
        options = ("--isolation=chroot", "--pull-never", "--network=host", "--format=docker")
        buildah("build", *options, "--tag=built", ".")
        assert "server/probe.py" in buildah("inspect", "--type=image", "built")
        working = buildah("from", "--pull-never", "built").split()[-1]
        srv = Path(buildah("mount", working).split()[-1]) / "srv"
        found = sorted(p.relative_to(srv).as_posix() for p in srv.rglob("*") if p.is_file())
        kept = [name for name in found if not name.endswith(".pyc")]
        assert kept == sorted([*FILES_IN_IMAGE, "app/items/deeper/__init__.py"])
    finally:
        buildah("rm", "--all")
        buildah("rmi", "--all", "--force")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("touch app/credentials", "app/credentials"),
        ("rm -r app/items", "cannot import name 'items' from 'app'"),
        ("echo '!app/items/routes.py' >>.dockerignore; rm app/items/routes.py", "app.items.routes"),
        ("echo 'import missing_package' >>app/errors.py", "No module named 'missing_package'"),
    ],
)
def test_a_stray_file_or_a_failing_import_ends_the_build(
    change: str, reason: str, bake: Bake, tmp_path: Path
) -> None:
    require_docker()
    service = bake().copy(tmp_path / "service")
    service.run("sh", "-c", change)
    with pytest.raises(AssertionError, match=re.escape(reason)):
        service.run("docker", "build", "--progress=plain", ".")


def test_a_setting_without_a_default_is_not_needed_to_build(bake: Bake, tmp_path: Path) -> None:
    require_docker()
    service = bake().copy(tmp_path / "service")
    docs = "    docs: bool = True\n"
    edit(service.path / "app/settings.py", docs, f"    api_key: str\n\n{docs}")
    service.run("docker", "build", "--quiet", ".")


def test_it_holds_the_locked_packages_and_the_app_and_nothing_to_write(build: Build) -> None:
    def shown(image: str, script: str, *options: str) -> list[str]:
        return docker("run", "--rm", *options, image, "sh", "-c", script).split()

    ours, base = partial(shown, build()), partial(shown, "python:3.14-slim-trixie")
    assert ours("cd /srv && find * -type f -not -name '*.pyc' | sort") == FILES_IN_IMAGE
    installed = {path.lower() for path in ours("ls /opt/venv/bin /opt/venv/lib/*/site-packages")}
    assert "fastapi" in installed
    assert not installed & {"pip", "pip3", "setuptools", "wheel", "pytest"}
    writable = "find / -xdev -writable -not -type l -not -path '/dev/*' 2>/dev/null | sort"
    assert ours(writable) == sorted([*base(writable, "--user=10001:10001"), "/data"])
    setuid = "find / -xdev -perm /6000 -type f | sort"
    assert ours(setuid, "--user=0") == base(setuid)


FILES_IN_IMAGE = [
    name
    for name in files(DEFAULTS)
    if name.startswith(("app/", "server/")) and name.endswith(".py")
]


def test_the_standard_library_is_compiled_where_it_is_used(build: Build) -> None:
    script = (
        "import app.main, server.__main__, server.gunicorn_conf, server.shutdown, os, sys;"
        "print([m.__name__ for m in sys.modules.values() if getattr(m, '__cached__', None)"
        " and not os.path.exists(m.__cached__)])"
    )
    assert docker("run", "--rm", build(), "python", "-c", script) == "[]"


def test_clones_made_at_different_times_give_the_same_bytes(
    bake: Bake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_docker()
    original = bake().copy(tmp_path / "original")
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2026-01-01T00:00:00Z")
    commit(original.path)
    digests = []
    for umask, days_ago in ("022", 100), ("077", 0):
        clone = Service(tmp_path / umask, {})
        original.run("sh", "-c", f"umask {umask} && git clone --quiet . '{clone.path}'")
        for path in clone.path.rglob("*"):
            os.utime(path, (time.time() - days_ago * 86_400,) * 2)
        digests.append(clone.run("make", "--silent", "image-reproducible"))
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", digests[0])
    assert digests[0] == digests[1]

    (clone.path / "Dockerfile").write_text(
        "FROM python:3.14-slim-trixie\nRUN cat /proc/sys/kernel/random/uuid >/uuid\n"
    )
    assert "Not reproducible" in clone.fails("make", "image-reproducible")


def test_a_change_in_the_app_rebuilds_only_the_last_layers(
    bake: Bake, build: Build, tmp_path: Path
) -> None:
    build()
    service = bake().copy(tmp_path / "service")
    (service.path / "app/main.py").write_text(service.read("app/main.py") + f"# {uuid.uuid4()}\n")
    output = docker(
        "build", "--progress=plain", "--tag", "template-test-changed", str(service.path)
    )
    docker("rmi", "--force", "template-test-changed")
    steps = dict.fromkeys(
        line.split("] ")[1] for line in output.splitlines() if "] RUN" in line or "] COPY" in line
    )
    cached = {line.split()[0] for line in output.splitlines() if line.endswith("CACHED")}
    anew = [
        step
        for step in steps
        if not any(line.split()[0] in cached for line in output.splitlines() if step in line)
    ]
    assert [step.split()[0] for step in anew] == ["COPY", "RUN"]
    assert anew[0] == "COPY --chmod=755 app app"
