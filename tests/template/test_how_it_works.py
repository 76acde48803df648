"""The worked example of docs/how-it-works.md, applied to a copy of the template."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.commands import run
from tests.support.repository import ROOT, TEMPLATE


def module(folder: Path, *arguments: str) -> None:
    """Run a module of this Python in `folder`, or fail with its output."""
    run(sys.executable, "-B", "-m", *arguments, cwd=folder)


def generate(template: Path, folder: Path, *answers: str) -> Path:
    """Generate a service in `folder`, in a process that has not imported this template's modules."""
    options = ["--no-input", "--default-config", "create_venv=no"]
    module(folder, "cookiecutter", str(template), *options, *answers)
    return folder / "my-service"


@pytest.fixture(scope="module")
def extended(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the template with all diffs of the page."""
    copy = tmp_path_factory.mktemp("extended") / "template"
    shutil.copytree(template, copy)
    page = (ROOT / "docs" / "how-it-works.md").read_text("utf-8")
    diffs = re.findall(r"^```diff\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    run("git", "apply", "-", cwd=copy, input="".join(diffs))
    run(sys.executable, "-B", "scripts/copier_support.py", cwd=copy)  # as `make fix` does
    return copy


@pytest.mark.slow
def test_the_template_s_own_tests_of_answers_pass_with_the_new_question(extended: Path) -> None:
    files = [f"tests/template/test_{name}.py" for name in ("answers", "hook", "copier")]
    files.append(
        "tests/template/test_repository.py::test_the_readme_s_table_has_every_question_and_default"
    )
    module(extended, "pytest", "-p", "no:cacheprovider", "-m", "not slow", *files)


def test_the_new_feature_works_in_the_template_folder(extended: Path) -> None:
    module(extended / TEMPLATE.name, "pytest", "-p", "no:cacheprovider", "tests/test_robots.py")


@pytest.mark.parametrize("database", ["sqlite", "none"])
def test_a_service_with_the_new_feature_passes_its_checks(
    database: str, extended: Path, tmp_path: Path
) -> None:
    service = generate(extended, tmp_path, "robots=yes", f"database={database}")
    module(service, "pytest", "-p", "no:cacheprovider", "tests/test_robots.py")
    module(service, "ruff", "check", "--no-cache")
    module(service, "ruff", "format", "--check", "--no-cache")


def test_a_service_without_the_new_feature_has_no_trace_of_it(
    extended: Path, tmp_path: Path
) -> None:
    service = generate(extended, tmp_path)
    for path in service.rglob("*"):
        assert "robots" not in path.name
        assert path.is_dir() or b"robots" not in path.read_bytes(), path
