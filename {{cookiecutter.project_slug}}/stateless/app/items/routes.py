"""Items over HTTP."""

from fastapi import APIRouter, status

from app.items.models import Created, Item, ItemId, NewItem

router = APIRouter(prefix="/items", tags=["items"])


@router.get("/{item_id}")
async def read_item(item_id: ItemId, q: str | None = None) -> Item:
    """Return the item with this id, on offer if there is a `q`."""
    return Item(item_id=item_id, name=f"Item {item_id}", price=10.5, is_offer=bool(q))


@router.post("/", status_code=status.HTTP_201_CREATED)
async def create_item(item: NewItem) -> Created:
    """Accept a new item."""
    return Created(message="Item created successfully", item=item)
