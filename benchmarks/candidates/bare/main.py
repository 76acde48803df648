"""The four endpoints in one file."""

from fastapi import FastAPI
from pydantic import BaseModel


class NewItem(BaseModel):
    """An item as a client describes it."""

    name: str
    price: float
    is_offer: bool | None = None


class Item(NewItem):
    """An item as the service knows it."""

    item_id: int


app = FastAPI()


@app.get("/")
async def read_root() -> dict[str, str]:
    """Welcome the caller."""
    return {"message": "Hello from FastAPI in a Docker container!"}


@app.get("/items/{item_id}")
async def read_item(item_id: int, q: str | None = None) -> Item:
    """Return an item."""
    return Item(item_id=item_id, name=f"Item {item_id}", price=10.5, is_offer=bool(q))


@app.post("/items/", status_code=201)
async def create_item(item: NewItem) -> dict[str, str | NewItem]:
    """Accept an item."""
    return {"message": "Item created successfully", "item": item}


@app.get("/health")
async def health() -> dict[str, str]:
    """Tell that the service is up."""
    return {"status": "healthy"}
