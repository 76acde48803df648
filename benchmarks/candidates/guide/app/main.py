"""The guide's four endpoints, with what they answer."""

from fastapi import FastAPI
from pydantic import BaseModel


class Item(BaseModel):
    """An item."""

    name: str
    price: float
    is_offer: bool | None = None


app = FastAPI(title="The guide's service")


@app.get("/")
async def read_root() -> dict[str, str]:
    """Welcome the caller."""
    return {"message": "Hello from FastAPI in a Docker Container!"}


@app.get("/items/{item_id}", response_model=Item)
async def read_item(item_id: int, q: str | None = None) -> dict[str, object]:
    """Return an item; its id is not in the model, so it is not in the answer."""
    return {"item_id": item_id, "name": f"Item {item_id}", "price": 10.5, "is_offer": bool(q)}


@app.post("/items/")
async def create_item(item: Item) -> dict[str, object]:
    """Accept an item."""
    return {"message": "Item created successfully", "item": item}


@app.get("/health")
async def health_check() -> dict[str, str]:
    """Tell that the service is up."""
    return {"status": "healthy"}
