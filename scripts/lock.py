"""Write the locks: the service's two, and the one for the tests of the template.

    python scripts/lock.py             keep the versions that still fit, add missing packages
    python scripts/lock.py --upgrade   take the newest of everything

All three come out of one resolution, so a package has one version everywhere. Needs the network.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from jinja2 import Environment

ROOT = Path(__file__).parents[1]
SERVICE = ROOT / "{{cookiecutter.project_slug}}"
RUNTIME = SERVICE / "requirements.txt"
DEV = SERVICE / "requirements-dev.txt"
TESTS = ROOT / "tests" / "requirements.txt"
OLDEST_PYTHON = "3.11"
CONFIG = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
# The commands of the service's `make lock`. The locks name them, so that robots can repeat them.
OPTIONS = f"--universal --python-version {OLDEST_PYTHON} --generate-hashes --no-build --no-annotate"
COMMANDS = {
    RUNTIME: f"uv pip compile {OPTIONS} --output-file requirements.txt pyproject.toml",
    DEV: f"uv pip compile {OPTIONS} --output-file requirements-dev.txt"
    " --constraint requirements.txt --group dev",
}
# Which answers need a package, and how a tag says so.
CONDITIONS = {
    frozenset({"sqlite", "postgresql"}): 'cookiecutter.database != "none"',
    frozenset({"sqlite"}): 'cookiecutter.database == "sqlite"',
    frozenset({"postgresql"}): 'cookiecutter.database == "postgresql"',
}


def compile_lock(target: Path, work: Path, *arguments: str) -> None:
    """Resolve `arguments`, as `uv pip compile` takes them, for every Python and platform into `target`.

    The options are those of the service's own `make lock`, which would write the same bytes.
    """
    subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"),
            *("--python-version", OLDEST_PYTHON, "--generate-hashes", "--no-annotate"),
            # The image installs wheels alone. Packages for tests may have no wheel for some Python.
            *(["--no-build"] if target != TESTS else []),
            *("--output-file", str(target)),
            *arguments,
        ],
        cwd=work,
        env=os.environ
        | {
            "UV_CUSTOM_COMPILE_COMMAND": COMMANDS.get(target, "scripts/lock.py"),
            "UV_PYTHON_DOWNLOADS": "never",
        },
        check=True,
    )


def pyproject(**answers: str) -> str:
    """Return the service's pyproject.toml for `answers`; without any, with every feature on."""
    text = (SERVICE / "pyproject.toml").read_text(encoding="utf-8")
    # The service's name is an answer, and no installer reads it before it is given.
    text = text.replace("{{ cookiecutter.project_slug }}", "service")
    if not answers:
        return text
    environment = Environment(autoescape=False, **CONFIG["_jinja2_env_vars"])  # noqa: S701 - no HTML
    environment.filters["quoted"] = str
    return environment.from_string(text).render(cookiecutter=answers)


def entries(lock: Path) -> list[str]:
    """Split `lock` before each package: its head, then an entry for each."""
    return re.split(r"^(?=[a-z0-9])", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)


def tag(work: Path) -> None:
    """Put packages that only some answers need between tags, in the runtime lock."""
    head, *packages = entries(RUNTIME)
    needed: dict[str, set[str]] = {package: set() for package in packages}
    for answer in CONFIG["database"]:
        (work / "pyproject.toml").write_text(pyproject(database=answer), encoding="utf-8")
        subset = work / "subset.txt"
        subset.unlink(missing_ok=True)
        compile_lock(subset, work, "pyproject.toml", "--constraint", str(RUNTIME))
        for package in entries(subset)[1:]:
            needed[package].add(answer)  # KeyError: not the same bytes in every lock
    lines, open_tag = [head], ""
    for package, answers in needed.items():
        condition = CONDITIONS.get(frozenset(answers), "")
        if condition != open_tag:
            lines += ["# {% endif %}\n"] * bool(open_tag)
            lines += [f"# {{% if {condition} %}}\n"] * bool(condition)
        open_tag = condition
        lines.append(package)
    lines += ["# {% endif %}\n"] * bool(open_tag)
    RUNTIME.write_text("".join(lines), encoding="utf-8")


def lock(upgrade: bool) -> None:
    """Write the three locks, or raise `subprocess.CalledProcessError` with uv's reason printed."""
    if upgrade:
        for target in (RUNTIME, DEV, TESTS):
            target.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "pyproject.toml").write_text(pyproject(), encoding="utf-8")
        compile_lock(
            TESTS, work, "pyproject.toml", "--group", "dev", "--group", f"{ROOT}/pyproject.toml:dev"
        )
        compile_lock(RUNTIME, work, "pyproject.toml", "--constraint", str(TESTS))
        compile_lock(DEV, work, "--group", "dev", "--constraint", str(TESTS))
        tag(work)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--upgrade", action="store_true", help="take the newest of everything")
    lock(parser.parse_args().upgrade)
