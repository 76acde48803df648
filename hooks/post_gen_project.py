"""Finish a generated project: remove unselected files, make .venv, print the next commands.

Cookiecutter renders this file and runs the copy in the project's folder, with its own Python.
It deletes the project when a hook fails, so trouble with .venv must not make this one fail.
"""

import sys

# The copy lies in the temporary folder of the machine, where anybody may have left a json.py.
if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    del sys.path[0]

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

CONTEXT = r"""{{ cookiecutter | for_hook | tojson }}"""
# Folders of features whose files replace others.
OVERLAYS = ["stateless"]
WINDOWS = os.name == "nt"


def unselected_paths(context: Mapping[str, Any]) -> list[str]:
    """Return the files of unselected features; a file of two features needs both.

    A feature is a question and the answers that select it, such as `database=sqlite|postgresql`.
    """
    paths: set[str] = set()
    for feature, listed in context["_features"].items():
        question, answers = feature.split("=")
        if context[question] not in answers.split("|"):
            paths.update(listed)
    return sorted(paths)


def remove(project: Path, path: str) -> None:
    """Remove a file of the project, and the folders that become empty, but nothing outside it."""
    target = project / path
    if not target.parent.resolve().is_relative_to(project.resolve()):
        echo(f"Left {path}: it is outside of the project.")
    elif target.is_symlink() or not target.is_dir():
        target.unlink(missing_ok=True)
        with suppress(OSError):  # a folder with the user's own files stays
            while target.parent != project:
                target = target.parent
                target.rmdir()


def is_update(context: Mapping[str, Any], project: Path) -> bool:
    """Tell whether `cruft update` runs this hook: it renders versions in temporary folders."""
    temporary = Path(tempfile.gettempdir()).resolve()
    return "_commit" in context and project.resolve().is_relative_to(temporary)


def echo(text: str) -> None:
    """Print at once, and do not fail if the reader has gone (`| head`)."""
    try:
        print(text, flush=True)
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def make_venv() -> bool:
    """Let the service's own script make .venv; tell whether it did."""
    # Ctrl-C also reaches the script, which removes a half-made .venv and prints a line.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        with suppress(AttributeError):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    command = [sys.executable, "-I", str(Path("scripts", "make_venv.py"))]
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode == 0


def shortest_path(project: Path, environment: Mapping[str, str]) -> str:
    """Return the shortest path to the project from the folder where the user is."""
    near = Path(environment.get("PWD", project), project.name)
    return project.name if near.resolve() == project.resolve() else str(project)


def enter_on_windows(folder: str) -> list[str]:
    """Return one command that enters a folder in cmd and PowerShell, or one for each of them.

    cmd replaces %NAME% between double quotes, and PowerShell replaces $name there, reads ` as an
    escape, [ and ] as a pattern, and all kinds of single quotes as one.
    """
    if not re.search(r"[%$`\[\]]", folder):
        return [f'pushd "{folder}"']
    for_cmd = folder.replace("%", '"^%"')
    for_powershell = re.sub("(['\u2018-\u201b])", r"\1\1", folder)
    return [
        f'pushd "{for_cmd}" & rem in cmd',
        f"pushd -LiteralPath '{for_powershell}' # in PowerShell",
    ]


def next_commands(folder: str, port: str, made: bool, make: bool, windows: bool) -> list[str]:
    """Return the next commands for a POSIX shell, or for cmd and PowerShell."""
    enter = enter_on_windows(folder) if windows else [f"cd {shlex.quote(folder)}"]
    if make and not windows:
        return [*enter, "make test" if made else "make venv", "make dev"]
    python = r".venv\Scripts\python" if windows else ".venv/bin/python"
    script = r"py scripts\make_venv.py" if windows else "python3 scripts/make_venv.py"
    serve = f"{python} -m uvicorn app.main:app --reload --reload-dir app --port {port}"
    return [*enter, f"{python} -m pytest" if made else script, serve]


def keep_selected(context: Mapping[str, Any], project: Path) -> None:
    """Remove the files of unselected options; put those of `OVERLAYS` in place."""
    for path in unselected_paths(context):
        remove(project, path)
    for path in chain(*context["_features"].values()):
        overlay, _, replaced = path.partition("/")
        if overlay in OVERLAYS and (project / path).is_file():
            (project / replaced).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(project / path, project / replaced)
            remove(project, path)


def main(context: Mapping[str, Any]) -> None:
    """Finish the project in the current folder."""
    project = Path.cwd()
    keep_selected(context, project)
    if is_update(context, project):
        return
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    made = os.path.lexists(".venv")
    if made:
        echo("Left .venv as it is.")
    elif str(context["create_venv"]) == "True":  # a replay file may hold the word "False"
        made = make_venv()
    echo("Next:")
    make = shutil.which("make") is not None
    folder = shortest_path(project, os.environ)
    for command in next_commands(folder, str(context["port"]), made, make, WINDOWS):
        echo(f"    {command}")


if __name__ == "__main__":
    parsed = json.loads(CONTEXT)  # fails in the repository, before anything is removed
    try:
        main(parsed)
    finally:
        with suppress(OSError):
            Path(__file__).unlink()  # Cookiecutter never removes the copy, which holds the answers
