"""Real images and containers for the tests behind the `docker` marker."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.support.commands import lacking, run, wait_until
from tests.support.services import Bake, Service

FULL = os.environ.get("FULL") == "1"
# `build(**answers)` builds the image of a service once, and names it.
Build = Callable[..., str]
HARDENED = (
    "--read-only",
    *("--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges"),
    *("--pids-limit", "128"),
    *("--memory", "256m"),
)


def docker(*arguments: str, check: bool = True) -> str:
    """Run `docker`; return what it prints on both streams, or fail with it."""
    done = subprocess.run(
        ["docker", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0 or not check, f"docker {' '.join(arguments)}\n{done.stdout}"
    return done.stdout.strip()


def require_docker() -> None:
    """Skip the test where no Docker Engine answers, or fail it with REQUIRE_DOCKER=1."""
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, text=True)
        reason = "" if done.returncode == 0 else done.stderr.strip()
    except OSError as error:
        reason = str(error)
    if reason:
        lacking(f"no Docker Engine answers: {reason}")


@dataclass(frozen=True)
class Container:
    """A container that was started from an image of ours."""

    name: str
    port: int

    def inspect(self, template: str) -> str:
        """Return what `docker inspect --format` makes of `template`."""
        return docker("inspect", "--format", template, self.name)

    @property
    def health(self) -> str:
        """Return `starting`, `healthy` or `unhealthy`."""
        return self.inspect("{{.State.Health.Status}}")

    def wait_healthy(self, seconds: float = 30) -> None:
        """Wait until the container is healthy, or fail with its log."""
        wait_until(lambda: self.health == "healthy", seconds, lambda: docker("logs", self.name))

    @property
    def url(self) -> str:
        """Return the address at which this machine reaches the service."""
        published = docker("port", self.name, str(self.port)).splitlines()[0]
        return f"http://{published}"

    def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Send one request on a connection of its own."""
        return httpx2.request(method, self.url + path, timeout=20, **options)

    def log(self) -> list[dict[str, Any]]:
        """Return every line of the log, each of which must be a JSON object."""
        return [json.loads(line) for line in docker("logs", self.name).splitlines()]

    @property
    def address(self) -> str:
        """Return the container's own address: docker's proxy would take connections in its stead."""
        return self.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")

    def worker_pids(self) -> set[str]:
        """Return the workers' process ids on this machine."""

        def processes() -> list[list[str]]:
            lines = docker("top", self.name, "-eo", "pid,ppid,stat").splitlines()
            return [line.split() for line in lines[1:]]

        def zombies() -> bool:
            return any("Z" in stat for _, _, stat in rows)

        rows = processes()
        if zombies():  # it may have ended just now
            time.sleep(0.2)
            rows = processes()
        assert not zombies()
        master = self.inspect("{{.State.Pid}}")  # a health check is a process, too
        return {row[0] for row in rows if row[1] == master}

    def memory(self) -> float:
        """Return the bytes that the container holds in memory, as `docker stats` tells them."""
        used = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", self.name).split()[0]
        number, unit = re.fullmatch(r"([\d.]+)([KMG]i)B", used).groups()  # type: ignore[union-attr]
        return float(number) * {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[unit]

    def stop(self) -> int:
        """Stop the container as an operator does, and return its exit status."""
        docker("stop", self.name)
        return int(self.inspect("{{.State.ExitCode}}"))


@contextmanager
def container(
    image: str, *options: str, port: int = 8000, command: tuple[str, ...] = ()
) -> Iterator[Container]:
    """Run a container of `image` with `options` of `docker run`, and remove it afterwards."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    docker(
        "run",
        "--detach",
        # Docker asks a new container every 5 s, which the tests need not wait for.
        "--health-start-interval=1s",
        "--name",
        name,
        "--publish",
        f"127.0.0.1::{port}",
        *options,
        image,
        *command,
    )
    try:
        yield Container(name, port)
    finally:
        docker("rm", "--force", "--volumes", name, check=False)


@contextmanager
def running(image: str, *options: str, **environment: str | int) -> Iterator[Container]:
    """Run the image, and wait until it is healthy."""
    variables = [f"--env={name}={value}" for name, value in environment.items()]
    with container(image, *variables, *options) as started:
        started.wait_healthy()
        yield started
        started.log()  # every line parses, whatever happened


def ended(image: str, *options: str) -> list[dict[str, Any]]:
    """Run a container that must fail within ten seconds, and return its log."""
    with container(image, *options) as failing:
        begin = time.monotonic()
        wait_until(lambda: failing.inspect("{{.State.Status}}") == "exited", 10)
        measure(3, "ended after", time.monotonic() - begin, " s")
        assert failing.inspect("{{.State.ExitCode}}") != "0"
        log = failing.log()
    assert log[-1]["level"] in {"ERROR", "CRITICAL"}
    return log


def schemathesis(url: str, seed: int, examples: int, folder: Path) -> int:
    """Run schemathesis with all checks in all phases; return how many cases passed, or fail."""
    options = [
        "--checks=all",
        "--max-response-time=5",
        "--phases=examples,coverage,fuzzing,stateful",
        "--continue-on-failure",
        f"--seed={seed}",
        f"--max-examples={examples}",
    ]
    program = Path(sys.executable).with_name("schemathesis")
    output = run(program, "run", f"{url}/openapi.json", *options, cwd=folder)
    passed = re.search(r"(\d+) generated, \1 passed", output)
    assert passed, output
    assert "No issues found" in output
    assert "Warnings" not in output, output
    return int(passed[1])


# The worst figures by the number of the promise: a label, the figure, its unit.
MEASURED: dict[int, dict[str, tuple[float, str]]] = {}


def measure(promise: int, what: str, value: float, unit: str = "") -> None:
    """Remember `value` if it is the worst so far; tests/promises/conftest.py prints the table."""
    before, _ = MEASURED.setdefault(promise, {}).get(what, (value, unit))
    MEASURED[promise][what] = (max(before, value), unit)


def answers(url: str) -> bool:
    """Tell whether `url` answers with 200."""
    try:
        return httpx2.get(url).status_code == 200
    except httpx2.TransportError:
        return False


def remove(service: Service) -> None:
    """Remove everything of a service from Docker."""
    down = "docker compose --profile dev down --volumes"
    environment = os.environ | {"DATABASE_PASSWORD": "needed to read the file"}
    for command in down, "make rmi YES=1", "make prune YES=1":
        subprocess.run(command.split(), cwd=service.path, env=environment)


@contextmanager
def own_copy(bake: Bake, folder: Path, **answers: str | int) -> Iterator[Service]:
    """Yield a copy of a service, which tests may change; Docker keeps nothing of it afterwards."""
    require_docker()
    original = bake(**answers)
    service = original.copy(folder / original.path.name)
    try:
        yield service
    finally:
        remove(service)
