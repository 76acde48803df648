"""Items by the driver alone: two endpoints, and `python bare.py read 2` without any.

The second prints, as JSON, how many requests a second were made for 2 seconds, and the CPU time for each
in µs. With `BY=sqlalchemy`, both send the same statements through SQLAlchemy.
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

READ = "SELECT item_id, name, price, is_offer FROM items WHERE item_id = {}"
CREATE = "INSERT INTO items (name, price, is_offer) VALUES ({}, {}, {})"


class NewItem(BaseModel):
    """An item as a client describes it."""

    name: str
    price: Decimal
    is_offer: bool | None = None


class Item(NewItem):
    """An item as the database knows it."""

    item_id: int


class SQLite:
    """A connection by aiosqlite, which commits each statement."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[SQLite]:
        """Connect, and disconnect at the end."""
        import aiosqlite

        file = URL.removeprefix("sqlite+aiosqlite:///")
        async with aiosqlite.connect(file, timeout=4, isolation_level=None) as connection:
            await connection.execute("PRAGMA foreign_keys = ON")
            yield cls(connection)

    async def read(self, item_id: int) -> Item | None:
        """Return an item, if there is one."""
        rows = await self.connection.execute_fetchall(READ.format("?"), (item_id,))
        for number, name, price, is_offer in rows:
            price = Decimal(price).scaleb(-2)  # kept in hundredths
            return Item(item_id=number, name=name, price=price, is_offer=is_offer)
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
        if row is None:
            return None
        return Item(item_id=row[0], name=row[1], price=row[2], is_offer=row[3])

    async def create(self, item: NewItem) -> int:
        """Keep an item; return its id."""
        values = (item.name, item.price, item.is_offer)
        rows = await self.connection.execute(
            CREATE.format("%s", "%s", "%s") + " RETURNING item_id", values
        )
        return int((await rows.fetchone())[0])


class SQLAlchemy:
    """A pool of one connection, by the same drivers; no tables, no session, no transaction to read."""

    def __init__(self, engine: Any) -> None:
        from sqlalchemy import text

        self.engine = self.reading = engine
        hundredths = engine.dialect.name == "sqlite"
        if not hundredths:
            self.reading = engine.execution_options(isolation_level="AUTOCOMMIT")
        self.price = (lambda price: Decimal(price).scaleb(-2)) if hundredths else Decimal
        self.kept = (lambda price: int(price * 100)) if hundredths else Decimal
        self.select = text(READ.format(":item_id"))
        self.insert = text(CREATE.format(":name", ":price", ":is_offer") + " RETURNING item_id")

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[SQLAlchemy]:
        """Make an engine, and dispose of it at the end."""
        from sqlalchemy.ext.asyncio import create_async_engine

        engine = create_async_engine(URL, pool_size=1, max_overflow=0)
        yield cls(engine)
        await engine.dispose()

    async def read(self, item_id: int) -> Item | None:
        """Return an item, if there is one."""
        async with self.reading.connect() as connection:
            row = (await connection.execute(self.select, {"item_id": item_id})).one_or_none()
        if row is None:
            return None
        return Item(item_id=row[0], name=row[1], price=self.price(row[2]), is_offer=row[3])

    async def create(self, item: NewItem) -> int:
        """Keep an item; return its id."""
        values = {"name": item.name, "price": self.kept(item.price), "is_offer": item.is_offer}
        async with self.engine.begin() as connection:
            return int((await connection.execute(self.insert, values)).scalar_one())


Database = SQLite | PostgreSQL | SQLAlchemy
Connection: type[Database] = SQLite if URL.startswith("sqlite") else PostgreSQL
if os.environ.get("BY") == "sqlalchemy":
    Connection = SQLAlchemy


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
