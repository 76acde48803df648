"""Make .venv, or bring it up to date, with uv or with venv and pip: `python3 scripts/make_venv.py`.

It takes the Python that the Dockerfile names, or the nearest one on this machine, and installs both
locks. If that fails, the last line says why, a new .venv is removed, and the exit status is 1.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUPPORTED = range(11, 16)  # 3.11 to 3.15
PYTHON = r".venv\Scripts\python.exe" if os.name == "nt" else ".venv/bin/python"
LOCKS = ("-r", "requirements.txt", "-r", "requirements-dev.txt")
# The user's settings for reaching an index are kept. These would change the packages or their place.
DROPPED = {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_CONSTRAINT"}
DROPPED |= {"PIP_NO_BINARY", "UV_NO_BINARY", "UV_CONSTRAINT", "UV_PYTHON", "UV_SYSTEM_PYTHON"}
DROPPED |= {"PIP_PYTHON", "PIP_ROOT", "PIP_DRY_RUN", "PIP_REQUIREMENT", "UV_OVERRIDE"}
AGAIN = r"py scripts\make_venv.py" if os.name == "nt" else "python3 scripts/make_venv.py"


class VenvError(Exception):
    """The reason why there is no .venv."""


def run(*command: str, seconds: float, **variables: str) -> str:
    """Return what `command` prints; raise `VenvError` with the line that says why it failed."""
    kept = {name: value for name, value in os.environ.items() if name not in DROPPED}
    try:
        done = subprocess.run(
            command,
            env=kept | {"PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"} | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise VenvError(f"{Path(command[0]).name} took more than {seconds:.0f} s") from None
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith(("error", "cause"))]
        raise VenvError((errors or lines or [f"exit status {done.returncode}"])[-1])
    return done.stdout


def interpreters() -> Iterator[list[str]]:
    """Yield the commands that may start a Python."""
    yield [sys.executable]
    names = [*(f"python3.{minor}" for minor in SUPPORTED), "python3", "python"]
    for folder in os.get_exec_path():
        yield from ([path] for name in names if (path := shutil.which(name, path=folder)))
    if launcher := shutil.which("py"):  # of Windows
        yield from ([launcher, f"-3.{minor}"] for minor in SUPPORTED)


def find_python(asked: int) -> tuple[int, str] | None:
    """Return minor version and path of the supported Python that is nearest to 3.`asked`."""
    found: dict[int, str] = {}
    code = "import sys; print(sys.version_info[1], sys.executable)"
    for command in interpreters():
        try:
            minor, path = run(*command, "-I", "-c", code, seconds=10).rstrip().split(" ", 1)
        except (VenvError, OSError, ValueError):
            continue  # a name without a Python behind it, as pyenv has
        if int(minor) in SUPPORTED:
            found.setdefault(int(minor), path)
    return min(found.items(), key=lambda each: abs(each[0] - asked), default=None)


def usable(uv: str | None) -> bool:
    """Tell whether .venv has a Python of its own, and pip where there is no uv."""
    code = f"import sys{'' if uv else ', pip._internal'}; sys.exit(sys.prefix == sys.base_prefix)"
    try:
        run(PYTHON, "-I", "-c", code, seconds=60)  # on a slow disk, too: create() clears the folder
    except (VenvError, OSError):
        return False
    return True


def create(asked: int, uv: str | None) -> None:
    """Make .venv, without packages."""
    found = find_python(asked)
    command = [str(uv), "venv", "--quiet", "--no-project", "--clear", ".venv", "--python"]
    if uv and (found is None or found[0] != asked):
        print(f"Asking uv for Python 3.{asked} ...", flush=True)
        try:
            run(
                *command,
                f"3.{asked}",
                seconds=120,
                UV_HTTP_CONNECT_TIMEOUT="3",
                UV_HTTP_RETRIES="0",
            )
        except VenvError:
            pass
        else:
            return
    if found is None:
        raise VenvError(
            f"no Python 3.11 to 3.15 is on this machine; install Python 3.{asked} or uv"
        )
    minor, python = found
    why = "" if minor == asked else f", because there is no 3.{asked}"
    print(f"Making .venv with Python 3.{minor}{why} ...", flush=True)
    if uv is None:
        try:
            run(python, "-I", "-c", "import ensurepip, venv", seconds=10)
        except VenvError:
            todo = f"install python3.{minor}-venv (Debian, Ubuntu) or uv"
            raise VenvError(f"Python 3.{minor} came without ensurepip; {todo}") from None
        command = [python, "-I", "-m", "venv", "--clear", ".venv"]
    run(*command, *([python] if uv else []), seconds=120)


def install(uv: str | None) -> None:
    """Install the locked packages into .venv."""
    print(f"Installing the locked packages with {'uv' if uv else 'pip'} ...", flush=True)
    command = (
        [uv, "pip", "install", "--python", PYTHON] if uv else [PYTHON, "-I", "-m", "pip", "install"]
    )
    # Only pip and uv know mirrors and proxies, but retry for minutes. One package shows if they work.
    lock = Path("requirements.txt").read_text("utf-8")
    first = re.findall(r"^[\w.-]+==[\w.]+", lock, re.MULTILINE)[0]
    try:
        run(
            *command,
            "--dry-run",
            "--no-deps",
            first,
            seconds=6,
            PIP_RETRIES="0",
            UV_HTTP_RETRIES="0",
            PIP_REQUIRE_HASHES="0",
            UV_REQUIRE_HASHES="0",
        )
    except VenvError as error:
        raise VenvError(f"the package index cannot be reached ({error})") from None
    run(*command, "--require-hashes", *LOCKS, seconds=600)


def main() -> int:
    """Return the exit status."""
    stops = [getattr(signal, f"SIG{name}", signal.SIGINT) for name in ("INT", "TERM", "HUP")]
    for stop in stops:
        signal.signal(stop, signal.default_int_handler)
    os.chdir(ROOT)
    uv, new = shutil.which("uv"), not os.path.lexists(".venv")
    try:
        if not usable(uv):
            dockerfile = Path("Dockerfile").read_text("utf-8")
            create(
                int(re.findall(r"^ARG PYTHON_VERSION=3\.(\d+)", dockerfile, re.MULTILINE)[0]), uv
            )
        install(uv)
        Path(".venv", "installed").touch()  # for make, which compares its time with the locks'
    except (Exception, KeyboardInterrupt) as error:
        for stop in stops:
            signal.signal(stop, signal.SIG_IGN)
        if new:
            shutil.rmtree(".venv", ignore_errors=True)
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        line = f"{'No .venv' if new else '.venv is not up to date'}: {reason}. Try again later: {AGAIN}"
        print(line.encode("ascii", "backslashreplace").decode(), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
