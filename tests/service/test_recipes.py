"""Each page of docs/recipes: its diff on a fresh service, the service's own checks, then the page's check.

The page is the test. Comments in it say what its service needs:

    <!-- answers: database=postgresql -->    answers to the template's questions; the default has no database
    <!-- image -->                           serve the image in a hardened container, not this machine's Python
    <!-- no service -->                      start no service
    <!-- environment: NAME=value -->         a variable of the service, one comment each
    <!-- setup -->                           stands before a ```sh block that runs after the diff
    <!-- check -->                           stands before the ```python or ```sh block that must succeed
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from tests.support.commands import commit
from tests.support.containers import container, docker, require_docker
from tests.support.repository import ROOT
from tests.support.services import Bake, Service, serving

pytestmark = pytest.mark.slow

FOLDER = ROOT / "docs/recipes"
# The address in the pages; the tests' services listen elsewhere.
ADDRESS = "localhost:8000"
TEMPORARY = ("--tmpfs", "/tmp:size=256m,mode=1777")


@dataclass(frozen=True)
class Recipe:
    """A page."""

    path: Path

    @cached_property
    def text(self) -> str:
        """Return the page."""
        return self.path.read_text("utf-8")

    @property
    def title(self) -> str:
        """Return its first line."""
        return self.text.splitlines()[0].removeprefix("# ")

    @property
    def answers(self) -> dict[str, str]:
        """Return the answers that its service is generated with."""
        given = re.findall(r"^<!-- answers: (.*) -->$", self.text, re.MULTILINE)
        return {"database": "none"} | dict(pair.split("=") for pair in " ".join(given).split())

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that its service is started with."""
        lines = re.findall(r"^<!-- environment: (\w+)=(.*) -->$", self.text, re.MULTILINE)
        return dict(lines)

    @property
    def image(self) -> bool:
        """Tell whether it needs the image."""
        return "\n<!-- image -->\n" in self.text

    @property
    def diff(self) -> str:
        """Return its diffs."""
        return "".join(re.findall(r"^```diff\n(.*?)^```$", self.text, re.DOTALL | re.MULTILINE))

    @property
    def setup(self) -> str:
        """Return the commands that come after its diffs."""
        pattern = r"^<!-- setup -->\n```sh\n(.*?)^```$"
        return "".join(re.findall(pattern, self.text, re.DOTALL | re.MULTILINE))

    @property
    def check(self) -> tuple[str, str]:
        """Return the language and the text of its check."""
        pattern = r"^<!-- check -->\n```(python|sh)\n(.*?)^```$"
        ((language, text),) = re.findall(pattern, self.text, re.DOTALL | re.MULTILINE)
        return language, text


RECIPES = [Recipe(path) for path in sorted(FOLDER.glob("*.md")) if path.name != "README.md"]


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for what the recipes share: checked types, and packages of their own."""
    return tmp_path_factory.mktemp("caches")


@pytest.fixture
def service(
    recipe: Recipe, bake: Bake, caches: Path, tmp_path_factory: pytest.TempPathFactory
) -> Service:
    """Return a fresh service, with the recipe's diff."""
    folder = caches / recipe.answers["database"] / "my-service"
    # mypy's cache holds for one path.
    shutil.rmtree(folder, ignore_errors=True)
    service = bake(**recipe.answers).copy(folder)
    commit(folder)
    if recipe.diff:
        patch = folder.with_name("recipe.diff")
        patch.write_text(recipe.diff, "utf-8")
        service.run("git", "apply", str(patch))
    if recipe.answers["database"] != "none":
        # For make, which makes no .venv then.
        python = folder / ".venv/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        (folder / ".venv/installed").touch()
    return service


def new_packages(service: Service) -> list[str]:
    """Return the requirements that the diff adds to pyproject.toml."""
    before = service.run("git", "show", "HEAD:pyproject.toml")

    def all_of(text: str) -> set[str]:
        project = tomllib.loads(text)
        return {*project["project"]["dependencies"], *project["dependency-groups"]["dev"]}

    return sorted(all_of(service.read("pyproject.toml")) - all_of(before))


@pytest.fixture
def packages(recipe: Recipe, service: Service, caches: Path) -> str:
    """Return a folder to import the recipe's own packages from; an image has them itself."""
    wanted = new_packages(service)
    if recipe.image or not wanted:
        return ""
    folder = caches / re.sub(r"\W+", "-", " ".join(wanted))
    if not folder.exists():
        uv = str(Path(sys.executable).with_name("uv"))
        locks = [f"--constraint={name}" for name in ("requirements.txt", "requirements-dev.txt")]
        service.run(uv, "pip", "install", "--quiet", "--target", str(folder), *locks, *wanted)
    return str(folder)


@contextmanager
def running(service: Service, name: str, **environment: str) -> Iterator[dict[str, str]]:
    """Build its image and run it; yield its address as a variable for the check, then stop it."""
    require_docker()
    image = f"recipe-{name}"
    variables = [f"--env={name}={value}" for name, value in environment.items()]
    hardened = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", *TEMPORARY)
    try:
        docker("build", "--quiet", "--tag", image, str(service.path))
        with container(image, *hardened, *variables) as service_container:
            service_container.wait_healthy()
            yield {"ADDRESS": service_container.url.removeprefix("http://"), "IMAGE": image}
            assert service_container.stop() == 0
    finally:
        docker("rmi", "--force", image, check=False)


def with_tools() -> str:
    """Return a PATH that begins with this environment's programs."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def run_block(language: str, text: str, service: Service, /, **environment: str) -> None:
    """Run a block of a page in the service's folder, or fail with its output."""
    program = [sys.executable, "-c"] if language == "python" else ["sh", "-euc"]
    text = text.replace(ADDRESS, environment.get("ADDRESS", ADDRESS))
    service.run("timeout", "120", *program, text, **{"PATH": with_tools()} | environment)


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(recipe, id=recipe.path.stem, marks=[pytest.mark.docker] * recipe.image)
        for recipe in RECIPES
    ],
)
def test_a_recipe_works(
    recipe: Recipe,
    service: Service,
    packages: str,
    caches: Path,
    request: pytest.FixtureRequest,
) -> None:
    environment = {"PYTHONPATH": packages}
    changed = re.findall(r"^\+\+\+ b/(.*\.py)$", recipe.diff, re.MULTILINE)
    if changed:
        service.python("-m", "ruff", "check", "--no-cache", *changed)
        service.python("-m", "ruff", "format", "--no-cache", "--check", *changed)
        service.python("-m", "mypy", "--cache-dir", str(caches / "mypy"), **environment)
    variables = recipe.environment
    if recipe.answers["database"] == "postgresql":
        variables["DATABASE_URL"] = request.getfixturevalue("postgresql")
        service.python("-m", "app.database", **environment, **variables)
    run_block("sh", recipe.setup, service, **environment, **variables)
    tests = [name for name in changed if name.startswith("tests/")]
    if "app/settings.py" in changed:
        tests.append("tests/test_settings.py")
    if "make migration" in recipe.setup:
        tests.append("tests/test_migrations.py")
    if tests:
        service.python("-m", "pytest", "-p", "no:cacheprovider", *tests, **environment)
    place: AbstractContextManager[dict[str, str]]
    if "\n<!-- no service -->\n" in recipe.text:
        place = nullcontext({})
    elif recipe.image:
        if new_packages(service):
            service.run("make", "lock", PATH=with_tools())
        place = running(service, recipe.path.stem, **variables)
    else:
        place = serving(service.path, **environment, **variables)
    with place as told:
        run_block(*recipe.check, service, **environment, **variables, **told)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.path.stem)
def test_a_recipe_is_short(recipe: Recipe) -> None:
    changed = re.findall(r"^[+-](?![+-]{2} )", recipe.diff, re.MULTILINE)
    assert len(changed) <= 40
    assert recipe.check


def test_the_index_lists_every_recipe() -> None:
    index = (FOLDER / "README.md").read_text("utf-8")
    links = dict(re.findall(r"^- \[(.*)\]\((.*)\)$", index, re.MULTILINE))
    assert links == {recipe.title: recipe.path.name for recipe in RECIPES}
