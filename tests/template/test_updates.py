"""Real runs of `cruft update`, after changes of the template and of a service's owner."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.support.commands import commit, edit, lacking, run
from tests.support.repository import ROOT, TEMPLATE

pytestmark = pytest.mark.slow

DOCUMENT = (ROOT / "docs/updating.md").read_text("utf-8")
BIN = Path(sys.executable).parent

Change = tuple[str, str, str]  # a file, the old text, the new text
THEIRS: list[Change] = [
    (
        "server/gunicorn_conf.py",
        '        "max_requests": ',
        '        "backlog": 512,\n        "max_requests": ',
    ),
    ("Dockerfile", "--interval=10s", "--interval=15s"),
    ("README.md", "\n## Operate it\n", "\n## Operate it\n\nRead the manual.\n"),
    ("app/main.py", "put together: read this first.", "put together."),
    ("requirements.txt", "\nclick==", "\nclick==99."),
]
# In a file that updates skip.
SKIPPED: Change = ("app/items/routes.py", 'description": "No such item"', 'description": "No item"')
IN_MAIN: list[Change] = [
    ("app/main.py", "import errors, health, items", "import errors, health, items, orders"),
    ("app/main.py", "(items.router)\n", "(items.router)\n    app.include_router(orders.router)\n"),
]
IN_DOCKERFILE: list[Change] = [("Dockerfile", "PORT=8000", "PORT=9999")]
IN_README: list[Change] = [("README.md", "The items are an example.", "Orders are kept for ever.")]
OURS = [*IN_MAIN, *IN_DOCKERFILE, *IN_README]
ORDERS = """from fastapi import APIRouter

router = APIRouter(prefix="/orders", tags=["orders"])


@router.get("/")
async def read_orders() -> list[str]:
    \"\"\"List the orders.\"\"\"
    return []
"""


def change(folder: Path, changes: Iterable[Change]) -> None:
    """Change several files."""
    for name, old, new in changes:
        edit(folder / name, old, new)


def missing(folder: Path, changes: Iterable[Change]) -> list[Change]:
    """List the changes that are not there."""
    return [each for each in changes if each[2] not in (folder / each[0]).read_text("utf-8")]


@dataclass(frozen=True)
class Workspace:
    """A folder for services, and a template at the address that the document names."""

    folder: Path
    template: Path
    environment: dict[str, str]

    def run(self, *command: str, folder: str = ".", status: int = 0) -> str:
        """Run `command` in `folder`; return its output, or fail if it ends otherwise."""
        return run(*command, cwd=self.folder / folder, env=self.environment, status=status)

    def document(self, heading: str, folder: str = ".") -> str:
        """Run the commands below `heading` in the document."""
        section = re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)
        (text,) = (part for part in section if part.startswith(f"{heading}\n"))
        commands = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
        assert commands
        return self.run("bash", "-euo", "pipefail", "-c", commands, folder=folder)

    def create(self, answers: str = '{"create_venv": false}') -> Path:
        """Generate a service from version 1.0.0 with cruft."""
        command = ["cruft", "create", "https://github.com/org/template", "--checkout", "1.0.0"]
        self.run(*command, "--no-input", "--default-config", "--extra-context", answers)
        return self.folder / "my-service"

    def commit(self, folder: str = "my-service") -> None:
        """Commit all of a service."""
        commit(self.folder / folder)

    def update(self, *options: str) -> str:
        """Update the service."""
        return self.run("cruft", "update", "--skip-apply-ask", *options, folder="my-service")

    def status(self) -> dict[str, str]:
        """Return git's two letters for each changed file of the service."""
        lines = self.run("git", "status", "--porcelain", "-uall", folder="my-service").splitlines()
        return {line[3:]: line[:2] for line in lines}


def release(repository: Path, version: str) -> None:
    """Commit all of the template and tag it."""
    commit(repository)
    subprocess.run(["git", "tag", version], cwd=repository, check=True)


@pytest.fixture(scope="module")
def releases(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with the template as it is, 1.0.0, and a newer one, 1.1.0."""
    repository = tmp_path_factory.mktemp("releases") / "template"
    shutil.copytree(template, repository)

    release(repository, "1.0.0")
    service = repository / TEMPLATE.name
    change(service, THEIRS)
    change(service, [SKIPPED])
    (service / ".editorconfig").write_text("root = true\n")
    release(repository, "1.1.0")
    return repository


@pytest.fixture
def workspace(releases: Path, tmp_path: Path) -> Workspace:
    config = tmp_path / "gitconfig"
    config.write_text(
        "[user]\n\tname = Test\n\temail = test@localhost\n[init]\n\tdefaultBranch = main\n"
        f'[url "{releases}"]\n\tinsteadOf = https://github.com/org/template\n'
        "\tinsteadOf = https://github.com/org/template.git\n"
    )
    (tmp_path / "cookiecutter.yaml").write_text(
        f"replay_dir: {tmp_path}\ncookiecutters_dir: {tmp_path}\n"
    )
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "GIT_CONFIG_GLOBAL": str(config),
        "COOKIECUTTER_CONFIG": str(tmp_path / "cookiecutter.yaml"),
    }
    (tmp_path / "services").mkdir()
    return Workspace(tmp_path / "services", releases, environment)


def leftovers(service: Path) -> list[str]:
    """List the files that a patch with conflicts leaves."""
    return [
        path.name
        for path in service.rglob("*")
        if path.is_file()
        and ".git" not in path.parts
        and (path.suffix in (".rej", ".orig") or b"<<<<<<<" in path.read_bytes())
    ]


def test_an_update_brings_the_template_s_changes_and_keeps_the_owner_s(
    workspace: Workspace,
) -> None:
    nowhere = "http://127.0.0.1:9/simple/"  # an attempt to make a .venv would print an error
    offline = {
        "PIP_INDEX_URL": nowhere,
        "UV_DEFAULT_INDEX": nowhere,
        "UV_PYTHON_DOWNLOADS": "never",
    }
    workspace = replace(workspace, environment=workspace.environment | offline)
    service = workspace.create("{}")
    workspace.commit()
    (service / ".venv").mkdir()
    (service / ".venv" / "made").write_text("by hand")
    change(service, OURS)
    (service / "app/orders").mkdir()
    (service / "app/orders/__init__.py").write_text(ORDERS)
    workspace.commit()
    stamp = (service / ".venv").stat().st_mtime_ns
    workspace.run("cruft", "check", folder="my-service", status=1)

    output = workspace.update()

    assert missing(service, THEIRS) == []
    assert missing(service, OURS) == []
    assert (service / ".editorconfig").exists()
    assert (service / "app/orders/__init__.py").read_text() == ORDERS
    assert SKIPPED[1] in (service / SKIPPED[0]).read_text()
    assert leftovers(service) == []
    files = {name for name, *_ in THEIRS} | {".cruft.json", ".editorconfig"}
    assert workspace.status().keys() == files
    assert "U" not in "".join(workspace.status().values())
    assert (service / ".venv").stat().st_mtime_ns == stamp
    assert [path.name for path in (service / ".venv").iterdir()] == ["made"]
    assert ".venv" not in output
    assert "Next:" not in output
    workspace.run("cruft", "check", folder="my-service")
    main = "from app.main import create_app; print(create_app().openapi()['paths'].keys())"
    assert "/orders/" in workspace.run(sys.executable, "-c", main, folder="my-service")


def test_a_conflict_shows_both_versions(workspace: Workspace) -> None:
    service = workspace.create()
    workspace.commit()
    change(service, [("Dockerfile", "--interval=10s", "--interval=60s")])
    workspace.commit()
    output = workspace.update()
    assert "Applied patch to 'Dockerfile' with conflicts" in output
    assert "Good work!" in output  # which is why the document says how to see conflicts
    assert {name for name, letters in workspace.status().items() if "U" in letters} == {
        "Dockerfile"
    }
    shown = DOCUMENT.partition("```diff\n")[2].partition("```")[0]
    assert shown in (service / "Dockerfile").read_text()
    assert missing(service, THEIRS) == []
    workspace.document("Conflicts", "my-service")
    assert workspace.status() == {}
    assert "--interval=60s" in (service / "Dockerfile").read_text()
    assert leftovers(service) == []
    workspace.run("cruft", "check", folder="my-service")


def test_a_lock_that_both_changed_stays_the_owner_s_without_markers(workspace: Workspace) -> None:
    service = workspace.create()
    workspace.commit()
    lock = service / "requirements.txt"
    lock.write_text(re.sub(r"(?m)^click==", "added==1.0\nclick==", lock.read_text()))
    mine = lock.read_text()
    workspace.commit()
    workspace.update()
    assert workspace.status()["requirements.txt"] == "UU"
    assert lock.read_text() == mine
    assert missing(service, THEIRS) == THEIRS[4:]
    workspace.run("git", "add", "requirements.txt", folder="my-service")
    workspace.commit()
    assert lock.read_text() == mine
    workspace.run("cruft", "check", folder="my-service")


def test_the_document_s_commands_generate_update_and_change_dozens(workspace: Workspace) -> None:
    services = DOCUMENT.partition("```json\n")[2].partition("```")[0]
    (workspace.folder / "services.jsonl").write_text(services)
    workspace.document("Generate dozens")
    workspace.document("Update", "price-list")
    workspace.run("git", "commit", "-qam", "Update", folder="price-list")
    workspace.document("Change an answer", "price-list")
    dockerfile = (workspace.folder / "price-list/Dockerfile").read_text()
    assert "ARG PYTHON_VERSION=3.15\n" in dockerfile
    assert "PORT=9000" in dockerfile
    assert "--interval=15s" in dockerfile
    assert "PORT=9001" in (workspace.folder / "orders/Dockerfile").read_text()


def test_a_service_that_was_generated_without_cruft_is_adopted(workspace: Workspace) -> None:
    answers = ["project_name=Stock", "create_venv=no"]
    command = ["cookiecutter", "gh:org/template", "--checkout", "1.0.0", "--no-input", *answers]
    workspace.run(*command)
    workspace.commit("stock")
    assert '"Stock"' in (workspace.folder.parent / "template.json").read_text()
    shown = workspace.document("Adopt", "stock")
    assert "diff" not in shown
    workspace.run("cruft", "update", "-y", folder="stock")
    assert missing(workspace.folder / "stock", THEIRS) == []


# The last commit before the server moved out of app/.
FIRST = "b9231f0"
CHANGES: dict[str, list[Change]] = {
    "app/main.py": IN_MAIN,
    "app/settings.py": [
        (
            "app/settings.py",
            "    docs: bool = True\n",
            '    warehouse: str = "near"\n    """Where orders go."""\n\n    docs: bool = True\n',
        )
    ],
    "Dockerfile": IN_DOCKERFILE,
}


@pytest.fixture(scope="module")
def first_release(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with 1.0.0, as it was before the server moved, and 1.1.0, as it is now."""
    archive = subprocess.run(["git", "archive", FIRST], cwd=ROOT, capture_output=True)
    if archive.returncode:
        lacking(f"no commit {FIRST}: {archive.stderr.decode()}")
    repository = tmp_path_factory.mktemp("moved") / "template"
    repository.mkdir()
    subprocess.run(["tar", "-x"], cwd=repository, input=archive.stdout, check=True)
    release(repository, "1.0.0")
    subprocess.run(["git", "rm", "-rqf", "."], cwd=repository, check=True)
    shutil.copytree(template, repository, dirs_exist_ok=True)
    release(repository, "1.1.0")
    return repository


def test_a_service_from_before_the_move_keeps_its_owner_s_changes(
    workspace: Workspace, first_release: Path
) -> None:
    config = Path(workspace.environment["GIT_CONFIG_GLOBAL"])
    config.write_text(config.read_text().replace(str(workspace.template), str(first_release)))
    service = workspace.create('{"create_venv": false, "database": "none"}')
    workspace.commit("my-service")
    (service / "app/orders.py").write_text(ORDERS)
    for changes in CHANGES.values():
        change(service, changes)
    workspace.commit("my-service")

    workspace.update("--checkout", "1.1.0")

    assert not [name for name in leftovers(service) if name.endswith((".rej", ".orig"))]
    assert not (service / "app/server.py").exists()
    assert not (service / "gunicorn.conf.py").exists()
    assert (service / "server/__main__.py").exists()
    assert (service / "app/orders.py").read_text() == ORDERS
    conflicts = {*leftovers(service)}
    assert conflicts <= {Path(name).name for name in CHANGES}
    for name, changes in CHANGES.items():
        if Path(name).name in conflicts:  # as docs/updating.md says
            workspace.run("git", "checkout", "--theirs", name, folder="my-service")
            change(service, changes)
    assert "PORT=9999" in (service / "Dockerfile").read_text()
    asked = (
        "from fastapi.testclient import TestClient; from app.main import app;"
        " client = TestClient(app).__enter__();"
        " print(client.get('/orders/').status_code, app.state.settings.warehouse)"
    )
    assert workspace.run(sys.executable, "-c", asked, folder="my-service").endswith("200 near\n")
    workspace.run(sys.executable, "-m", "mypy", folder="my-service")
