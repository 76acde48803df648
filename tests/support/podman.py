"""Podman beside Docker, on a machine without systemd."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.commands import program
from tests.support.containers import docker

CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class Podman:
    """Podman with settings that need no systemd."""

    def __init__(self, folder: Path) -> None:
        for name in "podman", "catatonit", "runc":
            program(name, "podman catatonit netavark runc")
        (folder / "containers.conf").write_text(CONTAINERS_CONF)
        self.environment = os.environ | {"CONTAINERS_CONF": str(folder / "containers.conf")}
        self.environment.pop("DOCKER_CONFIG", None)

    def __call__(self, *arguments: str, text: str | None = None, check: bool = True) -> str:
        """Run a command; return its output, or fail with it."""
        done = subprocess.run(
            ["podman", *arguments],
            env=self.environment, input=text, text=True, capture_output=True, timeout=180,
        )  # fmt: skip
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done.stdout.strip()

    def take(self, image: str, folder: Path) -> None:
        """Load an image of Docker's."""
        docker("save", "--output", str(folder / "image.tar"), image)
        self("load", "--input", str(folder / "image.tar"))

    def address(self, container: str) -> str:
        """Return the address of a container's pod."""
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        infra = self("inspect", "--format", "{{.Pod}}", container)
        infra = self("pod", "inspect", "--format", "{{.InfraContainerID}}", infra)
        return self("inspect", "--format", form, infra)
