"""A generated service, as a folder: its files, their content, its own checks."""

from __future__ import annotations

import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.support.commands import edit, run
from tests.support.repository import CONFIG, DEFAULTS, TEMPLATE
from tests.support.services import COMBINATIONS, Bake, Service, files, limits


@pytest.fixture(params=COMBINATIONS, ids=lambda answers: answers.get("python_version", "default"))
def service(request: pytest.FixtureRequest, bake: Bake) -> Service:
    return bake(**request.param)


def test_it_has_exactly_these_files(service: Service) -> None:
    assert service.files() == files(service.answers)
    options = [*CONFIG["database"], *CONFIG["ci"]]
    others = [each for each in options if each not in (*service.answers.values(), "none")]
    others += ["database", "migration", "threads"] * (service.answers["database"] == "none")
    others += ["kubernetes"] * (service.answers["kubernetes"] == "no")
    assert [name for name in service.files() for other in others if other in name.lower()] == []
    assert len(service.read("README.md").splitlines()) < 120
    owned = [f for f in files(DEFAULTS) if not f.startswith(("server/", "tests/server/"))]
    assert len(owned) <= 50
    assert [p for p in service.path.rglob("*") if p.is_dir() and not any(p.iterdir())] == []


def test_the_python_versions_tested_are_those_offered() -> None:
    tested = {answers.get("python_version", "3.14") for answers in COMBINATIONS}
    assert tested == set(CONFIG["python_version"])


def test_nothing_is_left_of_the_template(service: Service) -> None:
    for name in service.files():
        text = service.read(name)
        # GitHub's expressions look like Jinja's.
        assert not re.search(r"(?<!\$)\{\{|\{%|cookiecutter", text), name
        assert "\r" not in text, name
        assert text.endswith("\n"), name
        assert not text.endswith("\n\n"), name
        assert not re.search(r"[ \t]$", text, re.MULTILINE), name
        assert "\n\n\n\n" not in text, name


def test_python_version_and_workers_are_in_one_file_and_the_port_in_four(bake: Bake) -> None:
    answers = {"database": "postgresql", "kubernetes": "yes"}
    service = bake(python_version="3.13", port=29467, workers=37, **answers)
    assert "`kubernetes/base/deployment.yaml`" in service.read("KUBERNETES.md")
    for answer, others in {
        "=3.13": [],
        "=37": [],
        # Compose reads no Dockerfile, and the README shows addresses that work.
        "29467": ["README.md", "compose.yaml", "kubernetes/base/deployment.yaml"],
    }.items():
        files = {name for name in service.files() if answer in service.read(name)}
        files -= {name for name in files if name.startswith("requirements")}
        assert files == {"Dockerfile", *others}
        for name in files - {"README.md"}:
            assert service.read(name).count(answer) == 1, name
    readme = " ".join(service.read("README.md").split())
    assert "port is also in [compose.yaml](compose.yaml), after `PORT:-`" in readme


def test_its_linter_finds_nothing_and_its_formatter_changes_nothing(service: Service) -> None:
    service.python("-m", "ruff", "check", "--no-cache")
    service.python("-m", "ruff", "format", "--no-cache", "--check")


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "none"])
def test_its_tests_pass_with_a_setting_that_has_no_default(
    database: str, bake: Bake, tmp_path: Path
) -> None:
    service = bake(database=database).copy(tmp_path / "service")
    with (service.path / "app/settings.py").open("a") as settings:
        settings.write("\n    key: str\n")
    state = "    app.state.settings = settings\n"
    edit(service.path / "app/main.py", state, state + "    app.state.key = settings.key\n")
    tests = ("tests/test_main.py", "tests/test_middleware.py", "-p", "no:cacheprovider")
    assert "passed" in service.python("-m", "pytest", *tests, KEY="s3cr3t")


TABLE = """
from datetime import date
from uuid import UUID

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, text

class Grade(Base):
    __tablename__ = "grades"
    __table_args__ = (CheckConstraint("name IN ('good', 'bad')", name="known"),)
    name: Mapped[str] = mapped_column(primary_key=True)
    better: Mapped[str | None] = mapped_column(ForeignKey("grades.name"))

class Review(Base):
    __tablename__ = "reviews"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("items.item_id"))
    answers: Mapped[UUID | None] = mapped_column(ForeignKey("reviews.id"))
    day: Mapped[date]
    data: Mapped[dict[str, str]] = mapped_column(JSON)
    __table_args__ = (Index("ix_day", text("lower(day)")),)
"""


@pytest.mark.slow
def test_its_tests_of_migrations_pass_with_an_owner_s_tables(bake: Bake, tmp_path: Path) -> None:
    """A row of each refers to others, while later migrations go up and down."""
    service = bake().copy(tmp_path / "service")
    for addition in TABLE, "    one: Mapped[int | None]\n", "    two: Mapped[int | None]\n":
        with (service.path / "app/items/tables.py").open("a") as tables:
            tables.write(addition)
        service.python("-m", "app.database")
        service.python("-m", "alembic", "revision", "--autogenerate", "--message=More")
    branch = ("revision", "--splice", "--head=0001", "--message=Of a colleague")
    service.python("-m", "alembic", *branch)
    service.python("-m", "alembic", "merge", "heads", "--message=Merge")
    tests = ("tests/test_database.py", "-k", "migration", "-p", "no:cacheprovider")
    assert "passed" in service.python("-m", "pytest", *tests)


@pytest.mark.slow
@pytest.mark.parametrize("database", ["none", "sqlite"])
def test_its_tests_pass_when_another_feature_has_replaced_the_items(
    database: str, bake: Bake, tmp_path: Path
) -> None:
    """As the README says: `app/items` is a pattern; then delete it."""
    service = bake(database=database).copy(tmp_path / "service")
    (service.path / "app/items").rename(service.path / "app/boats")
    shutil.rmtree(service.path / "tests/items")
    for file in (service.path / "app").rglob("*.py"):
        text = file.read_text().replace("app.items", "app.boats")
        if file.parent.name in {"boats", "versions"} or file.name == "main.py":
            text = text.replace("item", "boat").replace("Item", "Boat")
        file.write_text(text)
    options = ("-p", "no:cacheprovider", "--ignore=tests/server")
    output = service.python("-m", "pytest", *options)
    assert "passed" in output
    assert "skipped" not in output
    service.python("-m", "mypy", "--cache-dir", "/dev/null")


@pytest.mark.parametrize("kubernetes", ["no", "yes"])
def test_without_a_database_there_is_no_trace_of_one(kubernetes: str, bake: Bake) -> None:
    service = bake(database="none", kubernetes=kubernetes)
    for name in service.files():
        found = re.search("(?i)database|alembic|sqlite|postgres|psycopg", service.read(name))
        assert not found, name


@pytest.mark.slow
def test_the_server_keeps_its_time_limits(bake: Bake) -> None:
    options = ("tests/server", "-m", "slow or not slow", "-p", "no:cacheprovider")
    output = bake().python("-W", "error", "-m", "pytest", *options)
    assert re.search(r"\d+ passed", output)
    assert "failed" not in output


@pytest.mark.slow
def test_the_tests_and_types_of_every_combination_pass_whatever_the_shell_sets(
    service: Service, request: pytest.FixtureRequest
) -> None:
    shell = {"LOG_LEVEL": "trace", "LOG_FORMAT": "console", "DOCS": "false", "MAX_BODY_SIZE": "5"}
    environment = shell | {"http_proxy": "http://127.0.0.1:1"}
    if service.answers["database"] == "postgresql":
        environment["TEST_DATABASE_URL"] = request.getfixturevalue("postgresql")
    # The server is the same in each; test_image.py runs its tests on each Python.
    options = ("-p", "no:cacheprovider", "--ignore=tests/server")
    output = service.python("-W", "error", "-m", "pytest", *options, **environment)
    assert "skipped" not in output
    service.python("-m", "mypy", "--cache-dir", "/dev/null")


def test_its_dockerfile_is_clean(service: Service, tmp_path: Path) -> None:
    config = tmp_path / "hadolint.yaml"
    config.write_text("override: {info: [DL1001, DL3057]}\nfailure-threshold: style\n")
    hadolint = Path(sys.executable).with_name("hadolint")
    service.run(str(hadolint), "--config", str(config), "Dockerfile")


@pytest.mark.parametrize(("database", "kubernetes"), [("sqlite", "no"), ("postgresql", "yes")])
def test_make_help_lists_every_target_and_each_is_a_sound_recipe(
    database: str, kubernetes: str, bake: Bake
) -> None:
    service = bake(database=database, kubernetes=kubernetes)
    targets = {line.split()[0] for line in service.run("make").splitlines()}
    phony = " ".join(
        re.findall(r"^\.PHONY:((?:.*\\\n)*.*)", service.read("Makefile"), re.MULTILINE)
    )
    assert targets == {*phony.replace("\\", "").split()} - {"no-python", "migrated"}
    variables = ("REGISTRY=registry.example.com/team/", "OVERLAY=staging", "m=x", "FROM=x")
    for target in targets:
        output = service.run("make", "--dry-run", target, *variables)
        if target in ("tag", "push", "pull"):
            assert "registry.example.com/team/my-service:latest" in output


def test_make_dev_migrates_no_database_but_its_own(bake: Bake, tmp_path: Path) -> None:
    service = bake(database="postgresql")
    output = service.run("make", "--dry-run", "dev", "migration", "m=x")
    assert "docker compose up --wait database" in output
    assert "-m app.database" in output
    service = service.copy(tmp_path / "service")
    (service.path / ".env").write_text("DATABASE_URL=\r\n")
    assert "docker compose up --wait database" in service.run("make", "--dry-run", "dev")
    elsewhere = {"DATABASE_URL": "postgresql://app@elsewhere/app"}
    output = service.run("make", "--dry-run", "dev", "migration", "m=x", **elsewhere)
    assert "docker" not in output
    assert "-m app.database" not in output


@given(st.text(st.characters(exclude_characters="\n\r\0")))
def test_a_value_in_env_is_literal_and_the_last_counts(value: str) -> None:
    """A real command would take a second for each example."""
    found = runpy.run_path(str(TEMPLATE / "scripts/with_env.py"))["variables"]
    text = f"# A=b\nA=first\n \t A={value}\r\n=x\n1A=x\n A B\nB={value}"
    assert found(text) == {"A": value, "B": value}


def test_make_repairs_a_venv_whose_python_is_gone(bake: Bake, tmp_path: Path) -> None:
    """An update of the system may remove the Python that it links to."""
    service = bake().copy(tmp_path / "service")
    python = service.path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    (service.path / ".venv/installed").touch()
    python.symlink_to(sys.executable)
    assert "make_venv" not in service.run("make", "--dry-run", "test")
    python.unlink()
    python.symlink_to("/usr/bin/python3.99")
    assert "make_venv" in service.run("make", "--dry-run", "test")


def test_make_dev_reads_env_and_keeps_the_variables_of_the_shell(
    bake: Bake, tmp_path: Path
) -> None:
    """make hands on its own value of a variable that the shell has, too."""
    service = bake().copy(tmp_path / "service")
    # Some editors write a mark before the first letter.
    (service.path / ".env").write_text("\ufeffDOCS=a $b\nENV=file\nTAG=file\n", "utf-8")
    show = f'#!/bin/sh\n[ $1 = -m ] || exec {sys.executable} "$@"\nprintenv ENV TAG DOCS\n'
    (service.path / "show").write_text(show)
    (service.path / "show").chmod(0o755)
    shell = {"ENV": "staging", "TAG": "1.0.0"}
    output = service.run("make", "dev", "PYTHON=./show", "VENV=show", **shell)
    assert output.endswith("staging\n1.0.0\na $b\n")


@pytest.mark.parametrize(
    ("missing", "targets"),
    [("REGISTRY", ["tag", "push", "pull"]), ("OVERLAY", ["deploy", "rollback", "logs-k8s"])],
)
def test_a_missing_registry_or_overlay_is_asked_for(
    missing: str, targets: list[str], bake: Bake
) -> None:
    service = bake(database="postgresql", kubernetes="yes")
    for target in targets:
        (told,) = service.fails("make", target).splitlines()
        assert f"Name the {missing.lower()}: make {target} {missing}=" in told


@pytest.mark.parametrize("target", ["rm", "rmi", "prune", "restore"])
@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_a_destructive_target_asks_first(target: str, answer: str, bake: Bake) -> None:
    output = run("make", target, "FROM=x", cwd=bake().path, input=answer, status=None)
    assert "Nothing done." in output
    assert "docker" not in output


def test_no_script_needs_a_shell_or_to_be_executable(service: Service) -> None:
    for path in filter(Path.is_file, service.path.rglob("*")):
        assert path.suffix.lower() not in {".sh", ".bash", ".cmd", ".bat", ".ps1"}, path
        assert not path.read_bytes().startswith(b"#!"), path
        assert not path.stat().st_mode & 0o111, path


def seconds(duration: str) -> int:
    """Add up a duration as Docker reads it: `0s6s4s` is 10."""
    return sum(int(number) for number in re.findall(r"(\d+)s", duration))


def test_health_check_and_stop_allow_for_the_server_s_own_limits(bake: Bake) -> None:
    """A slow start is no failure, and `docker compose stop` waits until the server has ended."""
    service = bake()
    defaults = limits(service.path)
    names = "START_TIMEOUT", "DRAIN", "GRACEFUL_TIMEOUT"
    start, drain, graceful = (defaults[name] for name in names)
    (period,) = re.findall(r"--start-period=(\w+)", service.read("Dockerfile"))
    app = yaml.safe_load(service.read("compose.yaml"))["services"]["app"]
    assert period == f"{start}s"
    assert app["healthcheck"]["start_period"] == f"${{START_TIMEOUT:-{start}}}s"
    grace = f"${{DRAIN:-{drain}}}s${{GRACEFUL_TIMEOUT:-{graceful}}}s4s"
    assert app["stop_grace_period"] == grace
    assert seconds(re.sub(r"\$\{\w+:-(\d+)\}", r"\1", grace)) == 10  # as `docker stop` waits


@pytest.mark.parametrize("database", CONFIG["database"])
def test_compose_builds_the_image_once_and_its_containers_can_write_to_tmp(
    database: str, bake: Bake
) -> None:
    services = yaml.safe_load(bake(database=database).read("compose.yaml"))["services"]
    ours = {k: v for k, v in services.items() if "profiles" not in v}
    assert [name for name, service in ours.items() if "build" in service] == ["app"]
    hardened = [each for each in services.values() if each.get("read_only")]
    assert services["app"] in hardened
    for each in hardened:
        assert each["tmpfs"] == ["/tmp:size=256m"]


def test_a_rename_takes_the_changes_that_the_readme_lists(bake: Bake) -> None:
    service = bake(project_slug="old-slug", project_name="Old Title")
    (told,) = re.findall(r"To rename the service, (.*?)\.\n", service.read("README.md"), re.DOTALL)
    named = {*re.findall(r"`([\w/]+\.?\w+)`", told), "README.md"} - {"LABEL"}
    has = {name for name in service.files() if re.search("old-slug|Old Title", service.read(name))}
    assert has == named


@pytest.mark.slow
@pytest.mark.parametrize("database", CONFIG["database"])
def test_make_lock_writes_the_locks_that_are_there(
    database: str, bake: Bake, tmp_path: Path
) -> None:
    """With the command in their headers, which robots repeat."""
    service = bake(database=database).copy(tmp_path / "service")
    locks = "requirements.txt", "requirements-dev.txt"
    before = [service.read(name) for name in locks]
    service.run("make", "lock", PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin")
    assert [service.read(name) for name in locks] == before


@pytest.mark.slow
def test_make_lock_gets_uv_where_there_is_none(bake: Bake, tmp_path: Path) -> None:
    """Debian's pip installs nothing outside a virtual environment."""
    service = bake().copy(tmp_path / "service")
    service.run(sys.executable, "-m", "venv", ".venv")
    before = service.read("requirements.txt")
    service.run("make", "lock", "VENV=.venv/pyvenv.cfg", PATH="/usr/bin:/bin")
    assert service.read("requirements.txt") == before
    assert (service.path / ".venv/bin/uv").exists()
