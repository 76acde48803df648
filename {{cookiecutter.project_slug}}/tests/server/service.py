"""A service for the tests of the server: endpoints that behave badly, and a lifespan that a test controls."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response, StreamingResponse


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, str]]:
    """Start as START says: Python code in an asynchronous function, or nothing."""
    code = os.environ.get("START", "pass")
    scope: dict[str, Any] = {}
    exec(f"async def start():\n  {code}", globals(), scope)  # noqa: S102 - a test's own code
    await scope["start"]()
    async with asyncio.TaskGroup() as tasks:
        if "TASK" in os.environ:
            tasks.create_task(fail_once(os.environ["TASK"]))
        yield {"ready": "yes"}


app = FastAPI(lifespan=lifespan, openapi_url=None)
if "IMPORT" in os.environ:
    exec(os.environ["IMPORT"])  # noqa: S102 - a test's own code


@app.get("/livez")
@app.get("/readyz")
@app.get("/")
async def root(request: Request) -> dict[str, str]:
    """Return the state of the lifespan."""
    return {"ready": request.state.ready, "worker": str(os.getpid())}


@app.get("/sleep")
async def sleep(seconds: float, blocking: bool = False) -> None:
    """Answer late; block the event loop if `blocking`."""
    if blocking:
        time.sleep(seconds)  # noqa: ASYNC251 - that is the point
    else:
        await asyncio.sleep(seconds)


@app.get("/bytes")
async def some_bytes(count: int) -> Response:
    """Return a large body at once."""
    return Response(b"x" * count)


@app.api_route("/echo", methods=["GET", "POST"])
async def echo(request: Request, wait: float = 0) -> Response:
    """Return the headers and the body, which is read after `wait` seconds."""
    await asyncio.sleep(wait)
    body = await request.body()
    headers = [f"{name}: {value}" for name, value in request.headers.items()]
    return JSONResponse(
        {"http": request.scope["http_version"], "headers": headers, "body": body.decode("latin-1")}
    )


@app.get("/poll")
async def poll(request: Request) -> int:
    """Ask for three seconds whether the client is still there; return the number of streams."""
    end = time.monotonic() + 3
    while time.monotonic() < end and not await request.is_disconnected():  # noqa: ASYNC110 - that is the point
        await asyncio.sleep(0.001)
    return len(streams)


streams: set[int] = set()


@app.get("/stream")
async def stream() -> StreamingResponse:
    """Send a line each 0.1 s, for ever."""

    async def lines() -> AsyncIterator[bytes]:
        number = len(streams)
        streams.add(number)
        try:
            while True:
                yield b"line\n"
                await asyncio.sleep(0.1)
        finally:
            streams.discard(number)

    return StreamingResponse(lines())


@app.post("/early")
async def early() -> Response:
    """Answer without reading the body."""
    return Response(status_code=404)


async def fail_once(name: str) -> None:
    """Fail soon, unless the file `name` exists."""
    await asyncio.sleep(0.5)
    if is_new(name):
        raise ValueError("a task of the lifespan has failed")


def is_new(name: str) -> bool:
    """Make the file `name`; return whether it did not exist."""
    exists = Path(name).exists()
    Path(name).touch()
    return not exists


def available(name: str) -> None:
    """Raise ConnectionError unless the file `name` exists."""
    if not Path(name).exists():
        raise ConnectionError("the warehouse does not answer")
