"""Items in requests and answers."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

ItemId = Annotated[int, Field(ge=1, le=2**63 - 1)]


class NewItem(BaseModel):
    """An item as a client describes it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=200)
    price: float = Field(ge=0, allow_inf_nan=False)
    is_offer: bool | None = None


class Item(NewItem):
    """An item as the service knows it."""

    item_id: ItemId


class Created(BaseModel):
    """Answer to a new item."""

    message: str
    item: NewItem
