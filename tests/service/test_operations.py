"""The commands of DATABASE.md and the README: ports, migrations, backups, older images."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.clients import create, stored
from tests.support.commands import edit, wait_until
from tests.support.containers import Container, answers, docker, own_copy
from tests.support.pipelines import lend_venv
from tests.support.services import Bake, Service

pytestmark = pytest.mark.docker

KINDS = ["sqlite", "postgresql"]
PORT = 18005
URL = f"http://127.0.0.1:{PORT}"


@contextmanager
def own(bake: Bake, folder: Path, kind: str, name: str = "ops-own") -> Iterator[Service]:
    """Yield a copy of a service, with these tests' packages; Docker keeps nothing of it afterwards."""
    with own_copy(bake, folder, project_slug=name, database=kind, port=PORT) as service:
        lend_venv(service.path)
        yield service


def names() -> list[str]:
    return [item["name"] for item in stored(URL)]


def add_column(service: Service, name: str) -> None:
    """Add a column to the table of items."""
    last = "    is_offer: Mapped[bool | None]\n"
    new = f"{last}    {name}: Mapped[int | None]\n"
    edit(service.path / "app/items/tables.py", last, new)


def versions(service: Service) -> list[Path]:
    return list((service.path / "app/migrations/versions").glob("*.py"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_backup_brings_everything_back(kind: str, bake: Bake, tmp_path: Path) -> None:
    with own(bake, tmp_path, kind) as service:
        # A server that pulled a version has no `latest`.
        service.run("make", "build", "run", "TAG=1.0.0")
        service.run("git", "init", "--quiet")
        for number in range(3):
            create(URL, f"Ünïcode {number}")
        before = names()
        saved = []
        for _ in range(2):  # as every night
            saved.append(service.run("make", "--silent", "backup").splitlines()[-1])
            wait_until(lambda: service.run("date", "+%Y-%m-%d-%H%M%S").strip() not in saved[-1], 2)
        assert len(list((service.path / "backups").iterdir())) == 2
        for file in "backups", *saved:
            assert (service.path / file).stat().st_mode & 0o077 == 0
        assert service.run("git", "status", "--porcelain", "--untracked-files=all", "backups") == ""

        create(URL, "after the backup")
        for bad in "no backup", "":
            (service.path / "backups/bad").write_text(bad)
            service.fails("make", "restore", "FROM=backups/bad", "YES=1")
            wait_until(lambda: answers(f"{URL}/readyz"), 30)
            assert names() == [*before, "after the backup"]

        (service.path / "a copy").write_bytes((service.path / saved[0]).read_bytes())
        service.run("make", "restore", "FROM=a copy", "YES=1")
        assert names() == before
        assert "latest" not in docker("images", service.path.name)

        # And into an empty volume.
        service.run("docker", "compose", "down", "--volumes")
        service.run("make", "restore", f"FROM={saved[0]}", "TAG=1.0.0", "YES=1")
        assert names() == before
        create(URL, "Lamp")


def test_a_restored_backup_of_an_older_schema_can_be_migrated(bake: Bake, tmp_path: Path) -> None:
    """Replace the database as a whole: a table that is newer than the backup would be in the way."""
    with own(bake, tmp_path, "postgresql") as service:
        service.run("make", "build", "run")
        saved = service.run("make", "--silent", "backup").splitlines()[-1]
        psql = ("docker", "compose", "exec", "-T", "database", "psql", "--username=app")
        service.run(*psql, "--command=CREATE TABLE newer (id int)")
        service.run("make", "restore", f"FROM={saved}", "YES=1")
        assert "newer" not in service.run(*psql, "--command=\\d")


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_clone_writes_and_runs_a_migration(kind: str, bake: Bake, tmp_path: Path) -> None:
    with own(bake, tmp_path, kind) as service:
        add_column(service, "weight")
        service.run("make", "migration", 'm=Add `pwd`\'s "weight"')
        (newest,) = [file for file in versions(service) if "weight" in file.name]
        assert newest.read_text().startswith('"""Add `pwd`\'s "weight"."""\n')
        service.run("make", "migrate")
        service.run("make", "check")
        service.run("make", "migration", "m=Nothing is left")
        (newest,) = [file for file in versions(service) if "nothing" in file.name]
        assert "weight" not in newest.read_text()


def test_make_dev_does_not_run_an_unfinished_migration(bake: Bake, tmp_path: Path) -> None:
    with own(bake, tmp_path, "sqlite") as service:
        log = tmp_path / "log"
        with (
            log.open("w") as output,
            subprocess.Popen(
                ["make", "dev"],
                cwd=service.path,
                stdout=output,
                stderr=output,
                start_new_session=True,
            ) as dev,
        ):
            try:
                wait_until(lambda: answers(f"{URL}/readyz"), 30, log.read_text)
                service.run("make", "migration", "m=Unfinished")
                (newest,) = [file for file in versions(service) if "unfinished" in file.name]
                newest.write_text(f"{newest.read_text()}\n# half-written\n")
                (service.path / "app/main.py").touch()
                wait_until(lambda: log.read_text().count("Application startup complete") > 1, 30)
                assert "-> 0001" in log.read_text()
                assert "0001 ->" not in log.read_text()
                assert "0001 ->" in service.run("make", "migrate")
            finally:
                os.killpg(dev.pid, signal.SIGTERM)


def test_services_side_by_side_use_their_own_databases(bake: Bake, tmp_path: Path) -> None:
    """Both have the same user and sample password, and something else listens on 5432."""
    with (
        own(bake, tmp_path, "postgresql") as one,
        own(bake, tmp_path, "postgresql", "ops-other") as other,
        socket.socket() as local,
    ):
        local.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # it may be in use already, which will do
            local.bind(("127.0.0.1", 5432))
        add_column(other, "weight")
        for service in one, other:
            service.run("make", "migrate")
        other.run("make", "migration", "m=Add weights")
        other.run("make", "migrate")
        show = "docker compose exec -T database psql --username=app --tuples-only --command"
        version = [*show.split(), "SELECT version_num FROM alembic_version"]
        assert one.run(*version).strip() == "0001"
        assert other.run(*version).strip() != "0001"
        # Not the other's, nor any: without a database of its own, it fails.
        one.run("docker", "compose", "down", "--volumes")
        assert "no configuration" not in one.fails("sh", "-c", "make migrate DATABASE_PASSWORD=")


def test_a_migration_that_fails_leaves_the_service_running(bake: Bake, tmp_path: Path) -> None:
    with own(bake, tmp_path, "postgresql") as service:
        service.run("make", "build", "run")
        create(URL, "Lamp")
        (first,) = versions(service)
        text = first.read_text()
        text = re.sub('revision = "0001"', 'revision = "0002"', text, count=1)
        text = text.replace("down_revision = None", 'down_revision = "0001"')
        (service.path / "app/migrations/versions/0002_again.py").write_text(text)
        assert "already exists" in service.fails("make", "build", "run")
        assert names() == ["Lamp"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_older_image_serves_again(kind: str, bake: Bake, tmp_path: Path) -> None:
    """With each command that starts one, and after the newer image has undone its migration."""
    with own(bake, tmp_path, kind) as service:
        service.run("make", "build", "run", "TAG=1.0.0")
        create(URL, "Lamp")
        add_column(service, "weight")
        service.run("make", "migration", "m=Add weights")
        service.run("make", "build", "run", "TAG=2.0.0")
        *_, section = service.read("DATABASE.md").split("\n## Go back to an older image\n")
        back, undo = re.findall("^    (.*)", section, re.MULTILINE)
        service.run("sh", "-c", back)
        assert names() == ["Lamp"]
        service.run("docker", "compose", "up", "--wait", TAG="2.0.0")
        service.run("docker", "compose", "up", "--wait", TAG="1.0.0")
        assert names() == ["Lamp"]
        assert "0001" in service.run("sh", "-c", undo)
        service.run("make", "rm", "YES=1")
        service.run("sh", "-c", back)
        assert "newer" not in docker("logs", service.path.name)
        assert names() == ["Lamp"]


def test_env_can_name_a_database_elsewhere(bake: Bake, tmp_path: Path) -> None:
    """`make run` starts no PostgreSQL then, and writes no .env."""
    with own(bake, tmp_path, "postgresql") as service:
        service.run("make", "build")
        (service.path / ".env").unlink()
        assert "cp .env.example .env, for development" in service.fails("make", "run")
        assert not (service.path / ".env").exists()
        url = "postgresql://app:secret@db.example.com/app$1"
        (service.path / ".env").write_text(f"DATABASE_URL={url}\n")
        show = "docker compose run --rm --no-deps --no-TTY {} printenv DATABASE_URL"
        for name in "app", "migrate":
            shown = service.run(*show.format(name).split(), DATABASE_PASSWORD="")
            assert url in shown.splitlines()
        commands = service.run("make", "--dry-run", "run")
        assert commands.count("--no-deps") == 2
        assert "cp" not in commands.split()
        assert service.read(".env") == f"DATABASE_URL={url}\n"


def test_a_password_may_have_any_character(bake: Bake, tmp_path: Path) -> None:
    with own(bake, tmp_path, "postgresql") as service:
        (service.path / ".env").write_text("DATABASE_PASSWORD=pa$word 'x\" #1\n")
        service.run("make", "build", "run")
        create(URL, "Lamp")
        service.run("make", "migrate")  # from outside
        service.run("make", "rm", "YES=1")


def test_compose_runs_it_with_postgresql(bake: Bake, tmp_path: Path) -> None:
    with own(bake, tmp_path, "postgresql") as service:
        up = ("docker", "compose", "up", "--build", "--wait")
        assert "cp .env.example .env, for development" in service.fails(*up)
        shutil.copy(service.path / ".env.example", service.path / ".env")
        service.run(*up)
        create(URL, "Lamp")
        shown = ("docker", "compose", "ps", "--all", "--quiet")
        app, migrated = (Container(service.run(*shown, n).strip(), 0) for n in ("app", "migrate"))
        assert migrated.inspect("{{.State.ExitCode}}") == "0"
        assert migrated.inspect("{{.State.FinishedAt}}") < app.inspect("{{.State.StartedAt}}")
        service.run("docker", "compose", "down")
        service.run(*up)
        assert names() == ["Lamp"]
