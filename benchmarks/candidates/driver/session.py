"""Items as most write them: a `def` endpoint with a `yield` session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Response
from pydantic import BaseModel
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


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


# A connection for each client: with fewer, requests wait for each other for ever.
engine = create_engine(os.environ["DATABASE_URL"], pool_size=64)
app = FastAPI()


def get_session() -> Iterator[Session]:
    """Open a session for a request."""
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_session)]


def item_of(row: Row) -> Item:
    """Return the item of a row."""
    price = Decimal(row.price_cents).scaleb(-2)
    return Item(item_id=row.item_id, name=row.name, price=price, is_offer=row.is_offer)


@app.get("/items/{item_id}")
def read_item(item_id: int, session: SessionDep) -> Item:
    """Return the item with this id."""
    row = session.get(Row, item_id)
    if row is None:
        raise HTTPException(404, "No such item")
    return item_of(row)


@app.post("/items/", status_code=201)
def create_item(item: NewItem, session: SessionDep, response: Response) -> dict[str, str | Item]:
    """Keep a new item."""
    row = Row(name=item.name, price_cents=int(item.price * 100), is_offer=item.is_offer)
    session.add(row)
    session.commit()
    session.refresh(row)
    response.headers["Location"] = f"/items/{row.item_id}"
    return {"message": "Item created successfully", "item": item_of(row)}
