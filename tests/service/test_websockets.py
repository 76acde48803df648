"""WebSockets on the server of a generated service: with the package, without it, idle, at a stop."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.services import Bake, serving

pytestmark = pytest.mark.slow

ECHO = """
from fastapi import WebSocket

@app.websocket("/echo")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    while True:
        await socket.send_text(await socket.receive_text())
"""


@pytest.fixture(scope="module")
def service(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a service with a WebSocket."""
    folder = bake(database="none").copy(tmp_path_factory.mktemp("service") / "service").path
    with (folder / "app/main.py").open("a", encoding="utf-8") as main:
        main.write(ECHO)
    return folder


def test_it_works_and_may_be_idle_for_longer_than_a_slow_client(service: Path) -> None:
    async def talk(served: dict[str, str]) -> None:
        async with connect(f"ws://{served['ADDRESS']}/echo") as client:
            for pause in 0, 4:
                await asyncio.sleep(pause)
                await client.send("hello")
                assert await client.recv() == "hello"

    with serving(service, READ_TIMEOUT="1", KEEP_ALIVE="1") as served:
        asyncio.run(talk(served))


def test_nothing_behind_the_handshake_is_taken_for_a_request(service: Path) -> None:
    handshake = (
        b"GET /echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    hidden = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving(service) as served:
        host, port = served["ADDRESS"].split(":")
        with socket.create_connection((host, int(port)), timeout=2) as client:
            client.sendall(handshake.ljust(4096, b"j") + hidden)
            received = b""
            with contextlib.suppress(TimeoutError):
                while data := client.recv(65536):
                    received += data
    assert received.count(b"HTTP/1.1 ") == 1


def test_an_earlier_answer_comes_first(service: Path) -> None:
    offer = b"GET /echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    with serving(service) as served:
        host, port = served["ADDRESS"].split(":")
        with socket.create_connection((host, int(port)), timeout=5) as client:
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + offer)
            time.sleep(0.5)
            assert re.findall(rb"HTTP/1.1 (\d+)", client.recv(65536)) == [b"200", b"404"]


def test_a_stop_closes_it_with_code_1012(service: Path) -> None:
    async def talk(served: dict[str, str], stop: contextlib.ExitStack) -> int:
        async with connect(f"ws://{served['ADDRESS']}/echo") as client:
            stopping = asyncio.create_task(asyncio.to_thread(stop.close))
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            await stopping
        assert closed.value.rcvd
        return closed.value.rcvd.code

    with contextlib.ExitStack() as stop:
        served = stop.enter_context(serving(service))
        begin = time.monotonic()
        assert asyncio.run(talk(served, stop)) == 1012
        assert time.monotonic() - begin < 8


def test_without_the_package_the_answer_and_the_log_name_it(service: Path) -> None:
    async def talk(served: dict[str, str]) -> None:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{served['ADDRESS']}/echo")
        assert refused.value.response.status_code == 501
        assert b"the package websockets" in (refused.value.response.body or b"")

    hidden = "import sys; sys.modules['websockets'] = None; import server.__main__ as m; m.main()"
    with serving(service, "-c", hidden) as served:
        asyncio.run(talk(served))
    assert len(re.findall("need the package websockets", Path(served["LOG"]).read_text())) == 1
