"""Clients of the items: one request, every endpoint once, or many changes that a client checks later."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2

from tests.support.load import answer, request

LAMP = {"name": "Lamp", "price": 12.5}


def create(url: str, name: str) -> None:
    """Create an item."""
    answer = httpx2.post(f"{url}/items/", json=LAMP | {"name": name}, timeout=20)
    assert answer.status_code == 201, answer.text


def stored(url: str) -> list[dict[str, Any]]:
    """Return every item of the service at `url`, page by page."""
    items: list[dict[str, Any]] = []
    cursor = ""
    with httpx2.Client(base_url=url, timeout=20) as client:
        while True:
            page = client.get(f"/items/?limit=100{cursor}").raise_for_status().json()
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            cursor = f"&cursor={page['next_cursor']}"


def check_endpoints(url: str) -> None:
    """Use every endpoint of the service at `url`; without a database, it keeps no items."""
    with httpx2.Client(base_url=url, timeout=20) as client:
        greeting = {"message": "Hello from FastAPI in a Docker container!"}
        welcome = client.get("/")
        assert welcome.json() == greeting
        assert welcome.headers["x-content-type-options"] == "nosniff"
        assert "server" not in welcome.headers
        for path in "/health", "/livez", "/readyz":
            assert client.get(path).json() == {"status": "healthy"}
        assert client.get("/docs").status_code == 200
        paths = client.get("/openapi.json").json()["paths"]
        created = client.post("/items/", json=LAMP)
        assert created.status_code == 201
        assert created.json()["message"] == "Item created successfully"
        item = created.json()["item"]
        if "put" not in paths["/items/{item_id}"]:
            assert item == LAMP | {"is_offer": None}
            item = {"item_id": 7, "name": "Item 7", "price": 10.5, "is_offer": True}
            assert client.get("/items/7?q=sale").json() == item
            return
        assert item == LAMP | {"item_id": item["item_id"], "price": "12.50", "is_offer": None}
        path = created.headers["location"]
        assert client.get(path).json() == item
        assert item in client.get("/items/?q=lamp").json()["items"]
        changed = item | {"name": "Desk"}
        assert client.put(path, json=LAMP | {"name": "Desk"}).json() == changed
        assert changed in stored(url)
        assert client.delete(path).status_code == 204
        assert client.get(path).status_code == 404


def priced(hundredths: int) -> dict[str, Any]:
    """Return an item that nobody else has."""
    price = f"{hundredths // 100}.{hundredths % 100:02}"
    return {"name": uuid.uuid4().hex, "price": price, "is_offer": None}


class Client:
    """A client that sends one request after another, and remembers the answers."""

    def __init__(self, host: str, seed: int) -> None:
        """Prepare a client of the service at port 8000 of `host`; `seed` determines its requests."""
        self.host = host
        self.random = random.Random(seed)
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.kept: dict[int, dict[str, Any]] = {}
        self.deleted: list[int] = []
        # Names of items whose change got no answer, so it may have been made or not.
        self.doubtful: set[str] = set()
        # The status of each answer: 0 without one.
        self.answers: list[int] = []

    async def _ask(self, method: str, path: str, item: dict[str, Any] | None) -> tuple[int, bytes]:
        if self.streams is None:
            self.streams = await asyncio.open_connection(self.host, 8000)
        reader, writer = self.streams
        body = json.dumps(item).encode() if item else b""
        writer.write(request(path, close=False, method=method, body=body))
        got = await answer(reader)
        if b"connection: close" in got.lower():
            self.close()
        return int(got[9:12]), got.partition(b"\r\n\r\n")[2]

    async def ask(
        self, method: str, path: str, item: dict[str, Any] | None = None
    ) -> tuple[int, Any]:
        """Return status and content of the answer; the status is 0 without one within seven seconds."""
        status, body = 0, b""
        try:
            async with asyncio.timeout(7):
                status, body = await self._ask(method, path, item)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            self.close()
        self.answers.append(status)
        return status, json.loads(body) if body else None

    def close(self) -> None:
        """Connect anew for the next request."""
        if self.streams:
            self.streams[1].close()
            self.streams = None

    async def create(self) -> None:
        """Create an item."""
        item = priced(self.random.randrange(10**12))
        status, body = await self.ask("POST", "/items/", item)
        if status == 201:
            item_id = body["item"]["item_id"]
            self.kept[item_id] = item | {"item_id": item_id}
            assert body["item"] == self.kept[item_id]
        else:
            self.doubtful.add(item["name"])

    async def read(self) -> None:
        """Read an item, which may have been deleted."""
        item_id = self.random.choice([*self.kept, *self.deleted[-1:]])
        expected = self.kept.get(item_id)
        status, body = await self.ask("GET", f"/items/{item_id}")
        if status in {200, 404}:
            assert body == (expected or {"detail": "No such item"})

    async def list(self) -> None:
        """List some items."""
        status, body = await self.ask("GET", "/items/?limit=10")
        assert status != 200 or body["items"]

    async def replace(self) -> None:
        """Replace an item."""
        item_id, before = self.kept.popitem()
        item = priced(self.random.randrange(10**12))
        status, body = await self.ask("PUT", f"/items/{item_id}", item)
        if status == 200:
            assert body == item | {"item_id": item_id}
            self.kept[item_id] = body
        else:
            self.doubtful |= {before["name"], item["name"]}

    async def delete(self) -> None:
        """Delete an item."""
        item_id, before = self.kept.popitem()
        status, _ = await self.ask("DELETE", f"/items/{item_id}")
        if status == 204:
            self.deleted.append(item_id)
        else:
            self.doubtful.add(before["name"])

    async def step(self) -> None:
        """Send a random request."""
        do: list[Callable[[], Awaitable[None]]] = [self.create] * 4
        if self.kept:
            do += [self.read] * 3 + [self.list, self.replace, self.delete]
        await self.random.choice(do)()


def check(clients: list[Client], items: list[dict[str, Any]]) -> None:
    """Check that the stored items are those that the clients know."""
    by_id = {item["item_id"]: item for item in items}
    assert len(by_id) == len(items) == len({item["name"] for item in items}), "one is there twice"
    known: set[str] = set()
    doubtful: set[str] = set()
    for client in clients:
        for item_id, item in client.kept.items():
            assert by_id.get(item_id) == item
            known.add(item["name"])
        assert not by_id.keys() & client.deleted
        doubtful |= client.doubtful
    assert {item["name"] for item in items} - known <= doubtful


def statuses(clients: list[Client]) -> Counter[int]:
    """Count the answers by their status."""
    return Counter(status for client in clients for status in client.answers)
