"""PostgreSQL that refuses, is frozen or has vanished from the network: 503 in time, and no leak."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest

from tests.support.commands import wait_until
from tests.support.containers import Build, Container, container, docker

pytestmark = pytest.mark.docker

PASSWORD = uuid.uuid4().hex


@pytest.fixture
def image(build: Build) -> str:
    """Build the image of a service with PostgreSQL."""
    return build(database="postgresql")


@contextmanager
def serving(image: str) -> Iterator[tuple[Container, Container, str]]:
    """Run a service with a time limit of a second, its server, and the network between them."""
    network, server = f"test-{uuid.uuid4().hex[:12]}", f"test-{uuid.uuid4().hex[:12]}"
    docker("network", "create", network)
    environment = {"LANG": "C.UTF-8", "POSTGRES_USER": "app", "POSTGRES_PASSWORD": PASSWORD}
    variables = [f"--env={name}={value}" for name, value in environment.items()]
    try:
        # The server is reached on a network that it can leave; its own is not the service's.
        docker("run", "--detach", "--name", server, *variables, "postgres:17")
        docker("network", "connect", network, server)
        ready = ("exec", server, "pg_isready", "--host=127.0.0.1", "--username=app")
        wait_until(lambda: " accepting " in docker(*ready, check=False), 60)
        options = (
            *("--network", network, "--env=WORKERS=1", "--env=DATABASE_TIMEOUT=1"),
            f"--env=DATABASE_URL=postgresql://app:{PASSWORD}@{server}/app",
        )
        docker("run", "--rm", *options, image, "python", "-m", "app.database")
        with container(image, *options) as started:
            started.wait_healthy()
            yield started, Container(server, 5432), network
    finally:
        docker("rm", "--force", "--volumes", server, check=False)
        docker("network", "rm", network, check=False)


def threads(started: Container) -> int:
    """Count the service's threads."""
    return sum(map(int, docker("top", started.name, "-eo", "pid,nlwp").split()[3::2]))


@pytest.mark.parametrize(
    ("lose", "return_"),
    [("kill", "start"), ("pause", "unpause"), ("network disconnect", "network connect")],
    ids=["refused", "frozen", "vanished"],
)
def test_a_thousand_requests_without_the_server_are_answered_503_and_leave_nothing(
    lose: str, return_: str, image: str
) -> None:
    """The packets of a server that has left the network are dropped."""
    with serving(image) as (started, server, network):
        place = [network] if lose.startswith("network") else []
        lamp = {"name": "Lamp", "price": 1}

        def ask(number: int) -> int:
            if number % 4:
                return client.get("/items/").status_code
            return client.post("/items/", json=lamp).status_code

        with (
            httpx2.Client(base_url=started.url, timeout=20) as client,
            ThreadPoolExecutor(50) as clients,
        ):
            wait_until(lambda: set(clients.map(ask, range(100))) == {200, 201}, 30)
            before = threads(started)
            docker(*lose.split(), *place, server.name)
            assert Counter(clients.map(ask, range(1000))) == {503: 1000}
            docker(*return_.split(), *place, server.name)
            wait_until(lambda: set(clients.map(ask, range(100))) == {200, 201}, 30)
        assert threads(started) == before
        errors = [line["message"] for line in started.log() if line["level"] != "INFO"]
        assert {message.partition(":")[0] for message in errors} == {"database_unavailable"}
