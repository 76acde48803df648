"""Migrations as an owner writes them: no row is lost, and nothing else that a table promises."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy import Engine

from app import migrations
from app.database import Base, UtcDateTime, create_engine
from app.settings import Settings

BEFORE = """
    op.create_table("parents", sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(20), nullable=False), sa.Column("old", sa.String(20)),
        sa.CheckConstraint("length(name) > 0", name="name"), sa.UniqueConstraint("name"),
        sqlite_autoincrement=True)
    op.create_index("ix_parents_lower", "parents", [sa.text("lower(name)")])
    op.create_table("children", sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("parent_id", sa.Integer, sa.ForeignKey("parents.id", ondelete="CASCADE"), nullable=False))
    op.create_table("grandchildren", sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("child_id", sa.Integer, sa.ForeignKey("children.id", ondelete="CASCADE"), nullable=False))
    for table, values in ("parents", "1, 'a', 'b'"), ("children", "1, 1"), ("grandchildren", "1, 1"):
        op.execute(f"INSERT INTO {table} VALUES ({values})")
"""
AFTER = """
    for table in "grandchildren", "children", "parents":
        op.drop_table(table)
"""


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    """Return an engine of the tests' database."""
    engine = create_engine(settings)
    yield engine
    engine.dispose()


class Owner:
    """An owner who writes migrations, each after the one before."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.config = migrations.alembic_config(settings)
        self.folder = folder
        self.config.set_main_option("path_separator", "newline")
        self.config.set_main_option(
            "version_locations", f"{migrations.FOLDER / 'versions'}\n{folder}"
        )
        self.newest = next(iter(migrations.revisions()[1]))

    def write(self, upgrade: str, downgrade: str = "pass") -> None:
        """Write a migration."""
        number = len(list(self.folder.glob("*.py")))
        revision = f"test{number}"
        body = textwrap.dedent(upgrade), textwrap.dedent(downgrade)
        up, down = (textwrap.indent(text.strip(), "    ") for text in body)
        (self.folder / f"{revision}.py").write_text(
            "import sqlalchemy as sa\nfrom alembic import op\n"
            f"revision = {revision!r}\ndown_revision = {self.newest!r}\n"
            f"def upgrade():\n{up}\ndef downgrade():\n{down}\n"
        )
        self.newest = revision

    def upgrade(self) -> None:
        """Run all that is to be run."""
        command.upgrade(self.config, "head")


@pytest.fixture
def owner(settings: Settings, tmp_path: Path) -> Iterator[Owner]:
    """Return an owner of a database with a parent, a child and a grandchild."""
    owner = Owner(settings, tmp_path)
    before = owner.newest
    owner.write(BEFORE, AFTER)
    owner.upgrade()
    yield owner
    command.downgrade(owner.config, before)


def family(engine: Engine) -> list[int]:
    """Count parents, children and grandchildren."""
    tables = ("parents", "children", "grandchildren")
    with engine.connect() as connection:
        counted = [connection.exec_driver_sql(f"SELECT count(*) FROM {t}").scalar() for t in tables]
    return [number or 0 for number in counted]


@pytest.mark.parametrize(
    ("upgrade", "downgrade"),
    [
        (
            'batch.add_column(sa.Column("new", sa.DateTime, server_default=sa.func.now()))',
            'batch.drop_column("new")',
        ),
        (
            'batch.alter_column("old", type_=sa.Text, existing_type=sa.String(20))',
            'batch.alter_column("old", type_=sa.String(20), existing_type=sa.Text)',
        ),
        (
            'batch.alter_column("old", new_column_name="new", existing_type=sa.String(20))',
            'batch.alter_column("new", new_column_name="old", existing_type=sa.String(20))',
        ),
        ('batch.drop_column("old")', 'batch.add_column(sa.Column("old", sa.String(20)))'),
        (
            'batch.drop_constraint("uq_parents_name", type_="unique")',
            'batch.create_unique_constraint("uq_parents_name", ["name"])',
        ),
        (
            'batch.add_column(sa.Column("kind", sa.Enum("a", "b", name="kind", native_enum=False)))',
            'batch.drop_column("kind")',
        ),
    ],
    ids=["add", "alter", "rename", "drop", "unique", "enum"],
)
def test_no_row_is_lost(upgrade: str, downgrade: str, owner: Owner, engine: Engine) -> None:
    batch = 'with op.batch_alter_table("parents") as batch:\n    '
    owner.write(f"{batch}{upgrade}", f"{batch}{downgrade}")
    for _ in range(2):
        owner.upgrade()
        assert family(engine) == [1, 1, 1]
        command.downgrade(owner.config, "-1")
        assert family(engine) == [1, 1, 1]


class Colour(Enum):
    """A colour; the database keeps the names."""

    RED = 1
    GREEN = 2


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression")
def test_autogenerated_columns_are_added_to_a_table_with_rows(
    owner: Owner, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alembic's migration for a time, an enum and defaults works, and a second one would be empty."""
    metadata = sa.MetaData(naming_convention=Base.metadata.naming_convention)
    metadata.reflect(engine)
    new: list[tuple[str, sa.types.TypeEngine[Any], Any]] = [
        ("created_at", UtcDateTime(), sa.func.now()),
        ("colour", sa.Enum(Colour, native_enum=False, length=50), "RED"),
        ("visits", sa.Integer(), "0"),
        ("active", sa.Boolean(), sa.true()),
        ("options", sa.JSON(), '{"a":1}'),
    ]
    for name, kind, default in new:
        indexed = not isinstance(kind, sa.JSON)
        column = sa.Column(name, kind, server_default=default, nullable=False, index=indexed)
        metadata.tables["parents"].append_column(column)
    monkeypatch.setattr(Base, "metadata", metadata)

    command.revision(owner.config, rev_id="test1", autogenerate=True, version_path=owner.folder)
    owner.upgrade()
    assert family(engine) == [1, 1, 1]
    command.check(owner.config)
    parents = metadata.tables["parents"]
    with engine.connect() as connection:
        (row,) = connection.execute(parents.select())
    assert (row.created_at.tzinfo, row.colour, row.visits, row.active) == (UTC, Colour.RED, 0, True)
    command.downgrade(owner.config, "-1")
    assert family(engine) == [1, 1, 1]


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression")
def test_an_autogenerated_downgrade_keeps_the_colons_of_a_default(
    owner: Owner, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.write(
        """
        default = '{"a":1}'
        op.add_column("parents", sa.Column("options", sa.JSON, server_default=default))
        """
    )
    owner.upgrade()
    metadata = sa.MetaData(naming_convention=Base.metadata.naming_convention)
    metadata.reflect(engine)
    parents = metadata.tables["parents"]
    parents._columns.remove(parents.c.options)
    monkeypatch.setattr(Base, "metadata", metadata)
    command.revision(owner.config, rev_id="test2", autogenerate=True, version_path=owner.folder)
    owner.upgrade()
    command.downgrade(owner.config, "-1")
    with engine.connect() as connection:
        value = connection.execute(sa.text("SELECT options FROM parents")).scalar()
    assert str(value) in {'{"a":1}', "{'a': 1}"}


def test_an_index_is_created_concurrently(owner: Owner, engine: Engine) -> None:
    owner.write(
        """
        with op.get_context().autocommit_block():
            op.create_index("ix_old", "parents", ["old"], postgresql_concurrently=True)
        """,
        'op.drop_index("ix_old", "parents")',
    )
    owner.upgrade()
    assert family(engine) == [1, 1, 1]


def test_a_migration_that_fails_changes_nothing(owner: Owner, engine: Engine) -> None:
    owner.write('op.drop_column("parents", "old")\nop.execute("SELECT nothing")')
    with pytest.raises(Exception, match="nothing"):
        owner.upgrade()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT old FROM parents").scalar() == "b"
    owner.newest = "test0"
    (owner.folder / "test1.py").unlink()


def test_a_merge_of_branches_is_the_newest_revision(
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    versions = tmp_path / "versions"
    versions.mkdir()
    downs = {"one": "None", "two": "None", "merge": '(\n    "one",\n    "two",\n)'}
    for name, down in downs.items():
        text = f'revision: str = "{name}"\ndown_revision = {down}\n'
        (versions / f"{name}.py").write_text(text)
    monkeypatch.setattr(migrations, "FOLDER", tmp_path)
    assert migrations.revisions() == ({"one", "two", "merge"}, {"merge"})
    monkeypatch.setattr(migrations, "current", lambda _: {"one", "two"})
    engine = create_engine(settings)
    with engine.connect() as connection:
        migrations.check(connection)
    engine.dispose()
    assert "revision one and two, an old one" in caplog.text


def test_alembic_logs_nothing_about_its_plug_ins(settings: Settings) -> None:
    code = (
        "from app import logs, migrations, settings\n"
        "logs.configure()\n"
        "migrations.downgrade(settings.Settings(), 'heads')"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    assert b"alembic.runtime.plugins" not in done.stdout
# {% if cookiecutter.database == "sqlite" %}


REBUILD = """
with op.batch_alter_table("parents") as batch:
    batch.alter_column("old", type_=sa.Text, existing_type=sa.String(20))
"""


def schema(engine: Engine) -> dict[str, str]:
    """Return the SQL of everything in the database, without quotes and white space."""
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql > ''")
        return {name: "".join(sql.replace('"', "").split()) for name, sql in rows}


@pytest.fixture
def sqlite(settings: Settings) -> None:
    """Skip the test with another database."""
    if not settings.database_url.startswith("sqlite"):
        pytest.skip("SQLite alone copies tables")


@pytest.mark.usefixtures("sqlite")
def test_triggers_and_indexes_survive_the_copy_of_a_table(owner: Owner, engine: Engine) -> None:
    drops = "for what in 'VIEW names', 'TRIGGER log', 'TABLE logs':\n    op.execute('DROP ' + what)"
    owner.write(
        """
        op.execute("CREATE TABLE logs (name)")
        op.execute("CREATE TRIGGER log AFTER INSERT ON parents BEGIN INSERT INTO logs VALUES (new.name); END")
        op.execute("CREATE VIEW names AS SELECT name FROM parents")
        op.execute("INSERT INTO parents VALUES (7, 'c', 'd')")
        op.execute("DELETE FROM parents WHERE id = 7")
        """,
        drops,
    )
    owner.upgrade()
    before = schema(engine)
    owner.write(REBUILD)
    owner.upgrade()
    after = schema(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO parents (name) VALUES ('e')")
        assert connection.exec_driver_sql("SELECT max(id) FROM parents").scalar() == 8
        connection.exec_driver_sql("DELETE FROM parents WHERE id = 8")
        assert connection.exec_driver_sql("SELECT max(name) FROM logs").scalar() == "e"
    assert before.keys() == after.keys()
    assert {n: s for n, s in before.items() if n != "parents"} == {
        n: s for n, s in after.items() if n != "parents"
    }
    assert "AUTOINCREMENT" in after["parents"]
    assert "CHECK(length(name)>0)" in after["parents"]


MADE = """
execute = op.get_bind().exec_driver_sql
execute('CREATE TABLE made (a TEXT DEFAULT \\'{"a":1}\\' CONSTRAINT ck_made CHECK (a > " :x"),'
    ' b VARCHAR(9) UNIQUE, "Old" TEXT, subtotal INT GENERATED ALWAYS AS (c + (1)) STORED,'
    ' total INT AS (c * 2), c INTEGER'
    ' REFERENCES parents(id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED)')
execute("INSERT INTO made (b, c) VALUES ('b', 1)")
execute("CREATE INDEX ix_made ON made (a) WHERE a > ' :x'\\n AND b > ''")
"""
DROP_OLD = """
with op.batch_alter_table("made") as batch:
    batch.drop_column("Old")
"""


@pytest.mark.usefixtures("sqlite")
def test_the_copy_of_a_table_keeps_parts_that_sqlalchemy_does_not_read(
    owner: Owner, engine: Engine
) -> None:
    owner.write(MADE, 'op.execute("DROP TABLE made")')
    owner.upgrade()
    before = schema(engine)
    owner.write(DROP_OLD)
    owner.upgrade()
    after = schema(engine)
    assert after["ix_made"] == before["ix_made"]
    for part in (
        "DEFAULT'{a:1}'",
        "CONSTRAINTck_madeCHECK(a>:x)",
        "UNIQUE(b)",
        "subtotalINTEGERGENERATEDALWAYSAS(c+(1))STORED,totalINTEGERGENERATEDALWAYSAS(c*2)VIRTUAL",
        "REFERENCESparents(id)ONDELETECASCADEDEFERRABLEINITIALLYDEFERRED",
    ):
        assert part in after["made"]


@pytest.mark.usefixtures("sqlite")
@pytest.mark.parametrize(
    ("value", "kind", "after"),
    [
        ("2026-01-31 10:00:00", "DateTime", "2026-01-31 10:00:00"),
        ("2026-01-31 10:00:00", "Date", "2026-01-31"),
        ("007", "Integer", 7),
        ("1.5", "Float", 1.5),
    ],
)
def test_a_value_is_kept_when_its_type_changes(
    value: str, kind: str, after: object, owner: Owner, engine: Engine
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE parents SET old = :value"), {"value": value})
    batch = 'with op.batch_alter_table("parents") as batch:'
    owner.write(f'{batch}\n    batch.alter_column("old", type_=sa.{kind}())')
    owner.upgrade()
    with engine.connect() as connection:
        kept = connection.exec_driver_sql("SELECT old FROM parents").scalar()
    assert kept == after


@pytest.mark.usefixtures("sqlite")
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("2026", "Date"),
        ("now", "Date"),
        ("31.01.2026", "Date"),
        ("many", "Float"),
        ("many", "Integer"),
        ("1.5", "Integer"),
    ],
)
def test_a_value_that_a_type_cannot_hold_refuses_the_migration(
    value: str, kind: str, owner: Owner, engine: Engine
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE parents SET old = :value"), {"value": value})
    batch = 'with op.batch_alter_table("parents") as batch:'
    owner.write(f'{batch}\n    batch.alter_column("old", type_=sa.{kind}())')
    with pytest.raises(ValueError, match="column old has values that are no"):
        owner.upgrade()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT old FROM parents").scalar() == value


def copy_file(command: str, copy: bytes = b"") -> bytes:
    """Run a command of app.database and return its output; raise an error with its message."""
    python = [sys.executable, "-m", "app.database", command]
    done = subprocess.run(python, input=copy, capture_output=True)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    return done.stdout


@pytest.mark.usefixtures("sqlite", "owner")
def test_a_copy_brings_every_row_back_and_a_damaged_one_is_refused(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", settings.database_url)
    change = sa.text("UPDATE parents SET name = 'later'")
    with engine.begin() as connection:
        connection.execute(change)
        copy = copy_file("backup")  # without the change, which is not committed
    for bad in b"", copy[:-4096] + bytes(4096):
        with pytest.raises(RuntimeError, match="restore: "):
            copy_file("restore", bad)
    names = []
    for _ in range(2):
        with engine.connect() as connection:
            names.append(connection.exec_driver_sql("SELECT name FROM parents").scalar())
        copy_file("restore", copy)
    assert names == ["later", "a"]


@pytest.mark.usefixtures("sqlite")
def test_a_float_does_not_lose_digits_as_text(owner: Owner, engine: Engine) -> None:
    owner.write(
        'op.execute("CREATE TABLE made (a FLOAT)")\n'
        'op.execute("INSERT INTO made VALUES (0.30000000000000004)")',
        'op.execute("DROP TABLE made")',
    )
    owner.upgrade()
    owner.write(
        'with op.batch_alter_table("made") as b:\n    b.alter_column("a", type_=sa.String())'
    )
    try:
        owner.upgrade()
    except ValueError as error:  # older versions of SQLite write 15 digits as text
        if "column a has values" not in str(error):
            raise
    with engine.connect() as connection:
        value: Any = connection.exec_driver_sql("SELECT a FROM made").scalar()
    assert float(value) == 0.1 + 0.2


@pytest.mark.usefixtures("sqlite")
@pytest.mark.parametrize(
    "added",
    [
        "CREATE TRIGGER added AFTER INSERT ON MADE BEGIN SELECT 1; END",
        "CREATE TRIGGER added UPDATE OF total ON made BEGIN SELECT 1; END",
        'CREATE TRIGGER added UPDATE OF "unit price" ON made BEGIN SELECT 1; END',
        "CREATE TRIGGER made AFTER INSERT ON made BEGIN SELECT 1; END",
        "CREATE TRIGGER added AFTER INSERT ON parents BEGIN SELECT registered(1); END",
    ],
    ids=["case", "generated", "blank", "name of a table", "function"],
)
def test_a_migration_that_loses_nothing_is_not_refused(
    added: str, owner: Owner, engine: Engine
) -> None:
    owner.write(
        f"""
        execute = op.get_bind().exec_driver_sql
        execute('CREATE TABLE made (a TEXT CONSTRAINT ck_made CHECK (a IN ("x", "y")), "Old" TEXT,'
            ' "unit price" INT, total INT AS (1))')
        execute({added!r})
        """,
        'op.execute("DROP TABLE made")\nop.execute("DROP TRIGGER IF EXISTS added")',
    )
    owner.upgrade()
    before = schema(engine)
    owner.write(DROP_OLD)
    owner.upgrade()
    assert schema(engine).keys() == before.keys()


def test_a_migration_reads_a_temporary_table(owner: Owner) -> None:
    owner.write(
        """
        op.execute("CREATE TEMPORARY TABLE made AS SELECT * FROM parents")
        assert len(sa.Table("made", sa.MetaData(), autoload_with=op.get_bind()).columns) == 3
        """
    )
    owner.upgrade()


@pytest.mark.usefixtures("sqlite")
def test_a_later_migration_of_the_same_run_may_change_an_index(owner: Owner) -> None:
    create = 'op.create_index("ix_made", "parents", ["old"], sqlite_where=sa.text("old > 1"))'
    owner.write(create + REBUILD, 'op.drop_index("ix_made", "parents")')
    owner.write(
        'op.drop_index("ix_made", "parents")\nop.create_index("ix_made", "parents", ["old"])'
    )
    owner.upgrade()


@pytest.mark.usefixtures("sqlite")
@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (
            'op.execute("CREATE TABLE made (a TEXT COLLATE NOCASE, b TEXT)")',
            'with op.batch_alter_table("made") as batch:\n    batch.drop_column("b")',
            "would lose COLLATE",
        ),
        (
            'op.execute("CREATE TABLE made (a TEXT CHECK (a > 0), b TEXT)")',
            'with op.batch_alter_table("made") as batch:\n    batch.drop_column("b")',
            "Unnamed CHECK constraint",
        ),
        (
            'op.execute("CREATE TABLE made (a TEXT)")',
            REBUILD.replace("sa.Text,", "sa.Integer,"),
            "column old has values that are no INTEGER",
        ),
        (
            'op.execute("CREATE TABLE made (a TEXT)")\n'
            'op.execute("CREATE VIEW made_view AS SELECT old FROM parents")',
            'with op.batch_alter_table("parents") as batch:\n    batch.drop_column("old")',
            "made_view",
        ),
        (
            MADE + "execute('CREATE INDEX ix_quoted ON made (lower(\"Old\"))')",
            DROP_OLD,
            "ix_quoted would refer to the column Old, which is gone",
        ),
        (
            MADE + "execute('CREATE TRIGGER of AFTER UPDATE OF Old ON made BEGIN SELECT 1; END')",
            DROP_OLD,
            "of would refer to the column Old, which is gone",
        ),
        (
            MADE + "execute('CREATE TRIGGER a DELETE ON made BEGIN UPDATE made SET Old = 1; END')",
            DROP_OLD,
            "no such column: Old",
        ),
        (
            'op.execute("CREATE TABLE made (a TEXT)")',
            'op.execute("DELETE FROM parents")',
            "rows of children would refer to rows of parents",
        ),
    ],
    ids=["collate", "check", "type", "view", "index", "update of", "update", "foreign key"],
)
def test_a_migration_that_would_lose_something_is_refused(
    before: str, after: str, reason: str, owner: Owner, engine: Engine
) -> None:
    drops = "for what in 'VIEW IF EXISTS made_view', 'TABLE made':\n    op.execute('DROP ' + what)"
    owner.write(before, drops)
    owner.upgrade()
    owner.write(after)
    with pytest.raises(Exception, match=reason):
        owner.upgrade()
    assert family(engine) == [1, 1, 1]
# {% endif %}
