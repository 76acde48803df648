"""Items as many write them: an `AsyncSession`, with aiosqlite or asyncpg."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Response
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class NewItem(BaseModel):
    """An item as a client describes it."""

    name: str
    price: Decimal
    is_offer: bool | None = None


class Item(NewItem):
    """An item as the database knows it."""

    item_id: int


class Base(DeclarativeBase):
    """Base class of the table."""


class Row(Base):
    """An item in the database."""

    __tablename__ = "items"
    item_id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    price_cents: Mapped[int]
    is_offer: Mapped[bool | None]


URL = os.environ["DATABASE_URL"]
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql+psycopg": "postgresql+asyncpg"}
scheme, _, rest = URL.partition("://")
engine = create_async_engine(f"{DRIVERS[scheme]}://{rest}")
app = FastAPI()


async def get_session() -> AsyncIterator[AsyncSession]:
    """Open a session for a request."""
    async with AsyncSession(engine) as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(get_session)]


def item_of(row: Row) -> Item:
    """Return the item of a row."""
    price = Decimal(row.price_cents).scaleb(-2)
    return Item(item_id=row.item_id, name=row.name, price=price, is_offer=row.is_offer)


@app.get("/items/{item_id}")
async def read_item(item_id: int, session: SessionDep) -> Item:
    """Return the item with this id."""
    row = await session.get(Row, item_id)
    if row is None:
        raise HTTPException(404, "No such item")
    return item_of(row)


@app.post("/items/", status_code=201)
async def create_item(
    item: NewItem, session: SessionDep, response: Response
) -> dict[str, str | Item]:
    """Keep a new item."""
    row = Row(name=item.name, price_cents=int(item.price * 100), is_offer=item.is_offer)
    session.add(row)
    await session.commit()
    await session.refresh(row)
    response.headers["Location"] = f"/items/{row.item_id}"
    return {"message": "Item created successfully", "item": item_of(row)}
