"""Write the locks: the service's two, and the one for the tests of the template.

    python scripts/lock.py             keep what still fits, add what is missing
    python scripts/lock.py --upgrade   take the newest of everything

All three come out of one resolution, so a package has one version everywhere. Needs the network.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SERVICE = ROOT / "{{cookiecutter.project_slug}}"
RUNTIME = SERVICE / "requirements.txt"
DEV = SERVICE / "requirements-dev.txt"
TESTS = ROOT / "tests" / "requirements.txt"
OLDEST_PYTHON = "3.11"


def compile_lock(target: Path, work: Path, *arguments: str) -> None:
    """Resolve `arguments`, as `uv pip compile` takes them, for every Python and platform into `target`.

    The options are those of the service's own `make lock`, which would write the same bytes.
    """
    subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"),
            *("--python-version", OLDEST_PYTHON, "--generate-hashes", "--no-annotate"),
            # The image installs wheels alone. Not every Python has a wheel of what only tests need.
            *(["--no-build"] if target != TESTS else []),
            *("--output-file", str(target)),
            *arguments,
        ],
        cwd=work,
        env=os.environ
        | {
            "UV_CUSTOM_COMPILE_COMMAND": "scripts/lock.py" if target == TESTS else "make lock",
            "UV_PYTHON_DOWNLOADS": "never",
        },
        check=True,
    )


def lock(upgrade: bool) -> None:
    """Write the three locks, or raise `subprocess.CalledProcessError` with uv's reason printed."""
    if upgrade:
        for target in (RUNTIME, DEV, TESTS):
            target.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        # The service's name is an answer, and no installer reads it before it is given.
        project = (SERVICE / "pyproject.toml").read_text(encoding="utf-8")
        project = project.replace("{{ cookiecutter.project_slug }}", "service")
        (work / "pyproject.toml").write_text(project, encoding="utf-8")
        compile_lock(
            TESTS, work, "pyproject.toml", "--group", "dev", "--group", f"{ROOT}/pyproject.toml:dev"
        )
        compile_lock(RUNTIME, work, "pyproject.toml", "--constraint", str(TESTS))
        compile_lock(DEV, work, "--group", "dev", "--constraint", str(TESTS))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--upgrade", action="store_true", help="take the newest of everything")
    lock(parser.parse_args().upgrade)
