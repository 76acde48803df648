"""A runner of pipelines: it executes the scripts of each job, and none of the actions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.commands import outcome
from tests.support.services import Service

PROGRAM = '#!/bin/sh\nprintf "%s\\n" "$0 $*" >>"$CALLS"\n'
# No registry has the image here, and it changes the kernel of the machine.
UNAVAILABLE = re.compile(
    r"docker run --privileged --rm tonistiigi/binfmt@sha256:\w+ --install arm64"
)


@dataclass(frozen=True)
class Script:
    """Commands that one shell runs."""

    text: str
    shell: tuple[str, ...]
    environment: dict[str, str]


def of_github(path: Path) -> dict[str, list[Script]]:
    """Return the `run:` lines of each job, in order."""
    jobs: dict[str, list[Script]] = {}
    workflow = yaml.safe_load(path.read_text("utf-8"))
    for name, job in workflow["jobs"].items():
        jobs[name] = []
        for step in job["steps"]:
            if "run" in step:
                # GitHub's commands for steps with `shell: bash`, and without a shell.
                pipefail = step.get("shell") == "bash"
                shell = ("bash", "-eo", "pipefail", "-c") if pipefail else ("bash", "-e", "-c")
                environment = workflow.get("env", {}) | step.get("env", {})
                jobs[name].append(Script(step["run"], shell, environment))
    return jobs


def of_gitlab(path: Path) -> dict[str, list[Script]]:
    """Return the `script:` lines of each job, which one shell runs."""
    jobs: dict[str, list[Script]] = {}
    pipeline: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    for name, job in pipeline.items():
        if not name.startswith(".") and "script" in job:
            inherited = pipeline.get(job.get("extends"), {})
            lines = [*inherited.get("before_script", []), *job["script"]]
            environment = inherited.get("variables", {}) | job.get("variables", {})
            jobs[name] = [Script("\n".join(lines), ("sh", "-e", "-c"), environment)]
    return jobs


class JobError(Exception):
    """A job that failed, with its output."""


@dataclass
class Runner:
    """A machine that runs the jobs of a service in a clean clone each."""

    service: Service
    folder: Path
    """For clones, all at one path, so that they share a cache of mypy."""
    registry: str
    variables: dict[str, str]
    outputs: dict[str, str] = field(default_factory=dict)
    """Values that one job hands to the next."""

    def __post_init__(self) -> None:
        programs = self.folder / "programs"
        programs.mkdir(parents=True, exist_ok=True)
        # These programs exist only on the platforms. The replacements record their calls.
        for name in "gh", "cosign", "apk":
            (programs / name).write_text(PROGRAM)
            (programs / name).chmod(0o755)
        # Credentials go to a configuration of the runner's own.
        config = self.folder / "docker"
        config.mkdir(exist_ok=True)
        plugins = Path(os.environ.get("DOCKER_CONFIG", Path.home() / ".docker")) / "cli-plugins"
        if plugins.is_dir() and not (config / "cli-plugins").exists():
            (config / "cli-plugins").symlink_to(plugins)
        self.calls.write_text("")

    @property
    def calls(self) -> Path:
        """Return the file with one line for each call of a program that is not here."""
        return self.folder / "calls"

    @property
    def clone(self) -> Path:
        """Return the folder in which a job runs."""
        return self.folder / "clone"

    def _value(self, match: re.Match[str]) -> str:
        name = match[1].rpartition(".")[2]
        return self.outputs[name] if ".outputs." in match[1] else {"token": "t0ken"}[name]

    def run(self, scripts: list[Script]) -> str:
        """Run a job's scripts in a new clone; return their output, or raise `JobError`."""
        shutil.rmtree(self.clone, ignore_errors=True)
        git = ("git", "clone", "--quiet", str(self.service.path), str(self.clone))
        subprocess.run(git, check=True)
        lend_venv(self.clone)
        printed = ""
        for script in scripts:
            output = self.folder / "output"
            output.write_text("")
            expression = re.compile(r"\$\{\{ (\S+) \}\}")
            substituted = {k: expression.sub(self._value, v) for k, v in script.environment.items()}
            environment: Mapping[str, str] = {
                **os.environ,
                # GitLab's variables may name each other.
                **{
                    k: re.sub(r"\$(\w+)", lambda m: self.variables[m[1]], v)
                    for k, v in substituted.items()
                },
                **self.outputs,
                **self.variables,
                "PATH": f"{self.folder / 'programs'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
                "CALLS": str(self.calls),
                "DOCKER_CONFIG": str(self.folder / "docker"),
                "GITHUB_OUTPUT": str(output),
                "MYPY_CACHE_DIR": str(self.folder / "mypy"),
            }
            text = UNAVAILABLE.sub(":", script.text).replace("ghcr.io", self.registry)
            assert "${{" not in text
            status, output_text = outcome(
                *script.shell, text, cwd=self.clone, env=environment, input=""
            )
            printed += f"$ {script.text}\n{output_text}"
            if status:
                raise JobError(printed)
            dotenv = self.clone / "image.env"
            for file in (output, dotenv) if dotenv.exists() else (output,):
                self.outputs |= dict(line.split("=", 1) for line in file.read_text().splitlines())
        return printed


def lend_venv(folder: Path) -> None:
    """Give a service a .venv that is this environment; `make venv` has tests of its own."""
    (folder / ".venv").mkdir()
    for name in "bin", "lib", "pyvenv.cfg":
        (folder / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    (folder / ".venv" / "installed").touch()
