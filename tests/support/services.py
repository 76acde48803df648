"""Generated services: the tested answers, and the files of each."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hooks.post_gen_project import OVERLAYS, unselected_paths
from tests.support.commands import free_port, run, wait_until
from tests.support.repository import CONFIG, DEFAULTS, TEMPLATE, sources

# Each option of each menu is in at least one set. More combinations would render the same lines again.
COMBINATIONS = [
    {},
    {
        "python_version": "3.15",
        "port": 1024,
        "workers": "auto",
        "project_slug": "ab",
        "database": "postgresql",
        "ci": "gitlab",
        "kubernetes": "yes",
    },
    {
        "python_version": "3.13",
        "database": "none",
        "port": 65535,
        "workers": 64,
        "ci": "none",
        "kubernetes": "yes",
        "project_name": "Ünïcode 'n' \"quotes\"",
    },
    {
        "python_version": "3.12",
        "port": 8080,
        "workers": 1,
        "project_slug": "a" * 50,
        "database": "postgresql",
    },
    {
        "python_version": "3.11",
        "port": 9000,
        "workers": 2,
        "ci": "gitlab",
        "description": r"C:\new \u0041 $x #1 `y`",
    },
]


def files(answers: Mapping[str, object]) -> list[str]:
    """List the files of a service with `answers`: the template's, without those of other features."""
    context = {**DEFAULTS, **answers, "_features": CONFIG["_features"]}
    gone = [*unselected_paths(context), *OVERLAYS]
    names = (path.relative_to(TEMPLATE) for path in sources())
    kept = (name for name in names if not any(name.is_relative_to(path) for path in gone))
    return sorted(name.as_posix() for name in kept)


@dataclass(frozen=True)
class Service:
    """A generated service, as a folder and the answers that made it."""

    path: Path
    answers: dict[str, str | bool]

    def files(self) -> list[str]:
        """List every file, relative, with forward slashes, sorted."""
        return sorted(
            p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file()
        )

    def copy(self, folder: Path) -> Service:
        """Return a copy in `folder`, which a test may change."""
        shutil.copytree(self.path, folder)
        return Service(folder, self.answers)

    def read(self, name: str) -> str:
        """Return the text of the file `name`."""
        return (self.path / name).read_text(encoding="utf-8")

    def run(self, *command: str, **environment: str) -> str:
        """Run `command` in the service's folder; return its output, or fail with it."""
        return run(*command, cwd=self.path, env=os.environ | environment)

    def fails(self, *command: str) -> str:
        """Run `command`, which must fail, in the service's folder; return its output."""
        return run(*command, cwd=self.path, status=None)

    def python(self, *arguments: str, **environment: str) -> str:
        """Run this Python, which has all of the service's packages, in the service's folder."""
        return self.run(sys.executable, *arguments, **environment)


Bake = Callable[..., Service]


@cache
def limits(folder: Path) -> dict[str, int]:
    """Return the defaults of the server's and the service's settings, by their variables."""
    code = (
        "from server.settings import ServerSettings as a; from app.settings import Settings as b;"
        "import json;"
        "both = a.model_fields | b.model_fields;"
        "print(json.dumps({k.upper(): f.default for k, f in both.items()}, default=str))"
    )
    defaults: dict[str, int] = json.loads(Service(folder, {}).python("-c", code))
    return defaults


@contextmanager
def serving(service: Path, *command: str, **environment: str) -> Iterator[dict[str, str]]:
    """Serve it as the image does, with this machine's Python; stop it afterwards.

    Yield its address, process id and log, as variables for a program.
    """
    port, log = free_port(), service.with_name("log")
    # No proxy, no settings of this machine.
    variables = {"PATH": os.environ["PATH"], "PORT": str(port), "WORKERS": "1", **environment}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *(command or ("-m", "server"))],
            cwd=service,
            env=variables,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: "startup complete" in log.read_text() or process.poll() is not None)
        yield {"ADDRESS": f"127.0.0.1:{port}", "PID": str(process.pid), "LOG": str(log)}
    except BaseException:
        print(log.read_text())
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=20)
    assert status == 0, log.read_text()
