"""Run the migrations in versions/, for Alembic's command line and for app.migrations."""

import warnings
from contextlib import nullcontext

from alembic import context
from sqlalchemy import Connection

import app.items.tables  # noqa: F401 - every module with tables is imported here
from app import migrations
from app.database import Base
from app.settings import Settings


def migrate(connection: Connection) -> None:
    """Run the migrations in one transaction."""
    sqlite = connection.dialect.name == "sqlite"
    if not sqlite:
        connection.rollback()  # Alembic begins and ends the transaction itself
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=sqlite)
    if sqlite:
        # Nothing in SQLite must run outside of a transaction, as CREATE INDEX CONCURRENTLY must.
        context.get_context().autocommit_block = nullcontext  # type: ignore[assignment, method-assign]
    with warnings.catch_warnings(), context.begin_transaction():
        # A table would lose it when it is copied.
        warnings.filterwarnings("error", "Unnamed CHECK constraint")
        warnings.filterwarnings("ignore", "Skipped unsupported reflection of expression")
        context.run_migrations()
        # {% if cookiecutter.database == "sqlite" %}
        if sqlite:
            migrations.sqlite.verify(connection)
        # {% endif %}


if connection := context.config.attributes.get("connection"):
    migrate(connection)
else:
    with migrations.connect(context.config.attributes.get("settings") or Settings()) as connection:
        migrate(connection)
