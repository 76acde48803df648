"""Items in the database."""

from sqlalchemy import BigInteger, Identity, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base


class Item(Base):
    """An item; its id is never given twice."""

    __tablename__ = "items"
    __table_args__ = {"sqlite_autoincrement": True}

    item_id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer(), "sqlite"), Identity(), primary_key=True
    )
    name: Mapped[str] = mapped_column(String(200))
    # Money is a whole number: SQLite has no decimals.
    price_cents: Mapped[int] = mapped_column(BigInteger)
    is_offer: Mapped[bool | None]
