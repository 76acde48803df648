"""Services with a database, in real containers: kept rows, and answers without the database.

FULL=1 runs the long ones in full size.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx2
import pytest

from tests.support.clients import LAMP, Client, check, create, statuses, stored
from tests.support.commands import free_port, listens, program, wait_until
from tests.support.containers import (
    FULL,
    HARDENED,
    Build,
    Container,
    container,
    docker,
    ended,
    running,
)
from tests.support.databases import Server, database, migrate, postgresql_container, volume
from tests.support.load import request
from tests.support.services import Bake

pytestmark = pytest.mark.docker

# SQLite -------------------------------------------------------------------------------------------


def test_the_log_names_a_file_of_sqlite_that_cannot_be_written(
    build: Build, tmp_path: Path
) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file" / "service.db"
    folder.mkdir(mode=0o755)
    file.parent.mkdir()
    file.parent.chmod(0o777)
    file.touch(0o644)
    with volume() as empty:
        for source in f"{folder}:/data", f"{file.parent}:/data", f"{empty}:/data:ro":
            *_, last = ended(build(database="sqlite"), f"--volume={source}")
            assert "/data/service.db" in last["message"]


BIG = """
from sqlalchemy import String, text

from app import migrations
from app.database import create_engine
from app.settings import Settings

from alembic.migration import MigrationContext
from alembic.operations import Operations

with create_engine(Settings()).begin() as connection:
    insert = text("INSERT INTO items (name, price_cents) VALUES (:name, 1)")
    for start in range(0, 200_000, 10_000):
        rows = [{"name": f"{7 * n % 200_000:0199}"} for n in range(start, start + 10_000)]
        connection.execute(insert, rows)
with create_engine(Settings()).begin() as connection:
    connection.exec_driver_sql("UPDATE items SET name = '1' || name, price_cents = 2")
with create_engine(Settings()).connect() as connection:
    sort = "SELECT name FROM items ORDER BY price_cents, name DESC LIMIT 1 OFFSET 199999"
    print(connection.exec_driver_sql(sort).scalar())
with migrations.connect(Settings()) as connection:
    operations = Operations(MigrationContext.configure(connection))
    with operations.batch_alter_table("items") as batch:
        batch.alter_column("name", type_=String(300), existing_type=String(200))
    operations.create_index("ix_items_name", "items", ["name"])
    print(connection.exec_driver_sql("SELECT count(*) FROM items").scalar())
"""


def test_sqlite_needs_no_temporary_folder(build: Build) -> None:
    """A large update, a sort and a copy of the table work where only /data may be written."""
    options = (*HARDENED, "--memory=512m", "--volume=/data")
    with container(build(database="sqlite"), *options) as started:
        started.wait_healthy()
        name, rows = docker("exec", started.name, "python", "-c", BIG).split()
        assert (name, rows) == (f"1{0:0199}", "200000")
        assert started.request("GET", "/items/200000").status_code == 200


# Under load, and under faults ---------------------------------------------------------------------


@contextmanager
def serving(
    kind: str, image: str, workers: int, *more: str
) -> Iterator[tuple[Container, Container | None]]:
    """Run a service with its database, and yield both; each line of its log must be JSON."""
    with (
        database(kind, image) as (options, server),
        running(image, *options, *more, WORKERS=workers) as started,
    ):
        yield started, server


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_no_row_is_lost_or_duplicated_under_load(kind: str, build: Build) -> None:
    async def load(client: Client) -> None:
        for _ in range(2_000 if FULL else 100):
            await client.step()
        client.close()

    async def scenario(host: str) -> list[Client]:
        clients = [Client(host, seed) for seed in range(20)]
        await asyncio.gather(*map(load, clients))
        return clients

    with serving(kind, build(database=kind), 4) as (started, _):
        clients = asyncio.run(scenario(started.address))
        assert statuses(clients).keys() == {200, 201, 204, 404}
        check(clients, stored(started.url))
        assert {line["level"] for line in started.log()} == {"INFO"}


def kill_busiest(workers: set[str]) -> None:
    """Kill the worker that holds most clients, because another one may hold none."""

    def clients(pid: str) -> int:
        rows = [row.split() for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()]
        port, established = ":1F40", "01"  # 8000, as /proc writes it
        theirs = {
            f"socket:[{row[9]}]" for row in rows if row[1].endswith(port) and row[3] == established
        }
        found = 0
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since it was listed
                found += str(descriptor.readlink()) in theirs
        return found

    os.kill(int(max(workers, key=clients)), 9)


@pytest.mark.parametrize(
    ("kind", "victim"),
    [
        ("sqlite", "worker"),
        ("sqlite", "container"),
        ("postgresql", "worker"),
        ("postgresql", "container"),
        ("postgresql", "server"),
    ],
)
def test_acknowledged_writes_survive_a_kill(kind: str, victim: str, build: Build) -> None:
    async def load(client: Client, over: asyncio.Event) -> None:
        while not over.is_set():
            await client.step()
            if client.answers[-1] == 0:
                await asyncio.sleep(0.05)
        client.close()

    async def scenario(clients: list[Client], kill: Callable[[], object]) -> None:
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(load(client, over))
            await asyncio.sleep(0.3 + 0.4 * random.random())
            await asyncio.to_thread(kill)
            await asyncio.sleep(0.1)
            over.set()

    def ready(started: Container) -> bool:
        with suppress(httpx2.TransportError):
            return started.request("GET", "/readyz").status_code == 200
        return False

    everyone: list[Client] = []
    with serving(kind, build(database=kind), 2) as (started, server):

        def replaced(before: set[str]) -> bool:
            return len(started.worker_pids() | before) == 3

        for turn in range(20 if FULL else 3):
            clients = [Client(started.address, 100 * turn + number) for number in range(8)]
            everyone += clients
            lost = server if victim == "server" else started
            if victim == "worker":
                pids = started.worker_pids()
                asyncio.run(scenario(clients, partial(kill_busiest, pids)))
                wait_until(partial(replaced, pids), 20)
            else:
                assert lost
                asyncio.run(scenario(clients, partial(docker, "kill", lost.name)))
                docker("start", lost.name)
            wait_until(lambda: ready(started), 30, lambda: docker("logs", started.name)[-3000:])
            assert statuses(clients)[201] > 0
            assert statuses(clients).keys() <= {0, 200, 201, 204, 404, 503}
            assert victim != "server" or 0 not in statuses(clients), "a request got no answer"
            assert statuses(clients)[0] + statuses(clients)[503] > 0, "nobody noticed"
            check(everyone, stored(started.url))


@pytest.mark.parametrize(
    ("lose", "back"),
    [("kill", "start"), ("pause", "unpause"), ("network disconnect", "network connect")],
    ids=["refused", "frozen", "vanished"],
)
def test_a_thousand_requests_without_the_server_are_503_and_leave_nothing(
    lose: str, back: str, build: Build
) -> None:
    """The packets of a server that has left the network are dropped."""
    image = build(database="postgresql")
    with serving("postgresql", image, 1, "--env=DATABASE_TIMEOUT=1") as (started, server):
        assert server
        networks = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}"
        place = [server.inspect(networks)] if lose.startswith("network") else []

        def threads() -> int:
            return sum(map(int, docker("top", started.name, "-eo", "pid,nlwp").split()[3::2]))

        def ask(number: int) -> int:
            if number % 4:
                return client.get("/items/").status_code
            return client.post("/items/", json=LAMP).status_code

        workers = started.worker_pids()
        with (
            httpx2.Client(base_url=started.url, timeout=20) as client,
            ThreadPoolExecutor(50) as clients,
        ):
            wait_until(lambda: set(clients.map(ask, range(100))) == {200, 201}, 30)
            before = threads()
            docker(*lose.split(), *place, server.name)
            assert Counter(clients.map(ask, range(1000))) == {503: 1000}
            docker(*back.split(), *place, server.name)
            Server(server, "", "").wait_ready()
            wait_until(lambda: set(clients.map(ask, range(100))) == {200, 201}, 5)
        assert threads() == before
        assert started.worker_pids() == workers
        assert started.health == "healthy"
        errors = [line["message"] for line in started.log() if line["level"] != "INFO"]
        assert {message.partition(":")[0] for message in errors} == {"database_unavailable"}


# PostgreSQL ---------------------------------------------------------------------------------------


def test_a_password_comes_from_a_file_and_is_seen_nowhere(build: Build, tmp_path: Path) -> None:
    image = build(database="postgresql")
    file = tmp_path / "password"
    with postgresql_container() as server:
        file.write_text(f"{server.password}\n")
        file.chmod(0o444)
        secret = (
            f"--volume={file}:/run/secrets/database:ro",
            "--env=DATABASE_PASSWORD_FILE=/run/secrets/database",
        )
        seen = [migrate(image, *server.place, *secret)]
        with container(image, *HARDENED, *server.place, *secret) as started:
            started.wait_healthy()
            create(started.url, "Lamp")
            docker("kill", server.container.name)
            for path in "/items/", "/readyz", "/openapi.json":
                answer = started.request("GET", path)
                seen.append(f"{answer.headers} {answer.text}")
                assert answer.status_code == (200 if path == "/openapi.json" else 503)
            seen += [docker("logs", started.name), docker("inspect", started.name)]
        seen.append(docker("history", "--no-trunc", image))
        assert server.password not in "".join(seen)


def test_without_its_database_it_ends_with_the_reason(build: Build) -> None:
    with postgresql_container() as server:
        name, password = server.container.name, server.password

        def reason(*options: str) -> str:
            *_, last = ended(build(database="postgresql"), *server.options, *options)
            assert password not in json.dumps(last)
            return str(last["message"])

        url = "--env=DATABASE_URL=postgresql://app"
        assert "python -m app.database" in reason()
        assert "password authentication failed" in reason("--env=DATABASE_PASSWORD=another-one")
        assert "is the sample" in reason("--env=DATABASE_PASSWORD=change-me")
        assert "resolve host 'nowhere'" in reason(f"{url}:{password}@nowhere/app")
        assert "Connection refused" in reason(f"{url}:{password}@{name}:1/app")
        assert "setting DATABASE_URL" in reason(f"--env=DATABASE_URL=app:{password}@{name}/app")
        assert "No such file" in reason(f"--env=DATABASE_PASSWORD_FILE={password}")
        docker("pause", name)
        assert "too slow" in reason()


@pytest.fixture
def pgbouncer(postgresql: str, tmp_path: Path) -> Iterator[str]:
    """Run PgBouncer in transaction mode before a PostgreSQL server; return the URL of its database."""
    command = [program("pgbouncer", "pgbouncer"), "--quiet", str(tmp_path / "pgbouncer.ini")]
    port = free_port()
    there = postgresql.rpartition(":")[2].partition("/")[0]
    (tmp_path / "pgbouncer.ini").write_text(
        f"[databases]\napp = host=127.0.0.1 port={there} user=app\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\nunix_socket_dir =\n"
        "pool_mode = transaction\ndefault_pool_size = 3\n"
    )
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    as_user = ["setpriv", "--reuid=nobody", "--clear-groups"] if os.getuid() == 0 else []
    running = subprocess.Popen([*as_user, *command])
    try:
        wait_until(lambda: listens(port), 10)
        yield f"postgresql://app@127.0.0.1:{port}/app"
    finally:
        running.terminate()
        running.wait()


BEHIND = """
import asyncio

from app.database import Database
from app.items import queries
from app.items.models import NewItem
from app.settings import Settings


async def main():
    async with Database.open(Settings()) as database:
        item = await database.write(queries.create, NewItem(name="Lamp", price=1))

        async def ask():
            for _ in range(20):
                assert await database.read(queries.by_id, item.item_id) == item
                await database.write(queries.create, NewItem(name="Desk", price=1))

        await asyncio.gather(*(ask() for _ in range(20)))


asyncio.run(main())
"""


def test_pgbouncer_in_transaction_mode_works_with_its_setting(pgbouncer: str, bake: Bake) -> None:
    service = bake(database="postgresql")
    environment = {"DATABASE_URL": pgbouncer, "DEVELOPMENT": "true"}
    service.python("-m", "app.database", **environment)
    service.python("-c", BEHIND, **environment, DATABASE_PREPARE="false")
    with pytest.raises(AssertionError, match="prepared statement"):
        service.python("-c", BEHIND, **environment)
    # No lock is left in a connection of PgBouncer's.
    service.python("-m", "app.database", **environment)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_stop_waits_for_no_lock(kind: str, build: Build) -> None:
    lock = {
        "sqlite": "import sqlite3, time; c = sqlite3.connect('/data/service.db', isolation_level=None);"
        "c.execute('BEGIN IMMEDIATE'); time.sleep(60)",
        "postgresql": "BEGIN; LOCK TABLE items; SELECT pg_sleep(60)",
    }
    with serving(kind, build(database=kind), 2) as (started, server):
        if server:
            run = ("psql", "--username=app", f"--command={lock[kind]}")
            docker("exec", "--detach", server.name, *run)
        else:
            docker("exec", "--detach", started.name, "python", "-c", lock[kind])

        def locked() -> bool:
            return started.request("POST", "/items/", json=LAMP).status_code == 503

        wait_until(locked, 20)
        body = json.dumps(LAMP).encode()
        post = request("/items/", close=False, method="POST", body=body)
        with socket.create_connection((started.address, 8000), timeout=1) as client:
            client.sendall(post)
            time.sleep(0.5)
            assert started.stop() == 0
            assert client.recv(12) == b"HTTP/1.1 503"
