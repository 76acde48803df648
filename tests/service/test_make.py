"""The service's own commands, as its README tells a new colleague: make, Compose, a registry."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.commands import run, wait_until
from tests.support.containers import answers, docker, own_copy, require_docker
from tests.support.services import Bake, Service

pytestmark = pytest.mark.docker

PORT = 18000


@pytest.fixture(scope="module")
def service(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return a service of its own name and port, of which Docker keeps nothing afterwards."""
    require_docker()
    with own_copy(
        bake, tmp_path_factory.mktemp("make"), project_slug="make-test", port=PORT
    ) as service:
        yield service


def get(path: str) -> httpx2.Response:
    return httpx2.get(f"http://127.0.0.1:{PORT}{path}", timeout=10)


@contextlib.contextmanager
def env_file(service: Service, text: str) -> Iterator[None]:
    """Give the service a .env file, and remove it afterwards."""
    (service.path / ".env").write_text(text)
    try:
        yield
    finally:
        (service.path / ".env").unlink()


def table(service: Service, target: str) -> str:
    """Return what `make target` shows below the command and the heads of its columns."""
    return "\n".join(service.run("make", target).splitlines()[2:])


def healthy(service: Service) -> bool:
    return "(healthy)" in table(service, "ps")


def test_build_run_stop_start_logs_rm(service: Service) -> None:
    output = service.run("make", "build", "run")
    assert get("/health").json() == {"status": "healthy"}  # at once
    assert output.splitlines()[-1] == f"http://localhost:{PORT}/docs"
    assert healthy(service)
    write = "import tempfile; print(tempfile.TemporaryFile().write(bytes(2 ** 21)))"
    assert docker("exec", "make-test", "python", "-c", write) == "2097152"
    assert docker("inspect", "--format", "{{.HostConfig.ReadonlyRootfs}}", "make-test") == "true"
    assert "make-test" in table(service, "network")
    assert "make-test" in table(service, "images")
    service.run("make", "stop")
    assert "Exited (0)" in table(service, "ps")
    service.run("make", "start")
    wait_until(lambda: healthy(service), 30)
    with subprocess.Popen(
        ["make", "logs"], cwd=service.path, stdout=subprocess.PIPE, text=True
    ) as logs:
        assert logs.stdout
        assert any("Application startup complete" in line for line in logs.stdout)
        logs.terminate()
    # `script` runs it in a terminal.
    shell = ("script", "--quiet", "--return", "--command", "make shell", "/dev/null")
    assert "10001" in run(*shell, cwd=service.path, input="id -u\nexit\n")
    service.run("make", "rm", "YES=1")
    assert "make-test" not in table(service, "ps")
    assert "make-test_data" in table(service, "volumes")


def test_a_second_run_applies_changed_settings(service: Service) -> None:
    service.run("make", "build", "run")
    with env_file(service, "WORKERS=1\nDOCS=false\nDRAIN=20\n"):
        service.run("make", "run", "PORT=18001")
        assert httpx2.get("http://127.0.0.1:18001/health").status_code == 200
        assert httpx2.get("http://127.0.0.1:18001/docs").status_code == 404
        assert docker("inspect", "--format", "{{.Config.StopTimeout}}", "make-test") == "30"
    assert "make-test:missing" in service.fails("make", "run", "TAG=missing")
    assert healthy(service)
    service.run("make", "rm", "YES=1")


def test_run_fails_with_the_last_line_of_a_service_that_ends(service: Service) -> None:
    service.run("make", "build")
    with env_file(service, "ROOT_PATH=no-slash\n"):
        output = service.fails("make", "run")
        assert "setting ROOT_PATH: " in output
        assert "http://localhost" not in output
        assert "Up" not in table(service, "ps")
    service.run("make", "run")
    service.run("make", "rm", "YES=1")


def test_a_port_in_use_does_not_stop_the_next_run(service: Service) -> None:
    service.run("make", "build")
    with socket.create_server(("127.0.0.1", PORT)):
        assert "address already in use" in service.fails("make", "run")
    service.run("make", "run")
    assert get("/health").status_code == 200
    service.run("make", "rm", "YES=1")


VALUES = [
    *("pa$word", "pa$$word", "${HOME}", "$(id)", "`id`", "a b", "a #b", '"q"', "'q'", "it's"),
    "a\\nb",
]


def test_compose_reads_a_value_in_env_as_it_is(service: Service) -> None:
    """`make dev` sets the environment itself; test_service.py tests that."""
    service.run("make", "build")
    lines = [f"VALUE{number}={value}" for number, value in enumerate(VALUES)]
    # Some editors write a mark before the first letter, or no last line end.
    before, after = (
        "\ufeffFIRST=z\nDOCS=true\n # a\n\nDOCS=false",
        " \tINDENTED=a\nWINDOWS=b\r\nLAST=c",
    )
    names = [
        "FIRST",
        "DOCS",
        *(line.partition("=")[0] for line in lines),
        "INDENTED",
        "WINDOWS",
        "LAST",
    ]
    with env_file(service, "\n".join([before, *lines, after])):
        app = ("docker", "compose", "run", "--rm", "--no-TTY", "app", "printenv")
        shown = service.run(*app, *names)
    assert shown.endswith("\n".join(["z", "false", *VALUES, "a", "b", "c\n"]))


def test_make_and_compose_take_the_same_port_tag_and_project_from_env(service: Service) -> None:
    for port in 'PORT="18009"', " PORT=18008\nPORT= 18009 # a comment", "PORT='18009'\r":
        with env_file(service, f"{port}\nTAG=1.0.0\r\nCOMPOSE_PROJECT_NAME=make-other\n"):
            config = json.loads(service.run("docker", "compose", "config", "--format", "json"))
            app = config["services"]["app"]
            assert (app["image"], app["ports"][0]["published"]) == ("make-other:1.0.0", "18009")
            output = service.run(
                "make", "--dry-run", "stop", "start", "build", "tag", "REGISTRY=team"
            )
        assert "PORT=18009 TAG=1.0.0 docker compose stop" in output
        assert "docker start make-other" in output
        assert "--tag make-other:1.0.0" in output
        assert "docker tag make-other:1.0.0 team/make-test:1.0.0" in output


def test_a_value_that_compose_cannot_read_is_refused(service: Service) -> None:
    service.run("make", "build")
    for value in '"q', "${X":
        with env_file(service, f"VALUE={value}\n"):
            assert ".env: " in service.fails("docker", "compose", "up")
            assert ".env: " in service.fails("make", "run")


def test_push_and_pull_go_through_a_registry(
    service: Service, registry: str, tmp_path: Path
) -> None:
    to = [f"REGISTRY={registry}/team", "TAG=1.0.0"]
    service.run("make", "build", "push", *to)
    service.run("make", "rmi", "YES=1")
    assert "make-test" not in table(service, "images")
    # A machine that runs it has no source.
    machine = Service(tmp_path / "machine", {})
    machine.path.mkdir()
    for name in "Makefile", "compose.yaml":
        shutil.copy(service.path / name, machine.path)
    try:
        machine.run("make", "pull", "run", *to)
        assert get("/health").json() == {"status": "healthy"}
        assert f"{registry}/team/make-test" in table(machine, "images")
        assert machine.files() == ["Makefile", "compose.yaml"]
    finally:
        machine.run("make", "rm", "YES=1")
        machine.run("make", "rmi", "YES=1")


def test_compose_syncs_changes_while_developing(service: Service) -> None:
    service.run("docker", "compose", "down", "--volumes")
    main = service.path / "app/main.py"
    original = main.read_text()
    with subprocess.Popen(
        ["docker", "compose", "up", "--build", "--watch", "dev"],
        cwd=service.path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as watching:
        try:
            wait_until(lambda: answers(f"http://127.0.0.1:{PORT}/health"), 60)
            assert "10001" in docker(
                "exec", "make-test-dev", "stat", "-c", "%u", "/data/service.db"
            )
            time.sleep(2)
            main.write_text(original.replace("Hello from", "Changed by"))
            wait_until(
                lambda: answers(f"http://127.0.0.1:{PORT}/") and "Changed by" in get("/").text, 60
            )
            (service.path / "app/new.py").touch()
            wait_until(lambda: "new.py" in docker("exec", "make-test-dev", "ls", "app"), 20)
            (service.path / "app/new.py").unlink()
            wait_until(lambda: "new.py" not in docker("exec", "make-test-dev", "ls", "app"), 20)
        finally:
            main.write_text(original)
            watching.terminate()
            watching.wait(timeout=60)
        # Either order works: both are the same user, who owns the data.
        service.run("docker", "compose", "up", "--wait")
        assert get("/health").status_code == 200
        service.run("docker", "compose", "--profile", "dev", "down")
        assert table(service, "ps") == ""


def test_images_built_on_this_one_are_not_removed(service: Service, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM make-test\nENV MINE=1\n")
    service.run("make", "build", "run")
    try:
        docker("build", "--quiet", "--tag", "team/built-on-make-test", str(tmp_path))
        docker("create", "--name", "built-on-make-test", "team/built-on-make-test")
        service.run("docker", "tag", "make-test", "registry.example.com/a/b/make-test:2")
        assert "built-on" not in table(service, "images")
        service.run("make", "prune", "YES=1")  # which keeps what runs
        service.run("make", "stop")
        service.run("make", "prune", "YES=1")
        assert table(service, "ps") == ""
        service.run("make", "rmi", "YES=1")
        assert table(service, "images") == ""
        docker("inspect", "built-on-make-test", "team/built-on-make-test")
    finally:
        docker("rm", "--force", "built-on-make-test", check=False)
        docker("rmi", "--force", "team/built-on-make-test", check=False)
        service.run("make", "rm", "YES=1")
