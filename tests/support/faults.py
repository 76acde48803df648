# Faults, appended to app/main.py of the service that tests/promises/test_promises.py runs.
# ruff: noqa
# mypy: ignore-errors
import asyncio
import os
import time
from collections.abc import AsyncIterator

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


@app.get("/faults/slow")
async def slow(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


@app.get("/faults/never")
async def never() -> None:
    await asyncio.Event().wait()


@app.get("/faults/events")
async def events() -> StreamingResponse:
    async def forever() -> AsyncIterator[bytes]:
        while True:
            yield b"data: tick\n\n"
            await asyncio.sleep(0.2)

    return StreamingResponse(forever(), media_type="text/event-stream")


@app.get("/faults/large")
async def large() -> StreamingResponse:
    async def much() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 100_000

    return StreamingResponse(much(), media_type="application/octet-stream")


@app.get("/faults/block")
async def block(seconds: float) -> None:
    time.sleep(seconds)


@app.get("/faults/sync")
def sync(seconds: float) -> None:
    time.sleep(seconds)


@app.get("/faults/error")
async def error() -> None:
    raise RuntimeError("a secret of the service")


@app.get("/faults/client")
async def client(request: Request) -> dict[str, str]:
    return {"host": request.client.host, "url": str(request.url)}


inner = app


async def dying(scope: Scope, receive: Receive, send: Send) -> None:
    """Start as the service does, and die at the first request."""
    if scope["type"] == "http":
        os._exit(1)
    await inner(scope, receive, send)


if os.environ.get("FAULT") == "die":
    app = dying
