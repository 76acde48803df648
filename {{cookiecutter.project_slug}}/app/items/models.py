"""Items on the wire."""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic import WithJsonSchema as Schema

PLAIN = re.compile(r"[0-9]{1,10}(\.[0-9]{1,2})?", re.ASCII)


def _plain(price: Any) -> Any:
    """Refuse text that `Decimal` takes and nobody would write: 1e3, 1_000, digits of other scripts."""
    if isinstance(price, str) and not PLAIN.fullmatch(price):
        raise ValueError("must be a number with at most two decimal places")
    return price


ItemId = Annotated[int, Field(ge=1, le=2**63 - 1)]
# PostgreSQL's text cannot hold a NUL.
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
Price = Annotated[
    Decimal,
    BeforeValidator(_plain),
    Field(ge=0, max_digits=12, decimal_places=2, strict=False),
    AfterValidator(lambda price: abs(price).quantize(Decimal("0.01"))),  # one form, without -0
    Schema({"type": "string", "examples": ["12.50"]}, mode="serialization"),
    Schema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 9999999999.99, "multipleOf": 0.01},
                {"type": "string", "pattern": f"^{PLAIN.pattern}$"},
            ],
            "examples": [12.5],
        },
        mode="validation",
    ),
]


class NewItem(BaseModel):
    """An item as a client describes it; its price has at most two decimal places."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Text
    price: Price
    is_offer: bool | None = None


class Item(NewItem):
    """An item as the service keeps it; its price is text, which no client rounds."""

    model_config = ConfigDict(from_attributes=True)

    item_id: ItemId


class Created(BaseModel):
    """What became of a new item."""

    message: str
    item: Item


class Page(BaseModel):
    """Some of the items, in the order in which they were created."""

    items: list[Item]
    next_cursor: ItemId | None
    """The `cursor` of the next page, if there is one."""
