"""The service's own commands, as its README tells a new colleague: make, Compose, a registry."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.conftest import Bake, Service, lacking
from tests.containers import docker, require_docker, wait_until

pytestmark = pytest.mark.docker

PORT = 18000


@pytest.fixture(scope="module")
def service(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return a service of its own name and port, of which Docker keeps nothing afterwards."""
    require_docker()
    original = bake(project_slug="make-test", port=PORT)
    service = Service(tmp_path_factory.mktemp("make") / "make-test", original.answers)
    shutil.copytree(original.path, service.path)
    yield service
    docker(
        "compose",
        "--project-directory",
        str(service.path),
        "--profile",
        "dev",
        "down",
        "--volumes",
        check=False,
    )
    for target in "rm", "rmi", "prune":
        subprocess.run(["make", target, "YES=1"], cwd=service.path)


def get(path: str) -> httpx2.Response:
    return httpx2.get(f"http://127.0.0.1:{PORT}{path}", timeout=10)


def table(service: Service, target: str) -> str:
    """Return what `make target` shows below the command and the heads of its columns."""
    return "\n".join(service.run("make", target).splitlines()[2:])


def healthy(service: Service) -> bool:
    return "(healthy)" in table(service, "ps")


def typed(service: Service, command: str, keys: str) -> str:
    """Run `command` in a terminal, type `keys`, and return what the terminal showed."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command.split(), cwd=service.path, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        os.write(ours, keys.encode())
        shown = b""
        with contextlib.suppress(OSError):  # a terminal ends with an error on Linux
            while chunk := os.read(ours, 1024):
                shown += chunk
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode()


def test_build_run_stop_start_logs_rm(service: Service) -> None:
    service.run("make", "build", "run")
    wait_until(lambda: healthy(service), 30)
    assert get("/health").json() == {"status": "healthy"}
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
    assert "10001" in typed(service, "make shell", "id -u\nexit\n")
    service.run("make", "rm", "YES=1")
    assert "make-test" not in table(service, "ps")


def test_a_port_and_an_env_file_are_taken(service: Service) -> None:
    (service.path / ".env").write_text("WORKERS=1\nDOCS=false\n")
    try:
        service.run("make", "build", "run", "PORT=18001")
        wait_until(lambda: healthy(service), 30)
        assert httpx2.get("http://127.0.0.1:18001/health").status_code == 200
        assert httpx2.get("http://127.0.0.1:18001/docs").status_code == 404
    finally:
        (service.path / ".env").unlink()
        service.run("make", "rm", "YES=1")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Start a registry on loopback and return its address."""
    program = shutil.which("docker-registry")
    if program is None:
        lacking("no docker-registry: apt install docker-registry")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = tmp_path / "registry.yaml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/data}}}}\nhttp: {{addr: '{address}'}}\n"
    )
    with subprocess.Popen(
        [program, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            wait_until(lambda: answers(f"http://{address}/v2/"), 20)
            yield address
        finally:
            server.terminate()


def answers(url: str) -> bool:
    try:
        return httpx2.get(url).status_code == 200
    except httpx2.TransportError:
        return False


def test_push_and_pull_go_through_a_registry(service: Service, registry: str) -> None:
    to = [f"REGISTRY={registry}/team", "TAG=1.0.0"]
    service.run("make", "build", "push", *to)
    service.run("make", "rmi", "YES=1")
    assert "make-test" not in table(service, "images")
    service.run("make", "pull", *to)
    assert f"{registry}/team/make-test" in table(service, "images")
    service.run("make", "rmi", "YES=1")


def test_compose_runs_it_as_in_production(service: Service) -> None:
    service.run("docker", "compose", "up", "--build", "--wait", "--quiet-pull")
    try:
        assert get("/health").json() == {"status": "healthy"}
        (name,) = service.run("docker", "compose", "ps", "--format", "{{.Name}}").split()
        assert docker("inspect", "--format", "{{.HostConfig.ReadonlyRootfs}}", name) == "true"
        assert "make-test" in table(service, "network")
        service.run("make", "volumes")
    finally:
        service.run("docker", "compose", "down")


def test_compose_takes_another_port(service: Service) -> None:
    service.run("docker", "compose", "up", "--build", "--wait", PORT="18002")
    try:
        assert httpx2.get("http://127.0.0.1:18002/health").status_code == 200
    finally:
        service.run("docker", "compose", "down")


def test_compose_syncs_changes_while_developing(service: Service) -> None:
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
            time.sleep(2)
            main.write_text(original.replace("Hello from", "Changed by"))
            wait_until(
                lambda: answers(f"http://127.0.0.1:{PORT}/") and "Changed by" in get("/").text, 60
            )
        finally:
            main.write_text(original)
            watching.terminate()
            watching.wait(timeout=60)
            service.run("docker", "compose", "--profile", "dev", "down")


def test_its_own_tests_pass_after_make_venv(service: Service) -> None:
    """Follow the README without Docker, with a fresh virtual environment."""
    output = service.run("make", "test", PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin")
    assert " passed" in output
    service.run("make", "check")


def test_what_is_built_on_its_image_is_not_its_own(service: Service, tmp_path: Path) -> None:
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
