"""Candidates: built, run, put under load, and timed."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from hooks.post_gen_project import remove, unselected_paths

HERE = Path(__file__).parent
ROOT = HERE.parent
TEMPLATE = "{{cookiecutter.project_slug}}"

# A small package without requirements, as a developer adds it to a service.
NEW_DEPENDENCY = (
    "iniconfig==2.3.1"
    " --hash=sha256:67f4b9c50da0dedf52af349e7749a80a9057a5031199791b906c3bb3ae878960"
    " --hash=sha256:9121e2c1fdb355232495be3194c8dfe87ccc2d5dee45947b78e68f499790d7a7"
)


def run(*command: str | Path, timeout: float = 900) -> str:
    """Run `command`, for at most `timeout` seconds, and return what it prints.

    Raises `RuntimeError` with all of its output if it fails.
    """
    done = subprocess.run(command, text=True, capture_output=True, timeout=timeout)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def seconds(*command: str | Path) -> float:
    """Return the seconds that `command` takes."""
    begin = time.perf_counter()
    run(*command)
    return time.perf_counter() - begin


@dataclass(frozen=True)
class Candidate:
    """One of the compared services: a folder with a Dockerfile, and the values of its candidate.toml.

    In `base`, `command` and the values of environments, {python} and {workers} are replaced.
    """

    name: str
    folder: Path
    python: str
    """The version, which the Dockerfile takes as the argument PYTHON_VERSION."""
    base: str = "python:{python}-slim-trixie"
    """The image that its own bytes are counted from."""
    on: str = ""
    """The candidate on whose image this one is built; it has no size and build times of its own."""
    port: int = 8000
    ready: str = "/health"
    """A path that answers 200 as soon as the service can serve."""
    command: list[str] = field(default_factory=list)
    """What is run instead of the image's command."""
    environment: dict[str, str] = field(default_factory=dict)
    variants: dict[str, dict[str, str]] = field(default_factory=dict)
    """Names and more environment for the same image under load."""
    endpoints: dict[str, str] = field(
        default_factory=lambda: {
            "root": "GET /",
            "read item": "GET /items/42?q=tea",
            "create item": "POST /items/",
            "health": "GET /health",
        }
    )
    changed: str = "app/main.py"
    """The Python file in which a developer changes something."""
    requirements: str = "requirements.txt"
    answers: dict[str, str | bool] = field(default_factory=dict)
    """For a folder without a Dockerfile: the answers from which this template renders one."""

    @property
    def image(self) -> str:
        """Return the tag that the image gets."""
        return f"fastapi-benchmark/{self.name}"


def load_candidate(name: str, folder: Path, work: Path, python: str | None) -> Candidate:
    """Read a candidate, in `work`: a copy of its folder, or a service rendered for it.

    `python` replaces the Python version of each candidate.
    """
    settings = tomllib.loads((folder / "candidate.toml").read_text(encoding="utf-8"))
    candidate = Candidate(name, work / name, **settings | ({"python": python} if python else {}))
    if (folder / "Dockerfile").exists():
        shutil.copytree(folder, candidate.folder)
    else:
        answers = {"python_version": candidate.python, **candidate.answers}
        render(copy_template(work / "template"), work, project_slug=name, **answers)
    return candidate


def load_databases(work: Path, python: str | None) -> list[Candidate]:
    """Read ours with each database, each followed by the candidates that use its driver alone."""
    folder = HERE / "candidates"
    found = []
    for database in ("sqlite", "postgresql"):
        driver = load_candidate(f"{database}-driver", folder / "driver", work, python)
        ours = load_candidate(database, folder / database, work, python)
        found += [ours, replace(driver, on=database)]
    return found


# --- Images -------------------------------------------------------------------------------------


def build(candidate: Candidate, *options: str) -> float:
    """Build the candidate's image; return the seconds that it takes."""
    arguments = [f"--build-arg=PYTHON_VERSION={candidate.python}"]
    if candidate.on:
        arguments = [f"--build-arg=ON=fastapi-benchmark/{candidate.on}"]
    return seconds(
        *("docker", "build", "--quiet", "--tag", candidate.image),
        *arguments,
        *options,
        candidate.folder,
    )


def build_first(candidate: Candidate) -> float:
    """Build as on a machine that has the base image alone: no layer and no wheel."""
    dockerfile = candidate.folder / "Dockerfile"
    original = dockerfile.read_text(encoding="utf-8")
    # A cache of another name is an empty one; emptying theirs would take it from the user's builds.
    empty = original.replace("--mount=type=cache,", f"--mount=type=cache,id={uuid.uuid4().hex},")
    other = dockerfile.with_name("Dockerfile.first")
    other.write_text(empty, encoding="utf-8")
    try:
        return build(candidate, "--no-cache", "--file", str(other))
    finally:
        other.unlink()


def rebuild(candidate: Candidate, file: str, line: str) -> float:
    """Build again after `line`, made unique, was added to `file`, and take the line out again."""
    path = candidate.folder / file
    original = path.read_text(encoding="utf-8")
    if "--hash" not in original:
        line = line.partition(" --hash")[0]  # pip wants hashes for all or none
    path.write_text(f"{original}{line}  # {uuid.uuid4().hex}\n", encoding="utf-8")
    try:
        return build(candidate)
    finally:
        path.write_text(original, encoding="utf-8")


def megabytes(image: str) -> float:
    """Return the size of an image's layers, in MB (10^6 bytes)."""
    layers = run("docker", "history", "--human=false", "--format", "{{.Size}}", image)
    return sum(map(int, layers.split())) / 1e6


def packages(image: str) -> dict[str, str]:
    """Return name and version of Python and all packages in an image."""
    program = (
        "import importlib.metadata as m, json, platform;"
        "print(json.dumps({'python': platform.python_version()}"
        " | {d.name.lower(): d.version for d in m.distributions()}))"
    )
    found: dict[str, str] = json.loads(run("docker", "run", "--rm", image, "python", "-c", program))
    return found


# --- Containers ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cores:
    """The cores of the services and of wrk, as `--cpuset-cpus` takes them."""

    one: str
    """The core of the server where it has one."""
    two: str
    """The cores of the server where it has two."""
    load: str
    """The load generator's core, a different one where there are enough."""
    database: str
    """The database server's core, a third one where there are enough."""

    @classmethod
    def of(cls, count: int) -> Cores:
        """Divide a machine with `count` cores."""
        two = list(map(str, range(min(count, 2))))
        return cls("0", ",".join(two), str(count - 1), two[-1])


@contextmanager
def container(
    candidate: Candidate, cores: str, workers: int, environment: dict[str, str] | None = None
) -> Iterator[tuple[str, float]]:
    """Run a candidate; yield its name and the seconds from `docker run` to the first 200."""
    name = f"benchmark-{uuid.uuid4().hex[:12]}"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    variables = candidate.environment | (environment or {})
    command = [
        *("docker", "run", "--detach", "--name", name, "--cpuset-cpus", cores),
        *("--publish", f"127.0.0.1:{port}:{candidate.port}"),
        *(f"--env={key}={value.format(workers=workers)}" for key, value in variables.items()),
        # Docker's default driver with a limit, because its file would grow without one.
        *("--log-driver", "json-file", "--log-opt", "max-size=10m"),
        candidate.image,
        *(part.format(workers=workers) for part in candidate.command),
    ]
    try:
        begin = time.perf_counter()
        run(*command)
        wait_ready(port, candidate.ready, name)
        yield name, time.perf_counter() - begin
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True)


def wait_ready(port: int, path: str, name: str, limit: float = 60) -> None:
    """Wait at most `limit` seconds for 200, asking every 10 ms."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.01)
    raise RuntimeError(f"{name} is not ready\n{run('docker', 'logs', name)}")


def wait_healthy(name: str, limit: float = 60) -> float:
    """Wait at most `limit` seconds until Docker calls the container healthy; return how long."""
    begin = time.monotonic()
    while run("docker", "inspect", "--format", "{{.State.Health.Status}}", name) != "healthy":
        if time.monotonic() > begin + limit:
            raise RuntimeError(f"{name} is not healthy")
        time.sleep(0.02)
    return time.monotonic() - begin


def mebibytes(name: str) -> float:
    """Return the memory of a container as `docker stats` shows it, in MiB."""
    usage = run("docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", name).split(" /")[0]
    number = usage.rstrip("BKMGi")
    return (
        float(number) * {"B": 2**-20, "KiB": 2**-10, "MiB": 1, "GiB": 2**10}[usage[len(number) :]]
    )


def cpu_seconds(name: str) -> float:
    """Return the CPU time that a container has used, by cgroup v2 or v1."""
    files = "cat /sys/fs/cgroup/cpu.stat 2>/dev/null || cat /sys/fs/cgroup/cpuacct/cpuacct.usage"
    printed = run("docker", "exec", name, "sh", "-c", files).split()
    return int(printed[1]) / 1e6 if printed[0] == "usage_usec" else int(printed[0]) / 1e9


LOAD = "fastapi-benchmark/load"


def load(
    candidate: Candidate,
    name: str,
    cores: str,
    endpoint: str,
    duration: int,
    connections: int = 64,
    size: int = 100,
) -> dict[str, float]:
    """Ask one endpoint for `duration` seconds over `connections`, each a request after the other.

    Returns requests a second, the server's CPU time for each in µs, and percentiles of the latency
    in ms. POST bodies have `size` bytes.
    Raises `RuntimeError` if any request failed, or none was answered.
    """
    method, path = endpoint.split(" ", 1)
    begin = cpu_seconds(name)
    printed = run(
        *("docker", "run", "--rm", "--network", f"container:{name}", "--cpuset-cpus", cores, LOAD),
        *("--connections", str(connections), "--duration", f"{duration}s"),
        f"http://127.0.0.1:{candidate.port}{path}",
        *("--", method, str(size)),
        timeout=duration + 60,
    )
    result: dict[str, float] = json.loads(printed.splitlines()[-1])
    if result.pop("errors") or not result["requests"]:
        raise RuntimeError(f"{candidate.name}: requests failed\n{printed}")
    requests = result.pop("requests")
    cpu = (cpu_seconds(name) - begin) / requests * 1e6
    return {"throughput": requests / result.pop("seconds"), "cpu": cpu, **result}


@contextmanager
def postgresql(cores: str) -> Iterator[str]:
    """Run an empty PostgreSQL server; yield the URL of its database."""
    name = f"benchmark-{uuid.uuid4().hex[:12]}"
    try:
        run(
            *("docker", "run", "--detach", "--name", name, "--cpuset-cpus", cores),
            *("--env=LANG=C.UTF-8", "--env=POSTGRES_USER=app", "--env=POSTGRES_PASSWORD=app"),
            "postgres:17",
        )
        # Over TCP, because the first server, which prepares the folder, listens on a socket alone.
        ready = ("docker", "exec", name, "pg_isready", "--quiet", "--host=127.0.0.1")
        deadline = time.monotonic() + 60
        while subprocess.run(ready, capture_output=True).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} is not ready\n{run('docker', 'logs', name)}")
            time.sleep(0.1)
        address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        host = run("docker", "inspect", "--format", address, name)
        yield f"postgresql+psycopg://app:app@{host}/app"
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True)


def driver(name: str, what: str, duration: int) -> dict[str, float]:
    """Read or create items for `duration` seconds in the container `name`, without its server.

    Returns requests a second and the CPU time for each in µs.
    """
    printed = run("docker", "exec", name, "python", "bare.py", what, str(duration))
    found: dict[str, float] = json.loads(printed)
    return found


# --- The template -------------------------------------------------------------------------------


def copy_template(folder: Path) -> Path:
    """Copy the files of this repository that Cookiecutter uses, without caches, and return the copy."""
    left_behind = shutil.ignore_patterns(".venv", "__pycache__", ".*_cache")
    for name in (TEMPLATE, "hooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=left_behind, dirs_exist_ok=True)
    for name in ("cookiecutter.json", "local_extensions.py"):
        shutil.copy(ROOT / name, folder)
    return folder


def plain_template(template: Path, folder: Path) -> Path:
    """Make a template of the same files without hook, extension and filters, and return its folder.

    Its time is that of Cookiecutter itself.
    """
    shutil.copytree(template, folder, ignore=shutil.ignore_patterns("hooks", "*.py[co]"))
    questions = folder / "cookiecutter.json"
    answers = json.loads(questions.read_text(encoding="utf-8"))
    # No hook removes the files of unselected options.
    defaults = {k: v[0] if isinstance(v, list) and k[0] != "_" else v for k, v in answers.items()}
    for unselected in unselected_paths(defaults):
        remove(folder / TEMPLATE, unselected)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        text = path.read_text(encoding="utf-8").replace("${{", "${{ '{{' }}")
        path.write_text(re.sub(r"({{ *cookiecutter\.\w+)[^}]*}}", r"\1 }}", text), encoding="utf-8")
    kept = {k: v for k, v in answers.items() if k[0] != "_" or k == "_jinja2_env_vars"}
    questions.write_text(json.dumps(kept), encoding="utf-8")
    return folder


def render(template: Path, into: Path, **answers: str | bool) -> float:
    """Run `cookiecutter` in a process of its own; return the seconds that it takes."""
    configuration = template.with_name(f"{template.name}.yaml")
    # Not the user's own folders.
    configuration.write_text(
        f"replay_dir: {template}.replay\ncookiecutters_dir: {template}.cookiecutters\n",
        encoding="utf-8",
    )
    return seconds(
        *(sys.executable, "-m", "cookiecutter", "--no-input", "--overwrite-if-exists"),
        *("--config-file", configuration, "--output-dir", into, template),
        *(f"{question}={answer}" for question, answer in answers.items()),
    )


def install(project: Path) -> float:
    """Make the project's .venv with uv or, without it, pip alone; return the seconds that it takes."""
    into = project / ".venv"
    python = into / "bin" / "python"
    requirements = [project / "requirements.txt", project / "requirements-dev.txt"]
    what = ["--require-hashes", *(part for path in requirements for part in ("-r", path))]
    begin = time.perf_counter()
    if uv := shutil.which("uv"):
        run(uv, "venv", "--quiet", "--no-project", "--python", sys.executable, into)
        run(uv, "pip", "install", "--quiet", "--python", python, *what)
    else:
        run(sys.executable, "-m", "venv", into)
        run(python, "-m", "pip", "install", "--quiet", *what)
    return time.perf_counter() - begin
