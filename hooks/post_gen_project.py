"""Finish a generated project: drop what was not chosen, make its .venv, say what is next.

Cookiecutter renders this file and runs the copy, with its own Python, in the project's folder.
When a hook fails Cookiecutter deletes the project, so trouble with .venv never makes it fail.
"""

from __future__ import annotations

import functools
import io
import json
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CONTEXT = r"""{{ cookiecutter | tojson }}"""
# Folders of features whose files take the place of others, where they were chosen.
INSTEAD = ["stateless"]
SUPPORTED = ["3.15", "3.14", "3.13", "3.12", "3.11"]
INSTALL = ["install", "--require-hashes", "-r", "requirements.txt", "-r", "requirements-dev.txt"]
INSPECT = """import os, sys
version = "%d.%d" % sys.version_info[:2]
path = os.path.join(sys.base_prefix, "bin", "python" + version)
base = getattr(sys, "_base_executable", None) or sys.executable
print(version, path if os.path.exists(path) else os.path.realpath(base))"""
SETTINGS = {
    "pip": ["pip.conf", "pip/pip.conf", ".pip/pip.conf", "pip/pip.ini"],
    "uv": ["uv/uv.toml"],
}
# How the package index is reached is the user's to say; what to install, and where, is not.
OURS = re.compile(r"(PIP|UV)_|PYTHON|VIRTUAL_ENV$|__PYVENV_LAUNCHER__$|(CLICOLOR_)?FORCE_COLOR$")
THEIRS = re.compile(
    r"(PIP|UV)_\w*(INDEX|URL|LINKS|PROXY|CERT|TLS|HOST|HTTP|TIMEOUT|RETRIES|CACHE|CONFIG|KEYRING"
    r"|OFFLINE|DOWNLOADS|MIRROR|INSTALL_DIR)"
)


class Trouble(Exception):  # noqa: N818 - nothing ends because of it
    """Why there is no virtual environment, in words for the user."""


def unwanted_paths(context: Mapping[str, Any]) -> list[Path]:
    """Return the paths of features that were not chosen, but none that a chosen one shares.

    A feature is a yes/no question (`metrics`) or a question with an answer (`database=sqlite`).
    """
    paths: dict[bool, set[str]] = {True: set(), False: set()}
    for feature, listed in context["_features"].items():
        question, _, value = feature.partition("=")
        paths[context[question] == (value or True)].update(listed)
    return sorted(map(Path, paths[False] - paths[True]))


def is_comparison(context: Mapping[str, Any], folder: Path, temporary: str) -> bool:
    """Tell whether cruft renders this only to compare two versions of the template.

    cruft alone passes `_commit`, and it updates in a `tempfile.TemporaryDirectory()`.
    """
    parent = folder.resolve().parent
    inside = parent.parent == Path(temporary).resolve()
    return "_commit" in context and inside and bool(re.fullmatch(r"tmp\w{8}", parent.name))


def venv_python(windows: bool) -> str:
    """Return the path of the Python in .venv."""
    return r".venv\Scripts\python" if windows else ".venv/bin/python"


def next_commands(folder: str, context: Mapping[str, Any], made: bool, windows: bool) -> list[str]:
    """Return what to type next; on Windows it works in cmd and in PowerShell."""
    if not windows:
        return [f"cd {shlex.quote(folder)}", "make test" if made else "make venv", "make dev"]
    version, port = context["python_version"], context["port"]
    venv = [f"py -{version} -m venv .venv", f"{venv_python(True)} -m pip {' '.join(INSTALL)}"]
    serve = rf".venv\Scripts\uvicorn app.main:app --reload --reload-dir app --port {port}"
    run = [f"{venv_python(True)} -m pytest", serve]
    return [f'pushd "{folder}"', *(run if made else venv)]


def nearest(folder: Path, env: Mapping[str, str]) -> str:
    """Return the shortest name of `folder` that is right in the shell that started all this."""
    near = Path(env.get("PWD", folder), folder.name)
    return folder.name if os.path.realpath(near) == os.path.realpath(folder) else str(folder)


def environment(current: Mapping[str, str]) -> dict[str, str]:
    """Return `current` without what would lead pip, uv or Python astray."""
    kept = {k: v for k, v in current.items() if THEIRS.match(k) or not OURS.match(k)}
    return {"PIP_RETRIES": "2", "UV_HTTP_RETRIES": "2"} | kept | {"PIP_USER": "0"}


def index_urls(tool: str, env: Mapping[str, str]) -> list[str]:
    """Return the indexes that pip or uv would ask; none where only the tool itself can know."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is none
    folders = ["/etc", "/etc/xdg", home, f"{home}/.config", f"{home}/Library/Application Support"]
    folders += [env[name] for name in ("XDG_CONFIG_HOME", "APPDATA", "PROGRAMDATA") if name in env]
    files = [Path(folder, name) for folder in folders for name in SETTINGS[tool]]
    prefix = f"{tool.upper()}_"
    told = "".join(f"{k.removeprefix(prefix)}={env[k]}\n" for k in env if k.startswith(prefix))
    for file in [*files, Path(env.get(f"{prefix}CONFIG_FILE", os.devnull))]:
        with suppress(OSError):
            told += file.read_text(encoding="utf-8", errors="replace") + "\n"
    if re.search(r"(?im)^\s*(proxy|no.index)\s*[=:]", told):
        return []
    key = r"(?im)^\s*(?:index.url|default.index|url)\s*[=:]\s*"
    urls = re.findall(key + r"[\"']?([^\s\"']+)", told) or ["https://pypi.org/simple/"]
    return urls if all(url.startswith("http") for url in urls) else []


def responds(url: str, seconds: float) -> bool:
    """Tell whether anybody is there, whatever the answer; heed proxies."""
    try:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - http alone gets here
        urllib.request.build_opener().open(request, timeout=seconds).close()
    except urllib.error.HTTPError as error:
        error.close()  # somebody: this is an answer
    except Exception as error:  # nobody, unless connected: a certificate, a slow reply
        reason = getattr(error, "reason", None)
        return isinstance(reason, ssl.SSLError) or not isinstance(reason, OSError)
    return True


def reachable(urls: list[str], seconds: float = 2.5) -> bool:
    """Tell within `seconds` whether any of `urls` answers.

    The thread is for the lookup of names, which heeds no limit. Connecting gets less than all of
    the time, so that who takes a connection and is slow to answer still counts.
    """
    found: list[bool] = []

    def ask() -> None:
        found.append(any(responds(url, seconds - 0.5) for url in urls))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return not urls or found == [True]


def say(text: str, end: str = "\n") -> None:
    """Print now; a reader that went away (`| head`) is no reason to fail."""
    try:
        print(text, end=end, flush=True)
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Say what is being done, then how long it took."""
    say(f"{text} ...", end=" ")
    started = time.monotonic()
    try:
        yield
    except BaseException:
        say("failed")
        raise
    say(f"{time.monotonic() - started:.1f} s")


def run(command: list[str], seconds: float) -> str:
    """Return what `command` prints; kill it and its children when it must not go on."""
    with subprocess.Popen(
        command,
        env=environment(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="surrogateescape",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except BaseException as error:
            process.kill()
            with suppress(AttributeError, OSError):  # Windows has no process groups
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise Trouble(f"{command[0]} took more than {seconds:.0f} s") from None
            raise
    if process.returncode:
        raise Trouble(last_words(output) or f"{command[0]}: exit {process.returncode}")
    return output


def last_words(output: str) -> str:
    """Return the lines in which pip, uv or Python says what went wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")] or lines
    causes = [line for line in lines if line.lower().startswith("cause")]
    return "; ".join(errors[-1:] + causes[-1:])[:300]


@functools.cache
def inspect(command: tuple[str, ...]) -> tuple[str, str] | None:
    """Return an interpreter's version and path; for one in a virtual environment, its base's."""
    try:
        answer = run([*command, "-I", "-X", "utf8", "-c", INSPECT], 10)
        version, path = answer.rstrip("\r\n").split(" ", 1)
    except (Trouble, OSError, ValueError):
        return None  # a shim without its Python, the Windows Store's stub, Python 2
    return version, path


def candidates(version: str, env: Mapping[str, str]) -> list[tuple[str, ...]]:
    """List the commands that may start Python `version`, the likeliest first."""
    pyenv = env.get("PYENV_ROOT") or env.get("PYENV") or os.path.expanduser("~/.pyenv")  # noqa: PTH111
    patches = [p for p in Path(pyenv).glob(f"versions/{version}.*") if p.suffix[1:].isdigit()]
    patches.sort(key=lambda path: int(path.suffix[1:]), reverse=True)
    folders = env.get("PATH", os.defpath).split(os.pathsep)
    folders += [str(patch / sub) for patch in patches for sub in ("bin", ".")]
    names = [f"python{version}", "python3", "python"]
    found = [shutil.which(name, path=folder) for name in names for folder in folders]
    launcher = shutil.which("py", path=env.get("PATH"))
    commands = [(path,) for path in [*found, sys.executable] if path]
    return [*commands, (launcher, f"-{version}")] if launcher else [*commands]


def find_python(versions: Iterable[str], env: Mapping[str, str]) -> tuple[str, str] | None:
    """Return version and path of the first of `versions` that is on this machine."""
    commands = ((version, c) for version in versions for c in candidates(version, env))
    return next((found for v, c in commands if (found := inspect(c)) and found[0] == v), None)


def make_venv(asked: str, name: str) -> None:
    """Make .venv with the Python asked for and install both locks, or raise `Trouble`."""
    uv = shutil.which("uv")
    with step(f"Looking for Python {asked} and the package index"):
        found = find_python([asked], os.environ)
        urls = index_urls("uv" if uv else "pip", os.environ)
        online = reachable(urls)
    hosts = " or ".join(str(urlsplit(url).hostname) for url in urls)  # the rest may hold a password
    unreachable = Trouble(f"the package index ({hosts}) cannot be reached", "Once it can be")
    if not uv and not online:
        raise unreachable
    offline = [] if online else ["--offline"]  # uv may have it all in its cache
    venv = [str(uv), "venv", "--no-project", *offline, "--prompt", name, ".venv", "--python"]
    if uv and not found:
        with suppress(Trouble), step(f"Asking uv for Python {asked}, for 2 minutes at most"):
            run([*venv, asked], 120)
    if not Path(".venv").exists():
        version, base = found or find_python(SUPPORTED, os.environ) or ("", "")
        if not base:
            todo = f"After installing Python {asked} (https://www.python.org/downloads/)"
            raise Trouble("no Python 3.11 to 3.15 is on this machine", todo)
        if not uv:
            try:
                run([base, "-I", "-c", "import ensurepip, venv"], 10)
            except Trouble:
                todo = f"After `apt install python{version}-venv` (Debian, Ubuntu) or installing uv"
                raise Trouble(f"Python {version} came without ensurepip", todo) from None
            venv = [base, "-I", "-m", "venv", "--prompt", name, ".venv"]
        why = "" if version == asked else f", for want of {asked}"
        with step(f"Making .venv with Python {version}{why}"):
            run([*venv, base] if uv else venv, 120)
    python = venv_python(os.name == "nt")
    pip = [python, "-I", "-m", "pip", *INSTALL, "--no-compile", "--disable-pip-version-check"]
    with step(f"Installing what the two locks list with {'uv' if uv else 'pip'}"):
        try:
            run([uv, "pip", *INSTALL, *offline, "--python", python] if uv else pip, 600)
        except Trouble as trouble:
            raise (trouble if online else unreachable) from None


def try_venv(context: Mapping[str, Any], later: str) -> bool:
    """Make .venv; whatever stops that, leave none, and say in one line why and what to do."""
    names = ("SIGTERM", "SIGHUP", "SIGBREAK")
    stops = [signal.Signals[name] for name in names if hasattr(signal, name)]
    for stop in stops:
        if signal.getsignal(stop) is signal.SIG_DFL:
            signal.signal(stop, signal.default_int_handler)
    try:
        make_venv(context["python_version"], context["project_slug"])
    except KeyboardInterrupt:
        trouble = Trouble("interrupted", "Whenever you like")
    except Trouble as error:
        trouble = error
    except Exception as error:
        trouble = Trouble(f"{type(error).__name__}: {error}")
    else:
        return True
    for stop in [signal.SIGINT, *stops]:
        signal.signal(stop, signal.SIG_IGN)
    shutil.rmtree(".venv", ignore_errors=True)
    what, todo = (*trouble.args, "Once that is mended")[:2]
    say(f"No .venv: {what}. {todo}: {later}")
    return False


def main(context: dict[str, Any]) -> None:
    """Do all of it; whatever becomes of .venv, the project is complete."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    for path in unwanted_paths(context):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for folder in filter(Path.is_dir, map(Path, INSTEAD)):
        shutil.copytree(folder, ".", dirs_exist_ok=True)
        shutil.rmtree(folder)
    folder, windows = Path.cwd(), os.name == "nt"
    if is_comparison(context, folder, tempfile.gettempdir()):
        return
    made = os.path.lexists(".venv")
    if made:
        say("Left .venv as it is.")
    elif context["create_venv"]:
        made = try_venv(context, next_commands("", context, False, windows)[1])
    say("Next:")
    for command in next_commands(nearest(folder, os.environ), context, made, windows):
        say(f"    {command}")


if __name__ == "__main__":
    parsed = json.loads(CONTEXT)  # fails in the repository, before anything is touched
    try:
        main(parsed)
    finally:
        with suppress(OSError):
            Path(__file__).unlink()  # holds the answers; Cookiecutter would leave it for ever
