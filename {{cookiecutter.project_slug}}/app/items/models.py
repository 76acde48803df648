"""Items in requests and answers."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

ItemId = Annotated[int, Field(ge=1, le=2**63 - 1)]
# PostgreSQL's text cannot hold a NUL.
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
Price = Annotated[float, Field(ge=0, le=9999999999.99, examples=[12.5])]
PriceText = Annotated[str, Field(pattern=r"^[0-9]{1,10}(\.[0-9]{1,2})?$", examples=["12.50"])]


class NewItem(BaseModel):
    """An item as a client describes it; a price that is a number is rounded to cents."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Text
    price: Price | PriceText
    is_offer: bool | None = None


class Item(NewItem):
    """An item as the service keeps it; its price is text, which no client rounds."""

    item_id: ItemId
    price: PriceText
