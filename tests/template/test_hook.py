"""The hook: it removes files, prints commands, and gets the answers as data."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from cookiecutter.utils import create_env_with_context
from hypothesis import given, settings
from hypothesis import strategies as st

from hooks import post_gen_project as hook
from local_extensions import for_hook
from tests.support.repository import CONFIG, DEFAULTS, ROOT

SOURCE = (ROOT / "hooks" / "post_gen_project.py").read_text(encoding="utf-8")
ANSWERS = DEFAULTS | {"port": "9000", "create_venv": False, "database": "none", "ci": "none"}


def project(tmp_path: Path, *files: str) -> Path:
    """Make a project folder with empty files."""
    folder = tmp_path / "my-service"
    folder.mkdir()
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def rendered(text: str, answers: dict[str, object]) -> str:
    """Render text of the hook as Cookiecutter does."""
    environment = create_env_with_context({})
    environment.filters["for_hook"] = for_hook
    return environment.from_string(text).render(cookiecutter=answers)


def run(folder: Path, stdout: int = subprocess.PIPE, **answers: object) -> str:
    """Run a rendered copy of the hook in `folder`; return what it prints, or fail with it."""
    copy = folder.parent / "rendered_hook.py"
    copy.write_text(rendered(SOURCE, ANSWERS | answers), encoding="utf-8")
    command = [sys.executable, str(copy)]
    done = subprocess.run(
        command, cwd=folder, stdout=stdout, stderr=subprocess.STDOUT, encoding="utf-8", timeout=60
    )
    assert done.returncode == 0, done.stdout
    assert not copy.exists(), "the copy holds the answers"
    return done.stdout


# Removing unselected files

FEATURES = {
    "metrics=yes": ["app/metrics.py", "tests/test_metrics.py"],
    "database=sqlite|postgresql": ["app/database", "shared"],
    "database=none": ["stateless", "shared"],
}


@pytest.mark.parametrize(
    ("metrics", "database", "removed"),
    [
        ("yes", "sqlite", ["shared", "stateless"]),
        ("no", "none", ["app/database", "app/metrics.py", "shared", "tests/test_metrics.py"]),
        ("yes", "none", ["app/database", "shared"]),
    ],
)
def test_files_of_unselected_features_go_and_shared_ones_need_both(
    metrics: str, database: str, removed: list[str]
) -> None:
    context = {"_features": FEATURES, "metrics": metrics, "database": database}
    assert hook.unselected_paths(context) == removed


def test_the_hook_ignores_a_list_of_features_in_the_answers(tmp_path: Path) -> None:
    """A replay file may hold any `_features`."""
    (tmp_path / "kept.txt").touch()
    folder = project(tmp_path, "app/main.py")
    run(folder, _features={"database=sqlite": ["app", "../kept.txt", str(tmp_path / "kept.txt")]})
    assert (tmp_path / "kept.txt").exists()
    assert (folder / "app" / "main.py").exists()


@pytest.mark.parametrize("path", ["..", ".", "../other", "{outside}", "link/kept.txt", "link/sub"])
def test_nothing_outside_of_the_project_is_removed(path: str, tmp_path: Path) -> None:
    outside = tmp_path / "other"
    (outside / "sub").mkdir(parents=True)
    (outside / "kept.txt").touch()
    folder = project(tmp_path, "mine.txt")
    (folder / "link").symlink_to(outside)
    hook.remove(folder, path.format(outside=outside))
    assert (outside / "kept.txt").exists()
    assert (outside / "sub").exists()
    assert (folder / "mine.txt").exists()


def test_files_of_the_owner_stay_in_the_folders_of_unselected_options(tmp_path: Path) -> None:
    """As with `--overwrite-if-exists` in a repository that has a pipeline of its own."""
    mine = [".github/CODEOWNERS", "kubernetes/mine.yaml", "app/migrations/versions/0002_mine.py"]
    mine += ["stateless/mine.txt", "renovate.json/mine"]
    listed = {path for paths in CONFIG["_features"].values() for path in paths}
    folder = project(tmp_path, *mine, *(listed - {"renovate.json"}))
    run(folder)
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    replaced = {path.partition("/")[2] for path in listed if path.startswith("stateless/")}
    assert files == {*mine, *replaced}
    assert not (folder / "kubernetes" / "base").exists()


def test_a_link_is_removed_and_its_target_stays(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    folder = project(tmp_path)
    (folder / "link").symlink_to(tmp_path / "other")
    hook.remove(folder, "link")
    hook.remove(folder, "not-there")
    assert [path.name for path in tmp_path.iterdir()].count("other") == 1
    assert list(folder.iterdir()) == []


# Answers are data


@given(st.dictionaries(st.text(), st.text() | st.booleans()))
@settings(deadline=None)
def test_any_answers_stay_inside_the_string_literal(answers: dict[str, object]) -> None:
    line = next(line for line in SOURCE.splitlines() if line.startswith("CONTEXT = "))
    module = ast.parse(rendered(line, answers))
    (statement,) = module.body
    assert isinstance(statement, ast.Assign)
    expected = answers | {"_features": CONFIG["_features"]}
    assert json.loads(ast.literal_eval(statement.value)) == expected


def test_run_by_mistake_in_the_repository_it_removes_nothing(tmp_path: Path) -> None:
    copy = tmp_path / "post_gen_project.py"
    copy.write_text(SOURCE, encoding="utf-8")
    done = subprocess.run([sys.executable, copy], cwd=project(tmp_path), capture_output=True)
    assert done.returncode != 0
    assert copy.exists()


def test_the_hook_has_the_syntax_of_python_3_10_and_portable_imports() -> None:
    tree = ast.parse(SOURCE, feature_version=(3, 10))
    imports = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imports |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    unix = {"fcntl", "grp", "pwd", "resource", "termios", "tomllib"}
    assert {str(name).partition(".")[0] for name in imports} <= sys.stdlib_module_names - unix
    assert SOURCE.isascii()


@pytest.mark.parametrize("safe", ["", "1"])
def test_modules_beside_the_copy_are_not_imported(
    safe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy lies in the temporary folder of the machine, among other people's files."""
    for name in ("__future__", "json", "shlex", "pathlib"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    monkeypatch.setenv("PYTHONSAFEPATH", safe)
    assert run(project(tmp_path)).startswith("Next:\n")


# The next commands

POSIX = [".venv/bin/python -m pytest", "python3 scripts/make_venv.py"]
WINDOWS = [r".venv\Scripts\python -m pytest", r"py scripts\make_venv.py"]
SERVE = "-m uvicorn app.main:app --reload --reload-dir app --port 9000"


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize(
    ("windows", "make", "first", "second", "third"),
    [
        (False, True, "cd svc", ["make test", "make venv"], "make dev"),
        (False, False, "cd svc", POSIX, f".venv/bin/python {SERVE}"),
        (True, True, 'pushd "svc"', WINDOWS, rf".venv\Scripts\python {SERVE}"),
    ],
)
def test_the_next_three_commands(
    windows: bool, make: bool, made: bool, first: str, second: list[str], third: str
) -> None:
    commands = hook.next_commands("svc", "9000", made, make, windows)
    assert commands == [first, second[not made], third]


WINDOWS_FOLDERS = st.lists(
    st.sampled_from(["a", " ", "%", "$", "`", "[", "]", "'", "\u2019", "&", "^", "(", ";", "\\"])
).map("".join)


def read_by_cmd(command: str, folder: str) -> str:
    """Return the folder that cmd enters, if each name between two % of `folder` is a variable."""
    names = folder.split("%")[1:-1]
    expanded = re.sub("%([^%]*)(?=%)", lambda m: "no" if m[1] in names else m[0], command)
    quoted = False
    read = ""
    letters = iter(expanded.removeprefix("pushd "))
    for letter in letters:
        if letter == '"':
            quoted = not quoted
        elif not quoted and letter == "^":
            read += next(letters)
        elif not quoted and letter == "&":
            return read.removesuffix(" ")
        else:
            read += letter
    return read


def read_by_powershell(command: str) -> str:
    """Return the folder that PowerShell enters."""
    if match := re.fullmatch('pushd "([^"$`\\[\\]]*)"', command):
        return match[1]
    match = re.fullmatch(
        r"pushd -LiteralPath '((?:[^'\u2018-\u201b]|(['\u2018-\u201b])\2)*)' # .*", command
    )
    assert match, command
    return re.sub(r"(['\u2018-\u201b])\1", r"\1", match[1])


@given(WINDOWS_FOLDERS)
def test_cmd_and_powershell_read_back_any_folder(folder: str) -> None:
    """Windows was not tried; the two readers follow the documented rules of the shells."""
    *enter, _, _ = hook.next_commands(folder, "9000", made=True, make=False, windows=True)
    assert read_by_cmd(enter[0], folder) == folder
    assert read_by_powershell(enter[-1]) == folder


def test_on_windows_an_ordinary_folder_needs_one_command_for_both_shells() -> None:
    folder = r"C:\Users\O'Neil & Co\my service"
    assert hook.enter_on_windows(folder) == [rf'pushd "{folder}"']


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1))
def test_a_posix_shell_reads_back_any_folder(folder: str) -> None:
    command, *_ = hook.next_commands(folder, "9000", made=True, make=True, windows=False)
    assert shlex.split(command) == ["cd", folder]


def test_the_folder_is_named_as_the_user_s_shell_sees_it(tmp_path: Path) -> None:
    folder = project(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    for shell, expected in [
        (tmp_path, "my-service"),
        (tmp_path / "link", "my-service"),
        (tmp_path.parent, str(folder)),
    ]:
        assert hook.shortest_path(folder, {"PWD": str(shell)}) == expected
    assert hook.shortest_path(folder, {}) == str(folder)


def test_the_hook_prints_the_next_commands_and_only_them(tmp_path: Path) -> None:
    folder = project(tmp_path)
    commands = run(folder).splitlines()
    assert commands[:2] == ["Next:", f"    cd {folder}"]
    assert len(commands) == 4


def test_a_console_that_lacks_a_letter_shows_its_escape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    (tmp_path / "é").mkdir()
    assert r"/\xe9/my-service" in run(project(tmp_path / "é"))


def test_no_venv_is_made_for_the_word_false(tmp_path: Path) -> None:
    assert run(project(tmp_path), create_venv="False").startswith("Next:\n")


def test_an_existing_venv_is_left_alone(tmp_path: Path) -> None:
    folder = project(tmp_path, ".venv/mine")
    assert run(folder, create_venv=True).startswith("Left .venv as it is.\nNext:\n")
    assert [path.name for path in (folder / ".venv").iterdir()] == ["mine"]


# cruft


@pytest.mark.parametrize(
    ("context", "inside", "expected"),
    [({"_commit": "abc"}, True, True), ({"_commit": "abc"}, False, False), ({}, True, False)],
)
def test_only_a_cruft_render_in_the_temporary_folder_is_an_update(
    context: dict[str, str],
    inside: bool,
    expected: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    folder = tmp_path / ("tmp" if inside else "home") / "some" / "svc"
    folder.mkdir(parents=True)
    assert hook.is_update(context, folder) is expected


def test_a_closed_output_does_not_fail_the_hook(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    run(project(tmp_path), stdout=writing)
    os.close(writing)
