"""Databases for the containers of services: a volume, or a PostgreSQL server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.commands import wait_until
from tests.support.containers import Container, container, docker


@contextmanager
def volume() -> Iterator[str]:
    """Make an empty volume, and remove it afterwards."""
    name = docker("volume", "create")
    try:
        yield name
    finally:
        docker("volume", "rm", "--force", name, check=False)


@contextmanager
def network() -> Iterator[str]:
    """Make a network, and remove it afterwards."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    docker("network", "create", name)
    try:
        yield name
    finally:
        docker("network", "rm", name, check=False)


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server in a container, and how a service reaches it."""

    container: Container
    network: str
    password: str

    @property
    def place(self) -> tuple[str, ...]:
        """Return the options of `docker run` for its address, without the password."""
        url = f"postgresql+psycopg://app@{self.container.name}/app"
        return ("--network", self.network, f"--env=DATABASE_URL={url}")

    @property
    def options(self) -> tuple[str, ...]:
        """Return the options of `docker run` for its address and password."""
        return (*self.place, f"--env=DATABASE_PASSWORD={self.password}")

    def wait_ready(self) -> None:
        """Wait until it takes connections."""
        ready = ("exec", self.container.name, "pg_isready", "--host=127.0.0.1", "--username=app")
        wait_until(lambda: " accepting " in docker(*ready, check=False), 60)


@contextmanager
def postgresql_container() -> Iterator[Server]:
    """Run an empty PostgreSQL server on a network of its own."""
    password = uuid.uuid4().hex
    environment = {"LANG": "C.UTF-8", "POSTGRES_USER": "app", "POSTGRES_PASSWORD": password}
    variables = [f"--env={name}={value}" for name, value in environment.items()]
    with (
        network() as name,
        container("postgres:17", "--network", name, *variables, port=5432) as started,
    ):
        server = Server(started, name, password)
        server.wait_ready()
        yield server


def migrate(image: str, *options: str) -> str:
    """Bring the schema up to date with the image, as an operator does."""
    return docker("run", "--rm", *options, image, "python", "-m", "app.database")


@contextmanager
def database(kind: str, image: str) -> Iterator[tuple[tuple[str, ...], Container | None]]:
    """Make a database with a schema; yield the options of `docker run` for it, and its server."""
    if kind == "postgresql":
        with postgresql_container() as server:
            migrate(image, *server.options)
            yield server.options, server.container
    elif kind == "sqlite":
        with volume() as name:
            yield (f"--volume={name}:/data",), None
    else:
        yield (), None
