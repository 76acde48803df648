"""Items over HTTP."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response, status
from pydantic import BaseModel

from app.database import DatabaseDep
from app.errors import Error
from app.items import queries
from app.items.models import Item, ItemId, NewItem, Text

router = APIRouter(prefix="/items", tags=["items"])

NOT_FOUND: dict[int | str, dict[str, Any]] = {
    status.HTTP_404_NOT_FOUND: {"model": Error, "description": "No such item"}
}
LOCATION: dict[int | str, dict[str, Any]] = {
    status.HTTP_201_CREATED: {
        "headers": {"Location": {"description": "Path of the item", "schema": {"type": "string"}}}
    }
}


class Page(BaseModel):
    """Some of the items, oldest first."""

    items: list[Item]
    next_cursor: ItemId | None
    """The `cursor` of the next page, if there is one."""


class Created(BaseModel):
    """Answer to a new item."""

    message: str
    item: Item


def item_or_404(item: Item | None) -> Item:
    """Return the item, or answer 404 where there is none."""
    if item is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "No such item")
    return item


@router.get("/")
async def list_items(
    database: DatabaseDep,
    q: Text | None = None,
    cursor: ItemId | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
) -> Page:
    """List items, oldest first: those whose name contains `q`, if given, after the `cursor`."""
    items = await database.read(queries.page, q, cursor or 0, limit + 1)
    more = len(items) > limit
    return Page(items=items[:limit], next_cursor=items[limit - 1].item_id if more else None)


@router.get("/{item_id}", responses=NOT_FOUND)
async def read_item(item_id: ItemId, database: DatabaseDep) -> Item:
    """Return the item with this id."""
    return item_or_404(await database.read(queries.by_id, item_id))


@router.post("/", status_code=status.HTTP_201_CREATED, responses=LOCATION)
async def create_item(
    item: NewItem, database: DatabaseDep, request: Request, response: Response
) -> Created:
    """Create an item; `Location` is its path."""
    created = await database.write(queries.create, item)
    response.headers["Location"] = request.url_for("read_item", item_id=created.item_id).path
    return Created(message="Item created successfully", item=created)


@router.put("/{item_id}", responses=NOT_FOUND)
async def replace_item(item_id: ItemId, item: NewItem, database: DatabaseDep) -> Item:
    """Replace the item with this id."""
    return item_or_404(await database.write(queries.replace, item_id, item))


@router.delete("/{item_id}", status_code=status.HTTP_204_NO_CONTENT, responses=NOT_FOUND)
async def delete_item(item_id: ItemId, database: DatabaseDep) -> None:
    """Delete the item with this id."""
    if not await database.write(queries.remove, item_id):
        raise HTTPException(status.HTTP_404_NOT_FOUND, "No such item")
