"""copier serves the same folder as Cookiecutter: the same files, and updates of its own."""

from __future__ import annotations

import itertools
import shutil
import sys
from pathlib import Path

import pytest
from cookiecutter.exceptions import FailedHookException

from local_extensions import checked
from scripts.copier_support import configuration
from tests.support.commands import commit, edit, run
from tests.support.repository import CONFIG, ROOT, TEMPLATE, tree
from tests.support.services import Bake

PACKAGES = ["copier==9.19.1", "copier-template-extensions==0.3.4", "cookiecutter==2.7.1"]
MENUS = {
    name: default if isinstance(default, list) else [False, True]
    for name, default in CONFIG.items()
    if isinstance(default, list | bool) and not name.startswith("_") and name != "create_venv"
}
Answers = dict[str, str | bool]


def is_valid(answers: Answers) -> bool:
    """Tell whether the template takes these answers."""
    try:
        checked(answers)
    except FailedHookException:
        return False
    return True


def pairs(answers: Answers) -> set[tuple[tuple[str, str | bool], ...]]:
    """Return each pair of answers to two menus."""
    return set(itertools.combinations(answers.items(), 2))


def few_answers_with_every_pair() -> list[Answers]:
    """Choose answers to the menus so that each valid pair of them is in one of the results."""
    every = [dict(zip(MENUS, each, strict=True)) for each in itertools.product(*MENUS.values())]
    valid = [answers for answers in every if is_valid(answers)]
    missing = {pair for answers in valid for pair in pairs(answers)}
    chosen = []
    while missing:
        chosen.append(max(valid, key=lambda answers: len(pairs(answers) & missing)))
        missing -= pairs(chosen[-1])
    return chosen


def test_copier_asks_the_questions_of_cookiecutter() -> None:
    assert (ROOT / "copier.yml").read_text("utf-8") == configuration()


@pytest.fixture(scope="module")
def copier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install copier."""
    folder = tmp_path_factory.mktemp("copier") / "venv"
    uv = [sys.executable, "-m", "uv"]
    run(*uv, "venv", folder, "--python", sys.executable, cwd=ROOT)
    run(*uv, "pip", "install", "--python", folder / "bin/python", *PACKAGES, cwd=ROOT)
    return folder / "bin/copier"


def copy(copier: Path, template: Path, folder: Path, **answers: str | bool) -> None:
    """Generate a service with copier."""
    data = [
        f"--data={name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in answers.items()
    ]
    options = ["--trust", "--quiet", "--defaults", "--data=create_venv=false"]
    run(copier, "copy", *options, *data, template, folder, cwd=template)


@pytest.mark.slow
@pytest.mark.parametrize(
    "answers", few_answers_with_every_pair(), ids=lambda each: "-".join(map(str, each.values()))
)
def test_copier_writes_the_same_bytes_as_cookiecutter(
    answers: Answers, copier: Path, template: Path, bake: Bake, tmp_path: Path
) -> None:
    answers = answers | {"project_name": 'It\'s "ours" \\ 店', "port": "9000", "workers": "auto"}
    copy(copier, template, tmp_path / "service", **answers)
    (tmp_path / "service" / ".copier-answers.yml").unlink()
    assert tree(tmp_path / "service") == tree(bake(**answers).path)


@pytest.mark.slow
def test_copier_refuses_an_invalid_answer(copier: Path, template: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="port: '80' is refused"):
        copy(copier, template, tmp_path / "service", port="80")
    assert not (tmp_path / "service").exists()


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "none"])
def test_copier_update_takes_over_a_change(
    database: str, copier: Path, template: Path, tmp_path: Path
) -> None:
    repository, service = tmp_path / "template", tmp_path / "service"
    shutil.copytree(template, repository)
    dockerfile = repository / TEMPLATE.name / "Dockerfile"
    commit(repository)
    run("git", "tag", "1.0.0", cwd=repository)
    copy(copier, repository, service, database=database)
    main = service / "app" / "main.py"
    edit(main, "Welcome the caller.", "Greet the caller.")
    shutil.rmtree(service / "app" / "items")
    ignored = service / "kubernetes" / ".env"  # in a folder of an unselected option
    ignored.parent.mkdir()
    ignored.write_text("SECRET=mine")
    commit(service)
    edit(dockerfile, "interval=10s", "interval=15s")
    commit(repository)
    run("git", "tag", "1.1.0", cwd=repository)

    options = ["--trust", "--quiet", "--defaults"]
    run(copier, "update", *options, cwd=service)

    changed = run("git", "status", "--porcelain", "-uall", cwd=service).split()[1::2]
    assert changed == [".copier-answers.yml", "Dockerfile"]
    assert "interval=15s" in (service / "Dockerfile").read_text()
    assert "Greet the caller." in main.read_text()
    assert ignored.read_text() == "SECRET=mine"
