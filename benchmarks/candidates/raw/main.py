"""Constant answers to everything: what the server itself can do."""

from collections.abc import Awaitable, Callable
from typing import Any

ITEM = b'{"item_id":42,"name":"Item 42","price":10.5,"is_offer":true}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ITEM))]


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answer a request with a constant, after its body; agree to the start and end of the lifespan."""
    if scope["type"] == "lifespan":
        for _ in range(2):
            message = await receive()
            await send({"type": message["type"] + ".complete"})
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ITEM})
