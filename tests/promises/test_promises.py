"""The promises of the running container, each under the real fault; docs/operations.md has the list.

Most run the image of the default service with `tests/support/faults.py` appended to it, and nothing
else changed. FULL=1 runs the long ones in full size. The worst figures are printed at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.clients import check_endpoints, create, stored
from tests.support.commands import free_port, listens, program, wait_until
from tests.support.containers import (
    FULL,
    HARDENED,
    Build,
    Container,
    container,
    docker,
    ended,
    measure,
    require_docker,
    running,
    schemathesis,
)
from tests.support.databases import database
from tests.support.load import Result, kept_alive, once, request, steadily
from tests.support.repository import CONFIG, ROOT
from tests.support.services import Bake

pytestmark = pytest.mark.docker

# The request of tests that need any answer of the database.
ITEMS = "/items/?limit=1"
QUICK_CHECKS = (
    "--health-interval=1s",
    "--health-timeout=5s",
    "--health-retries=2",
    "--health-start-period=0s",
)


@pytest.fixture(scope="module")
def image(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Build the default service with faults; return its image's name."""
    require_docker()
    faulty = bake().copy(tmp_path_factory.mktemp("faulty") / "service").path
    with (faulty / "app/main.py").open("a", encoding="utf-8") as main:
        main.write((ROOT / "tests/support/faults.py").read_text("utf-8"))
    tag = f"template-test-faulty-{uuid.uuid4().hex[:8]}"
    docker("build", "--tag", tag, str(faulty))
    yield tag
    docker("rmi", "--force", tag, check=False)


# 1 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIG["database"])
def test_1_hardened_as_any_user(kind: str, build: Build) -> None:
    """The service needs only a volume or a database server, and one user reads the rows of another."""
    image = build(database=kind)
    # A file of SQLite's stays with its group, and these are all in group 0.
    users = ["10001", "1000670000:0", "10001" if kind == "sqlite" else "65534"]
    with database(kind, image) as (options, _):
        for user in users:
            begin = time.monotonic()
            with container(image, *HARDENED, *options, f"--user={user}") as started:
                started.wait_healthy(15)
                measure(1, "healthy after", time.monotonic() - begin, " s")
                check_endpoints(started.url)
                create(started.url, user)
                names = [] if kind == "none" else [item["name"] for item in stored(started.url)]
                assert started.stop() == 0
                assert {line["level"] for line in started.log()} == {"INFO"}
    assert names == ([] if kind == "none" else users)


def test_1_sqlite_needs_no_volume(image: str) -> None:
    with container(image, *HARDENED, "--user=65534") as started:
        started.wait_healthy(15)
        create(started.url, "for a while")


# 2 ------------------------------------------------------------------------------------------------

POST = b"POST /items/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
CLIENTS = {
    "idle": b"",
    "idle keep-alive": request("/", close=False),
    "half a request line": b"GET /ite",
    "half a body": POST + b'{"name": ',
    "response read slowly": request("/faults/large"),
    "handler that never ends": request("/faults/never"),
    "event stream": request("/faults/events"),
}


@pytest.mark.parametrize("clients", [[name] for name in CLIENTS] if FULL else [[*CLIENTS]])
@pytest.mark.parametrize("workers", [1, 4])
def test_2_a_stop_takes_less_than_ten_seconds(clients: list[str], workers: int, image: str) -> None:
    with running(image, WORKERS=workers) as started, contextlib.ExitStack() as stack:
        host = (started.address, 8000)
        for client in clients:
            slow = stack.enter_context(socket.create_connection(host))
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.sendall(CLIENTS[client])
        five = stack.enter_context(socket.create_connection(host))
        five.sendall(request("/faults/slow?seconds=5"))
        time.sleep(0.3)
        begin = time.monotonic()
        assert started.stop() == 0
        took = time.monotonic() - begin
        assert took < 10
        measure(2, "longest stop", took, " s")
        assert five.recv(100).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("workers", [1, 4])
def test_2_no_connection_is_accepted_and_then_reset(workers: int, image: str) -> None:
    async def scenario(started: Container) -> Result:
        result = Result()
        before = steadily(started.address, 8000, ITEMS, 500, 750, result)
        task = asyncio.create_task(before)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(docker, "kill", "--signal=TERM", started.name)
        await task
        return result

    with running(image, WORKERS=workers) as started:
        result = asyncio.run(scenario(started))
        assert docker("wait", started.name) == "0"
    assert result.outcomes["ok"] >= 100
    assert result.outcomes["refused"] >= 100
    assert result.lost == 0, result.outcomes
    measure(2, f"reset with {workers} workers", result.lost, f" of {result.total}")


# 3 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--env=MAX_BODY_SIZE=lots"], "setting MAX_BODY_SIZE"),
        (["--tmpfs=/opt/venv/lib"], "No module named 'pydantic'"),
        (["--network=host", "--env=PORT=busy"], "('0.0.0.0', busy)"),
    ],
    ids=["bad setting", "package missing", "port busy"],
)
def test_3_a_failed_start_ends_the_container_with_the_reason(
    options: list[str], cause: str, workers: int, image: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        options = [option.replace("busy", port) for option in options]
        log = ended(image, f"--env=WORKERS={workers}", *options)
        assert cause.replace("busy", port) in log[-1]["message"]
    # A worker for each, and none of them twice.
    assert sum("Booting worker" in line["message"] for line in log) <= workers


# 4 ------------------------------------------------------------------------------------------------


async def lose_a_worker(started: Container, times: int, blocked: bool) -> None:
    """Kill or block a worker under load; check how many requests fail, and when the next one works."""
    host = started.address
    for _ in range(times):
        workers = started.worker_pids()
        result = Result()
        load = asyncio.create_task(
            steadily(host, 8000, "/faults/slow?seconds=0.02", 50, 200 if blocked else 100, result)
        )
        await asyncio.sleep(0.5)
        if blocked:
            stuck = Result()
            task = asyncio.create_task(once(host, 8000, "/faults/block?seconds=60", stuck, 30))
            await task  # it ends when the worker does, after the timeout of two seconds
        else:
            victim = min(workers)
            os.kill(int(victim), 9)
        begin = time.monotonic()
        while len(now := started.worker_pids()) < 2 or now == workers:
            assert time.monotonic() - begin < 2, "no full capacity within two seconds"
            await asyncio.sleep(0.05)
        kind = "stuck" if blocked else "killed"
        measure(4, f"{kind}: full capacity after", time.monotonic() - begin, " s")
        await load
        measure(4, f"{kind}: requests that failed with it", result.failed)
        assert result.failed <= 10, result.outcomes  # those in flight on that worker
        assert started.health == "healthy"


@pytest.mark.parametrize("blocked", [False, True], ids=["killed", "blocked"])
def test_4_a_lost_worker_is_replaced(blocked: bool, image: str) -> None:
    with running(image, WORKERS=2, WORKER_TIMEOUT=2 if blocked else 30) as started:
        asyncio.run(lose_a_worker(started, 20 if FULL else 3, blocked))


# 5 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [["--env=FAULT=die", "--health-start-period=15s"], ["--memory=24m", "--memory-swap=24m"]],
    ids=["dying", "memory"],
)
def test_5_a_crash_loop_ends_or_becomes_unhealthy(options: list[str], image: str) -> None:
    with container(image, *options) as started:

        def seen() -> bool:
            exited = started.inspect("{{.State.Status}}") == "exited"
            return exited or started.health == "unhealthy"

        begin = time.monotonic()
        wait_until(seen, 60, lambda: docker("logs", started.name)[-2000:])
        measure(5, "seen after", time.monotonic() - begin, " s")
        if started.inspect("{{.State.Status}}") == "exited":
            assert started.inspect("{{.State.ExitCode}}") != "0"


# 6 ------------------------------------------------------------------------------------------------


def test_6_workers_that_are_recycled_and_reloaded_lose_no_request(image: str) -> None:
    times = 5 if FULL else 2

    async def scenario(started: Container) -> Result:
        load = asyncio.create_task(steadily(started.address, 8000, ITEMS, 250, 1000 * times))
        for _ in range(times):
            await asyncio.sleep(3)
            await asyncio.to_thread(docker, "kill", "--signal=HUP", started.name)
        return await load

    with running(image, WORKERS=2, MAX_REQUESTS=300) as started:
        workers = started.worker_pids()
        result = asyncio.run(scenario(started))
        assert result.failed == 0, result.outcomes
        assert result.total == 1000 * times
        measure(6, "failed", result.failed, f" of {result.total}")
        assert not started.worker_pids() & workers


# 7 ------------------------------------------------------------------------------------------------

NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  # max_fails=0: one that was away is asked again at once, not after ten seconds.
  upstream service {{
    server 127.0.0.1:{ports[0]} max_fails=0; server 127.0.0.1:{ports[1]} max_fails=0; keepalive 8;
  }}
  server {{
    listen 127.0.0.1:{ports[2]};
    location / {{ proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""


def test_7_a_rolling_update_loses_no_request(image: str, tmp_path: Path) -> None:
    ports = [free_port() for _ in range(3)]
    (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, ports=ports))
    names = [f"{image}-{port}" for port in ports[:2]]

    def replace(index: int) -> None:
        """Stop one of the two as an orchestrator does, and go on when the next one is healthy."""
        docker("rm", "--force", names[index], check=False)
        network = ("--network=host", f"--env=PORT={ports[index]}", "--env=WORKERS=2")
        docker("run", "--detach", "--name", names[index], *network, image)
        Container(names[index], ports[index]).wait_healthy()

    async def scenario(replacements: int, count: int) -> Result:
        result = Result()
        load = asyncio.create_task(steadily("127.0.0.1", ports[2], ITEMS, 90, count, result))
        keeping = [
            asyncio.create_task(kept_alive("127.0.0.1", ports[2], ITEMS, count / 90, 0.8, result))
            for _ in range(8)
        ]
        for number in range(replacements):
            await asyncio.sleep(1)
            await asyncio.to_thread(docker, "stop", names[number % 2])
            await asyncio.to_thread(replace, number % 2)
        await asyncio.gather(load, *keeping)
        return result

    try:
        for index in range(2):
            replace(index)
        nginx = [program("nginx", "nginx"), "-p", str(tmp_path), "-c", "nginx.conf"]
        with subprocess.Popen(nginx) as proxy:
            try:
                wait_until(lambda: listens(ports[2]), 10)
                result = asyncio.run(scenario(*((10, 9400) if FULL else (4, 2700))))
            finally:
                proxy.terminate()
    finally:
        for name in names:
            docker("rm", "--force", name, check=False)
    assert result.failed == 0, result.outcomes
    measure(7, "failed", result.failed, f" of {result.total}")
    assert result.total >= (10_000 if FULL else 2900)


# 8 ------------------------------------------------------------------------------------------------


def test_8_it_is_unhealthy_while_its_loop_is_blocked(image: str) -> None:
    with (
        running(image, *QUICK_CHECKS, WORKERS=1, WORKER_TIMEOUT=120) as started,
        socket.create_connection((started.address, 8000)) as blocking,
    ):
        blocking.sendall(request("/faults/block?seconds=20"))
        wait_until(lambda: started.health == "unhealthy", 20)
        started.wait_healthy(30)


def test_8_a_probe_is_cheap(image: str) -> None:
    script = (
        "import subprocess, sys, resource;"
        "[subprocess.run([sys.executable, '-I', '-S', 'server/probe.py'], check=True) for _ in range(10)];"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime)"
    )
    with running(image, "--cpus=0.5", WORKERS=1) as started:
        cpu = min(
            float(docker("exec", started.name, "python", "-c", script)) / 10 for _ in range(3)
        )
        measure(8, "CPU of a probe", cpu * 1000, " ms")
        assert cpu <= 0.1


def test_8_livez_answers_while_every_thread_is_busy(image: str) -> None:
    async def scenario(host: str) -> Result:
        busy = Result()
        tasks = [
            asyncio.create_task(once(host, 8000, "/faults/sync?seconds=1", busy))
            for _ in range(200)
        ]
        await asyncio.sleep(0.5)
        result = await steadily(host, 8000, "/livez", 50, 200)
        await asyncio.gather(*tasks)
        assert busy.failed == 0, busy.outcomes
        return result

    with running(image, WORKERS=2) as started:
        result = asyncio.run(scenario(started.address))
        assert result.failed == 0, result.outcomes
        measure(8, "p99 of /livez beside 200 blocking requests", result.p99() * 1000, " ms")
        assert result.p99() < 0.25


# 9 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "workers"),
    [("--cpus=0.5", 1), ("--cpus=1", 1), ("--cpus=1.5", 2), ("--cpuset-cpus=0", 1)],
)
def test_9_auto_follows_the_quota_and_the_affinity(limit: str, workers: int, image: str) -> None:
    with running(image, limit, WORKERS="auto", WEB_CONCURRENCY="") as started:
        assert len(started.worker_pids()) == min(workers, os.cpu_count() or 1)
        measure(9, f"{limit}:", workers, " worker" + "s" * (workers > 1))


# 10 -----------------------------------------------------------------------------------------------


def test_10_half_open_connections_are_dropped_and_delay_no_other_client(image: str) -> None:
    async def scenario(host: str) -> tuple[Result, Result, int]:
        alone = await steadily(host, 8000, ITEMS, 100, 500)
        begun = [b"", b"GET / HT", POST + b"{"]
        streams = [await asyncio.open_connection(host, 8000) for _ in range(500)]
        for number, (_, writer) in enumerate(streams):
            writer.write(begun[number % 3])
        beside = await steadily(host, 8000, ITEMS, 100, 500)
        begin = time.monotonic()
        left = [asyncio.create_task(reader.read()) for reader, _ in streams]
        await asyncio.wait(left, timeout=30 - 5)
        open_still = sum(not task.done() for task in left)
        assert time.monotonic() - begin < 30
        for task in left:
            task.cancel()
        for _, writer in streams:
            writer.close()
        return alone, beside, open_still

    with running(image, WORKERS=2) as started:
        # Before the measurement, the service makes everything that it makes once.
        asyncio.run(steadily(started.address, 8000, ITEMS, 100, 300))
        before = started.memory()
        alone, beside, open_still = asyncio.run(scenario(started.address))
        assert open_still == 0
        measure(10, "p99 of others: alone", alone.p99() * 1000, " ms")
        measure(10, "beside them", beside.p99() * 1000, " ms")
        assert beside.failed == 0, beside.outcomes
        # Without a limit they would wait for as long as the slow clients are allowed to.
        assert beside.p99() < 5
        assert started.memory() - before < 20_000_000


@pytest.mark.parametrize("chunked", [False, True])
def test_10_a_huge_body_is_refused_and_costs_no_memory(chunked: bool, image: str) -> None:
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 100000000"
    head = POST.replace(b"Content-Length: 99", length)
    part = (b"186a0\r\n" if chunked else b"") + b"x" * 100_000 + (b"\r\n" if chunked else b"")
    with running(image, WORKERS=1) as started:
        started.request("POST", "/items/", json={"name": "a", "price": 1})
        before = started.memory()
        with socket.create_connection((started.address, 8000), timeout=10) as client:
            client.sendall(head)
            for _ in range(999):
                client.sendall(part)
            assert client.recv(100).startswith(b"HTTP/1.1 413 ")
            grown = started.memory() - before
            measure(10, "memory for 100 MB", grown / 1e6, " MB")
            assert grown <= 10_000_000


# 11 -----------------------------------------------------------------------------------------------


def test_11_each_line_of_the_log_is_one_object_without_the_query(image: str) -> None:
    with running(image, WORKERS=1) as started:
        host = started.address
        lines = len(started.log())
        for raw in (
            b"GET /%0a%0d{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            b"GET /\x1b[31m HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: a\xffb\x1b\r\nConnection: close\r\n\r\n",
            b"nonsense\r\n\r\n",
            b"GET /items/1?token=secret HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            b"GET /faults/error HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine-1\r\nConnection: close\r\n\r\n",
        ):
            with socket.create_connection((host, 8000), timeout=10) as client:
                client.sendall(raw)
                answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b'{"detail":"Internal Server Error"}' in answer
        assert b"x-request-id: mine-1" in answer
        log = started.log()[lines:]
        assert 7 <= len(log) <= 8
        for line in log:
            assert line["time"].endswith("+00:00")
            assert line["level"] in {"INFO", "WARNING", "ERROR"}
            assert "token" not in str(line)
            if line["logger"] == "app.requests" and line["level"] == "INFO":
                assert line.keys() >= {"method", "route", "status", "duration_ms", "request_id"}
        (error,) = [line for line in log if line["level"] == "ERROR"]
        assert "RuntimeError: a secret of the service" in error["exception"]
        assert error["request_id"] == "mine-1"


# 12 -----------------------------------------------------------------------------------------------


def test_12_forwarded_headers_count_only_from_named_proxies(image: str) -> None:
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    with running(image) as started:
        answer = httpx2.get(f"http://{started.address}:8000/faults/client", headers=forged).json()
        assert answer["host"] != "203.0.113.9"
        assert answer["url"].startswith("http://")
        gateway = answer["host"]
    with running(image, FORWARDED_ALLOW_IPS=gateway) as started:
        answer = httpx2.get(f"http://{started.address}:8000/faults/client", headers=forged).json()
        assert answer["host"] == "203.0.113.9"
        assert answer["url"].startswith("https://")


def test_12_idle_connections_are_kept_and_a_prefix_works(image: str) -> None:
    with running(image, ROOT_PATH="/shop") as started:
        assert '"/shop/openapi.json"' in started.request("GET", "/docs").text.replace("'", '"')
        assert started.request("GET", "/openapi.json").json()["servers"] == [{"url": "/shop"}]
        clients = [socket.create_connection((started.address, 8000), timeout=10) for _ in range(20)]
        try:
            measure(12, "idle for", 74 if FULL else 31, " s, 0 of 20 reset")
            for wait in (0, 74) if FULL else (0, 31):
                time.sleep(wait)
                for client in clients:
                    client.sendall(request(ITEMS, close=False))
                    answer = client.recv(65536)
                    assert answer.startswith(b"HTTP/1.1 200 OK")
                    if not answer.endswith(b"}"):
                        client.recv(65536)
        finally:
            for client in clients:
                client.close()


# 14 -----------------------------------------------------------------------------------------------


def test_14_every_answer_has_the_security_headers_and_every_405_has_allow(image: str) -> None:
    with running(image) as started:
        for path in "/", "/items/1", "/items/x", "/nowhere", "/faults/error", "/docs":
            headers = started.request("GET", path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-store"
            assert "server" not in headers
        for path, allowed in (
            ("/", "GET, HEAD"),
            ("/items/1", "DELETE, GET, HEAD, PUT"),
            ("/items/", "GET, HEAD, POST"),
        ):
            for method in "TRACE", "PATCH", "PROPFIND":
                answer = started.request(method, path)
                assert answer.status_code == 405
                assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("seed", [1, 2, 3] if FULL else [1])
@pytest.mark.parametrize("kind", CONFIG["database"])
def test_14_schemathesis_finds_nothing(kind: str, seed: int, build: Build, tmp_path: Path) -> None:
    image = build(database=kind)
    with (
        database(kind, image) as (options, _),
        running(image, *options, WORKERS=2) as started,
    ):
        passed = schemathesis(started.url, seed, 500 if FULL else 50, tmp_path)
        measure(14, "cases that passed with each seed", passed)
        assert not [line for line in started.log() if line["level"] == "ERROR"]


# 15 -----------------------------------------------------------------------------------------------


# The guide's command: every worker imports the service for itself.
AS_THE_GUIDE = "uvicorn --workers 4 --host 0.0.0.0 --port 8000 app.main:app".split()


@pytest.mark.parametrize("kind", ["sqlite", "none"])
def test_15_workers_that_have_started_take_half_of_the_memory(kind: str, build: Build) -> None:
    image = build(database=kind)

    def started_with(*command: str) -> float:
        with container(image, "--env=WORKERS=4", command=command) as started:
            started.wait_healthy()
            time.sleep(2)
            return started.memory()

    # The memory includes files that the kernel has cached, so the least of several counts.
    times = 3 if FULL else 2
    ours = min(started_with() for _ in range(times))
    guides = min(started_with(*AS_THE_GUIDE) for _ in range(times))
    measure(15, f"started, database={kind}", ours / 2**20, " MiB")
    measure(15, f"as the guide serves it, database={kind}", guides / 2**20, " MiB")
    assert ours <= guides / 2


def test_15_memory_grows_by_at_most_five_percent_under_load(image: str) -> None:
    seconds = 600 if FULL else 20
    with running(image, WORKERS=4) as started:
        host = started.address
        # Before the measurement, the service opens every connection to the database.
        asyncio.run(steadily(host, 8000, ITEMS, 600, 3000))
        asyncio.run(steadily(host, 8000, ITEMS, 200, 4000))
        before = started.memory()
        result = asyncio.run(steadily(host, 8000, ITEMS, 200, 200 * seconds))
        assert result.failed == 0, result.outcomes
        after = started.memory()
        measure(
            15, f"grown in {seconds} s of 200 requests a second", 100 * (after / before - 1), " %"
        )
        assert after <= 1.05 * before
