"""The stack of docs/recipes/swarm.md on a Swarm of one machine: updates under load.

`FULL=1` does five updates.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.commands import outcome
from tests.support.containers import FULL, docker, require_docker
from tests.support.load import Result, until_stopped
from tests.support.repository import ROOT
from tests.support.services import Bake

pytestmark = pytest.mark.docker


@pytest.fixture
def swarm() -> Iterator[None]:
    """Make this engine a Swarm of one machine, unless it is in one."""
    require_docker()
    if docker("info", "--format", "{{.Swarm.LocalNodeState}}") == "active":
        yield
        return
    docker("swarm", "init", "--advertise-addr=127.0.0.1", "--listen-addr=127.0.0.1")
    try:
        yield
    finally:
        docker("swarm", "leave", "--force")


class Balancer:
    """A load balancer that asks `/readyz` each second, and so knows the ports of ready tasks."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.ports: list[int] = []

    def look(self) -> None:
        """Ask every task."""
        label = f"--filter=label=com.docker.swarm.service.name={self.service}"
        shown = docker("ps", label, "--format={{.Ports}}")
        found = sorted({int(port) for port in re.findall(r":(\d+)->", shown)})
        self.ports = [port for port in found if self.ready(port)]

    def ready(self, port: int) -> bool:
        """Tell whether a task is ready; one late answer changes nothing."""
        try:
            return httpx2.get(f"http://127.0.0.1:{port}/readyz", timeout=2).status_code == 200
        except httpx2.TimeoutException:
            return port in self.ports
        except httpx2.HTTPError:
            return False

    async def watch(self, stop: asyncio.Event) -> None:
        """Ask every second, until `stop`."""
        while not stop.is_set():
            await asyncio.to_thread(self.look)
            await asyncio.sleep(1)


@pytest.mark.usefixtures("swarm")
def test_rolling_updates_lose_no_request(bake: Bake, tmp_path: Path) -> None:
    page = (ROOT / "docs/recipes/swarm.md").read_text("utf-8")
    (diff,) = re.findall(r"^```diff\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    stack = "\n".join(re.findall(r"^\+(?!\+\+ )(.*)", diff, re.MULTILINE))
    # Two tasks on one machine: each gets a port of its own. A shorter look at each new task.
    host = stack.replace("published: 8000, mode: ingress", "mode: host")
    assert host != stack
    file = tmp_path / "stack.yaml"
    file.write_text(host.replace("monitor: 20s", "monitor: 5s"))
    name = f"test-{uuid.uuid4().hex[:8]}"
    images = [f"{name}:{n}" for n in range(6 if FULL else 3)]
    docker("build", "--quiet", "--tag", images[0], str(bake(database="none").path))
    for number, image in enumerate([*images[1:], f"{name}:bad"], 1):
        line = "ENV READ_TIMEOUT=0" if image.endswith("bad") else f"LABEL version={number}"
        (tmp_path / "Dockerfile").write_text(f"FROM {images[0]}\n{line}\n")
        docker("build", "--quiet", "--tag", image, str(tmp_path))

    def deploy(image: str) -> int:
        command = ["docker", "stack", "deploy", "--detach=false", "--resolve-image=never"]
        options = ["--compose-file", str(file), name]
        env = os.environ | {"IMAGE": image}
        return outcome(*command, *options, cwd=tmp_path, env=env, timeout=180)[0]

    def running() -> set[str]:
        tasks = ("service", "ps", "--filter=desired-state=running", "--format={{.Image}}")
        return set(docker(*tasks, f"{name}_app").split())

    async def scenario() -> Result:
        result = Result()
        balancer = Balancer(f"{name}_app")
        assert await asyncio.to_thread(deploy, images[0]) == 0
        stop = asyncio.Event()
        watch = asyncio.create_task(balancer.watch(stop))
        while len(balancer.ports) < 2:
            await asyncio.sleep(0.2)
        load = asyncio.create_task(
            until_stopped(lambda: random.choice(balancer.ports), "/items/1", 2, result, stop)
        )
        for image in images[1:]:
            assert await asyncio.to_thread(deploy, image) == 0
            assert running() == {image}
        await asyncio.to_thread(deploy, f"{name}:bad")
        end = time.monotonic() + 60
        while running() != {images[-1]} and time.monotonic() < end:
            await asyncio.sleep(1)
        assert running() == {images[-1]}, "the bad version was not undone"
        assert not load.done(), load
        stop.set()
        await asyncio.gather(load, watch)
        return result

    try:
        result = asyncio.run(scenario())
    finally:
        docker("stack", "rm", name, check=False)
        for image in [*images, f"{name}:bad"]:
            docker("rmi", "--force", image, check=False)
    print(f"\n{result.total} requests, {dict(result.outcomes)}")
    assert result.failed == 0, result.outcomes
    assert result.total > 1000
