"""${message}."""

import sqlalchemy as sa
from alembic import op

import app.database
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """Go up from the revision before."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Go back down to it."""
    ${downgrades if downgrades else "pass"}
