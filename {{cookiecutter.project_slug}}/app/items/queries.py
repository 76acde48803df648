"""SQL for items, as plain functions of a connection."""

from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from app.items import tables
from app.items.models import Item, NewItem

# Made once: making a statement takes longer than running it.
BY_ID = select(tables.Item).where(tables.Item.item_id == bindparam("item_id"))
CREATE = insert(tables.Item).returning(tables.Item)


def _item(row: Row[Any]) -> Item:
    price = f"{row.price_cents // 100}.{row.price_cents % 100:02}"
    return Item(item_id=row.item_id, name=row.name, price=price, is_offer=row.is_offer)


def _values(item: NewItem) -> dict[str, Any]:
    cents = round(Decimal(str(item.price)) * 100)
    return {"name": item.name, "price_cents": cents, "is_offer": item.is_offer}


def page(connection: Connection, q: str | None, cursor: int, limit: int) -> list[Item]:
    """Return items after `cursor`, oldest first, whose name contains `q` if that is given."""
    query = select(tables.Item).where(tables.Item.item_id > cursor)
    if q is not None:
        query = query.where(tables.Item.name.icontains(q, autoescape=True))
    rows = connection.execute(query.order_by(tables.Item.item_id).limit(limit))
    return [_item(row) for row in rows]


def by_id(connection: Connection, item_id: int) -> Item | None:
    """Return an item, if there is one."""
    row = connection.execute(BY_ID, {"item_id": item_id}).one_or_none()
    return row and _item(row)


def create(connection: Connection, item: NewItem) -> Item:
    """Create an item and return it with its id."""
    return _item(connection.execute(CREATE, _values(item)).one())


def replace(connection: Connection, item_id: int, item: NewItem) -> Item | None:
    """Replace an item, if there is one, and return it."""
    change = update(tables.Item).where(tables.Item.item_id == item_id).values(_values(item))
    row = connection.execute(change.returning(tables.Item)).one_or_none()
    return row and _item(row)


def remove(connection: Connection, item_id: int) -> bool:
    """Delete an item, and tell whether there was one."""
    return (
        connection.execute(delete(tables.Item).where(tables.Item.item_id == item_id)).rowcount > 0
    )
