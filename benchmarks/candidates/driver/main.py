"""Items by the driver alone: two endpoints, and `python bare.py read 2` without any.

The second prints, as JSON, how many requests a second were made for 2 seconds, and the CPU time for each
in µs.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from typing import Any

from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel

URL = os.environ["DATABASE_URL"]

READ = "SELECT item_id, name, price_cents, is_offer FROM items WHERE item_id = {}"
CREATE = "INSERT INTO items (name, price_cents, is_offer) VALUES ({}, {}, {})"


class NewItem(BaseModel):
    """An item as a client describes it."""

    name: str
    price: Decimal
    is_offer: bool | None = None


class Item(NewItem):
    """An item as the database knows it."""

    item_id: int


def item_of(row: Any) -> Item:
    """Return the item of a row."""
    return Item(item_id=row[0], name=row[1], price=Decimal(row[2]).scaleb(-2), is_offer=row[3])


class SQLite:
    """A connection by aiosqlite, which commits each statement."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[SQLite]:
        """Connect, and disconnect at the end."""
        import aiosqlite

        file = URL.removeprefix("sqlite:///")
        async with aiosqlite.connect(file, timeout=4, isolation_level=None) as connection:
            await connection.execute("PRAGMA foreign_keys = ON")
            yield cls(connection)

    async def read(self, item_id: int) -> Item | None:
        """Return an item, if there is one."""
        rows = await self.connection.execute_fetchall(READ.format("?"), (item_id,))
        for row in rows:
            return item_of(row)
        return None

    async def create(self, item: NewItem) -> int:
        """Keep an item; return its id."""
        values = (item.name, int(item.price * 100), item.is_offer)
        (item_id,) = await self.connection.execute_insert(CREATE.format("?", "?", "?"), values)
        return int(item_id)


class PostgreSQL:
    """A connection by psycopg, which commits each statement."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[PostgreSQL]:
        """Connect, and disconnect at the end."""
        import psycopg

        url = URL.replace("+psycopg", "")
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            yield cls(connection)

    async def read(self, item_id: int) -> Item | None:
        """Return an item, if there is one."""
        rows = await self.connection.execute(READ.format("%s"), (item_id,))
        row = await rows.fetchone()
        return None if row is None else item_of(row)

    async def create(self, item: NewItem) -> int:
        """Keep an item; return its id."""
        values = (item.name, int(item.price * 100), item.is_offer)
        rows = await self.connection.execute(
            CREATE.format("%s", "%s", "%s") + " RETURNING item_id", values
        )
        return int((await rows.fetchone())[0])


Database = SQLite | PostgreSQL
Connection: type[Database] = SQLite if URL.startswith("sqlite") else PostgreSQL


@asynccontextmanager
async def connections() -> AsyncIterator[list[Database]]:
    """Open as many connections as the service does."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Connection.open()) for _ in range(5)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open a pool: a queue of connections that nobody uses."""
    async with connections() as opened:
        app.state.free = asyncio.Queue()
        for one in opened:
            app.state.free.put_nowait(one)
        yield


app = FastAPI(lifespan=lifespan)


@asynccontextmanager
async def connection() -> AsyncIterator[Database]:
    """Take a connection out of the pool, and put it back at the end."""
    taken = await app.state.free.get()
    try:
        yield taken
    finally:
        app.state.free.put_nowait(taken)


@app.get("/items/{item_id}")
async def read_item(item_id: int) -> Item:
    """Return the item with this id."""
    async with connection() as database:
        item = await database.read(item_id)
    if item is None:
        raise HTTPException(404, "No such item")
    return item


@app.post("/items/", status_code=201)
async def create_item(item: NewItem, response: Response) -> dict[str, str | Item]:
    """Keep a new item."""
    async with connection() as database:
        item_id = await database.create(item)
    response.headers["Location"] = f"/items/{item_id}"
    kept = Item(item_id=item_id, **item.model_dump())
    return {"message": "Item created successfully", "item": kept}


async def ask(what: str, duration: float) -> dict[str, float]:
    """Read or create items, one after the other on each connection, and count them."""
    item = NewItem(name="Tea", price=Decimal("2.5"))
    count = 0
    async with connections() as opened:
        begin, used = time.perf_counter(), time.process_time()

        async def repeat(database: Database) -> None:
            nonlocal count
            while time.perf_counter() < begin + duration:
                await (database.read(1) if what == "read" else database.create(item))
                count += 1

        await asyncio.gather(*(repeat(database) for database in opened))
        took, used = time.perf_counter() - begin, time.process_time() - used
    return {"throughput": count / took, "cpu": used / count * 1e6}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ask(sys.argv[1], float(sys.argv[2])))))
