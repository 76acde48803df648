"""Clients on raw connections, which count the outcome of each request."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

OK = b"HTTP/1.1 200"


@dataclass
class Result:
    """Outcomes of many requests: a count for each, and the seconds of the good ones."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Count the requests that were sent."""
        return self.outcomes.total()

    @property
    def failed(self) -> int:
        """Count refusals, resets, hang-ups and answers other than 200."""
        return self.total - self.outcomes["ok"]

    @property
    def lost(self) -> int:
        """Count the connections that were made and then brought no answer."""
        return self.failed - self.outcomes["refused"]

    def p99(self) -> float:
        """Return the 99th percentile of the good ones, in seconds."""
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]


def request(path: str, close: bool = True, method: str = "GET", body: bytes = b"") -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test"]
    lines += ["Connection: close"] if close else []
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


async def answer(reader: asyncio.StreamReader) -> bytes:
    """Read one whole answer that has a Content-Length."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.split(b":")[1]))
    return head


async def once(host: str, port: int, path: str, result: Result, seconds: float = 20) -> None:
    """Connect, ask and read the answer; count the outcome."""
    begin = time.monotonic()
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 5)
    except OSError:
        result.outcomes["refused"] += 1
        return
    try:
        writer.write(request(path))
        got = await asyncio.wait_for(answer(reader), seconds)
    except asyncio.IncompleteReadError as error:
        result.outcomes["cut off" if error.partial else "hung up"] += 1
    except TimeoutError:
        result.outcomes["silence"] += 1
    except OSError:
        result.outcomes["reset"] += 1
    else:
        if got.startswith(OK):
            result.seconds.append(time.monotonic() - begin)
        result.outcomes["ok" if got.startswith(OK) else got[9:12].decode()] += 1
    finally:
        writer.close()


async def steadily(
    host: str, port: int, path: str, rate: float, count: int, result: Result | None = None
) -> Result:
    """Send `count` requests, `rate` a second, each on a connection of its own."""
    result = result or Result()
    async with asyncio.TaskGroup() as group:
        begin = time.monotonic()
        for number in range(count):
            group.create_task(once(host, port, path, result))
            await asyncio.sleep(max(0, begin + (number + 1) / rate - time.monotonic()))
    return result


async def kept_alive(
    host: str, port: int, path: str, seconds: float, pause: float, result: Result
) -> None:
    """Ask again and again on one connection, and on a new one where the server closed the last."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            result.outcomes["refused"] += 1
            await asyncio.sleep(pause)
            continue
        last = False
        try:
            while time.monotonic() < end and not last:
                writer.write(request(path, close=False))
                got = await asyncio.wait_for(answer(reader), 20)
                last = b"connection: close" in got.lower()
                result.outcomes["ok" if got.startswith(OK) else got[9:12].decode()] += 1
                await asyncio.sleep(pause)
        except (asyncio.IncompleteReadError, OSError, TimeoutError):
            result.outcomes["reset"] += 1
            await asyncio.sleep(pause)
        finally:
            writer.close()


async def until_stopped(
    port: Callable[[], int], path: str, seconds: float, result: Result, stop: asyncio.Event
) -> None:
    """Send 100 requests a second: half on new connections, half on ten that are kept for `seconds`."""

    async def keep() -> None:
        while not stop.is_set():
            await kept_alive("127.0.0.1", port(), path, seconds, 0.2, result)

    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(keep())
        while not stop.is_set():
            group.create_task(once("127.0.0.1", port(), path, result))
            await asyncio.sleep(1 / 50)
