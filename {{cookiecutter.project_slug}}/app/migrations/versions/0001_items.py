"""Items."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Upgrade from the previous revision."""
    op.create_table(
        "items",
        sa.Column(
            "item_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            sa.Identity(),
            nullable=False,
        ),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("price_cents", sa.BigInteger(), nullable=False),
        sa.Column("is_offer", sa.Boolean()),
        sa.PrimaryKeyConstraint("item_id", name=op.f("pk_items")),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    """Downgrade to the previous revision."""
    op.drop_table("items")
