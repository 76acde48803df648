"""Items over HTTP."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response, status
from sqlalchemy import Row, bindparam, delete, select, update

from app.database import Reading, Session
from app.errors import Error
from app.items import tables
from app.items.models import Created, Item, ItemId, NewItem, Page, Text

router = APIRouter(prefix="/items", tags=["items"])

ABSENT: dict[int | str, dict[str, Any]] = {
    status.HTTP_404_NOT_FOUND: {"model": Error, "description": "No such item"}
}
LOCATION: dict[int | str, dict[str, Any]] = {
    status.HTTP_201_CREATED: {
        "headers": {"Location": {"description": "Path of the item", "schema": {"type": "string"}}}
    }
}


# Made once: making a statement costs more than running it.
ITEMS = select(tables.Item.__table__)
BY_ID = ITEMS.where(tables.Item.item_id == bindparam("item_id"))


def found(row: Row[Any] | tables.Item | None) -> Item:
    """Return the item that is in the database, or answer 404."""
    if row is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "No such item")
    return Item.model_validate(row)


@router.get("/")
async def list_items(
    connection: Reading,
    q: Text | None = None,
    cursor: ItemId | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
) -> Page:
    """List items, oldest first: those whose name contains `q`, if given, after the `cursor`."""
    query = ITEMS.order_by(tables.Item.item_id).limit(limit + 1)
    if q is not None:
        query = query.where(tables.Item.name.icontains(q, autoescape=True))
    if cursor is not None:
        query = query.where(tables.Item.item_id > cursor)
    items = [Item.model_validate(row) for row in await connection.execute(query)]
    more = len(items) > limit
    return Page(items=items[:limit], next_cursor=items[limit - 1].item_id if more else None)


@router.get("/{item_id}", responses=ABSENT)
async def read_item(item_id: ItemId, connection: Reading) -> Item:
    """Return the item with this id."""
    rows = await connection.execute(BY_ID, {"item_id": item_id})
    return found(rows.one_or_none())


@router.post("/", status_code=status.HTTP_201_CREATED, responses=LOCATION)
async def create_item(
    item: NewItem, session: Session, request: Request, response: Response
) -> Created:
    """Keep a new item; `Location` says where it is."""
    row = tables.Item(**item.model_dump())
    async with session.begin():
        session.add(row)
    response.headers["Location"] = request.url_for("read_item", item_id=row.item_id).path
    return Created(message="Item created successfully", item=found(row))


@router.put("/{item_id}", responses=ABSENT)
async def replace_item(item_id: ItemId, item: NewItem, session: Session) -> Item:
    """Replace what is known of the item with this id."""
    change = update(tables.Item).where(tables.Item.item_id == item_id).values(**item.model_dump())
    async with session.begin():
        return found(await session.scalar(change.returning(tables.Item)))


@router.delete("/{item_id}", status_code=status.HTTP_204_NO_CONTENT, responses=ABSENT)
async def delete_item(item_id: ItemId, session: Session) -> None:
    """Forget the item with this id."""
    removal = delete(tables.Item).where(tables.Item.item_id == item_id)
    async with session.begin():
        found(await session.scalar(removal.returning(tables.Item)))
