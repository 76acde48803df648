"""Run the migrations in versions/, for Alembic's command line and for app.migrations."""

import re
import warnings
from contextlib import nullcontext
from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection, TextClause

import app.items.tables  # noqa: F401 - every module with tables is imported here
from app import migrations
from app.database import Base
from app.settings import Settings


def render(kind: str, item: Any, _: object) -> str | Literal[False]:
    """Escape colons in the text of a default, such as '{"a":1}': parameters begin with one."""
    if kind == "server_default" and isinstance(sql := getattr(item, "arg", None), TextClause):
        escaped = re.sub(r"(?<![:\\]):(?=\w)", r"\\:", sql.text)
        return f"sa.text({escaped!r})"
    return False


def migrate(connection: Connection) -> None:
    """Run the migrations in one transaction."""
    sqlite = connection.dialect.name == "sqlite"
    if not sqlite:
        connection.rollback()  # Alembic begins and ends the transaction itself
    schemas = {None} | {table.schema for table in Base.metadata.tables.values()}
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_schemas=len(schemas) > 1,
        include_name=lambda name, kind, _: kind != "schema" or name in schemas,
        render_as_batch=sqlite,
        render_item=render,
    )
    if sqlite:
        # Nothing in SQLite must run outside of a transaction, as CREATE INDEX CONCURRENTLY must.
        context.get_context().autocommit_block = nullcontext  # type: ignore[assignment, method-assign]
    with warnings.catch_warnings(), context.begin_transaction():
        # A table would lose it when it is copied.
        warnings.filterwarnings("error", "Unnamed CHECK constraint")
        warnings.filterwarnings("ignore", "Skipped unsupported reflection of expression")
        # Written by hand, an index of an expression in SQLite is no error, in a test either.
        warnings.filterwarnings("default", "autogenerate skipping")
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
