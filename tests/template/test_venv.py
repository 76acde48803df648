"""The service's scripts/make_venv.py, which the hook and `make venv` run: .venv, or one line why not."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commands import commit, lacking, outcome, run
from tests.support.repository import CONFIG, TEMPLATE

SCRIPT = TEMPLATE / "scripts" / "make_venv.py"
specification = importlib.util.spec_from_file_location("make_venv", SCRIPT)
assert specification
assert specification.loader
script = importlib.util.module_from_spec(specification)
specification.loader.exec_module(script)

THIS = sys.version_info[1]
OTHER = 11 if THIS == 15 else 15
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def test_the_tests_leave_no_byte_code_in_the_template_folder() -> None:
    """Cookiecutter would copy it into services."""
    assert not Path(importlib.util.cache_from_source(str(SCRIPT))).is_relative_to(TEMPLATE)


# Finding an interpreter


def interpreter(folder: Path, name: str, version: int) -> str:
    """Write a program that says that it is Python 3.`version`; 0 is a name without a Python."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\necho {version} {program}\nexit {int(version == 0)}\n")
    program.chmod(0o755)
    return str(program)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder on PATH; the Python that runs the tests does not count, either."""
    monkeypatch.setattr(sys, "executable", interpreter(tmp_path, "none", 0))
    monkeypatch.setenv("PATH", f"{tmp_path / 'shims'}{os.pathsep}{tmp_path / 'bin'}")
    return tmp_path / "bin"


@pytest.mark.parametrize(
    ("installed", "asked", "expected"),
    [
        ({"python3": 15, "python3.12": 12}, 12, 12),
        ({"python3": 13}, 13, 13),
        ({"python3.13": 14}, 13, 14),  # a name that lies about its version
        ({"python3.11": 11, "python3.13": 13}, 14, 13),
        ({"python3.12": 12, "python3.15": 15}, 11, 12),
        ({"python3": 10, "python": 16}, 14, None),
        ({"python3.14": 0}, 14, None),
        ({}, 14, None),
    ],
)
def test_the_asked_python_or_else_the_nearest_supported_one_is_found(
    installed: dict[str, int], asked: int, expected: int | None, programs: Path
) -> None:
    for name, version in installed.items():
        interpreter(programs, name, version)
    found = script.find_python(asked)
    assert (found and found[0]) == expected


def test_broken_programs_are_skipped_and_the_windows_launcher_is_asked(programs: Path) -> None:
    interpreter(programs.parent / "shims", "python3.12", 0)
    wanted = interpreter(programs, "python3.12", 12)
    assert script.find_python(12) == (12, wanted)
    launcher = interpreter(programs, "py", 13)
    assert [launcher, "-3.13"] in list(script.interpreters())
    assert script.find_python(13) == (13, launcher)


def test_the_versions_that_the_template_offers_are_supported() -> None:
    assert sorted(CONFIG["python_version"]) == [f"3.{minor}" for minor in script.SUPPORTED]


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("Collecting idna\nERROR: Not found\nmore\n", "ERROR: Not found"),
        ("error: Failed\n  Caused by: expired\n", "Caused by: expired"),
        ("Traceback:\nOSError: no space\n", "OSError: no space"),
        ("", "exit status 3"),
    ],
)
def test_the_line_with_the_reason_is_found(output: str, reason: str) -> None:
    code = f"print({output!r}); raise SystemExit(3)"
    with pytest.raises(script.VenvError, match=f"^{re.escape(reason)}$"):
        script.run(sys.executable, "-c", code, seconds=30)


# An index with a package for each lock


def wheel(name: str) -> bytes:
    """Return a wheel of an empty module."""
    packed, info = io.BytesIO(), f"{name}-1.0.dist-info"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", wheel)
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n")
    return packed.getvalue()


DEMO, MORE = wheel("demo"), wheel("more")
LOCKED = {"requirements.txt": ("demo", DEMO), "requirements-dev.txt": ("more", MORE)}


@pytest.fixture
def index(tmp_path: Path) -> str:
    """Write an index of both packages; return its address."""
    for name, packed in LOCKED.values():
        folder, file = tmp_path / "simple" / name, f"{name}-1.0-py3-none-any.whl"
        folder.mkdir(parents=True)
        (folder / file).write_bytes(packed)
        (folder / "index.html").write_text(f'<!DOCTYPE html><a href="{file}">{file}</a>')
    return (tmp_path / "simple").as_uri()


def write_service(folder: Path, asked: int = THIS, digest: str = "") -> None:
    """Write what the script reads: the Dockerfile's Python, and locks of the index's packages."""
    (folder / "scripts").mkdir(parents=True, exist_ok=True)
    shutil.copy(SCRIPT, folder / "scripts")
    (folder / "Dockerfile").write_text(f"ARG PYTHON_VERSION=3.{asked}\n")
    for lock, (name, packed) in LOCKED.items():
        known = digest or hashlib.sha256(packed).hexdigest()
        (folder / lock).write_text(f"{name}==1.0 --hash=sha256:{known}\n")


class Machine:
    """A service's folder, and an environment in which the script runs."""

    def __init__(self, tmp_path: Path, tool: str, index: str) -> None:
        self.tmp_path = tmp_path
        self.folder = tmp_path / "my-service"
        self.command = [sys.executable, "-I"]
        self.programs = tmp_path / "programs"
        self.programs.mkdir()
        if tool == "uv":
            if UV is None:
                lacking("no uv on this machine")
            (self.programs / "uv").symlink_to(UV)
        self.env = {
            "PATH": str(self.programs),
            "HOME": str(tmp_path),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_CACHE_DIR": str(tmp_path / "pip-cache"),
            "UV_CACHE_DIR": str(tmp_path / "uv-cache"),
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_PYTHON_INSTALL_DIR": str(tmp_path / "no-python"),
        }
        self.use_index(index)
        write_service(self.folder)

    def use_index(self, url: str) -> None:
        self.env |= {"PIP_INDEX_URL": url, "UV_DEFAULT_INDEX": url}

    def run(self) -> tuple[int, str]:
        """Run the script; return its exit status and what it prints."""
        command = [*self.command, str(self.folder / "scripts" / "make_venv.py")]
        status, printed = outcome(*command, cwd=self.tmp_path, env=self.env, input="", timeout=120)
        assert "Traceback" not in printed
        return status, printed

    def makes_venv(self) -> str:
        """Run the script; check that .venv has both packages; return what it prints."""
        status, printed = self.run()
        assert status == 0, printed
        code = "import demo, more, sys; print(sys.version_info[1], sys.prefix)"
        python = self.folder / ".venv" / "bin" / "python"
        told = subprocess.check_output([python, "-I", "-c", code], encoding="utf-8")
        assert told == f"{THIS} {self.folder / '.venv'}\n"
        assert (self.folder / ".venv" / "installed").exists()
        return printed

    def fails(self) -> str:
        """Run the script; check that there is no .venv, and return the reason in the last line."""
        status, printed = self.run()
        assert status == 1, printed
        assert not os.path.lexists(self.folder / ".venv")
        assert printed.isascii()
        last = printed.splitlines()[-1]
        found = re.fullmatch(
            r"No \.venv: (.*)\. Try again later: python3 scripts/make_venv\.py", last
        )
        assert found, printed
        return found[1]


@pytest.fixture
def machine(request: pytest.FixtureRequest, tmp_path: Path, index: str) -> Machine:
    """Return a machine with uv, which is quicker, unless the test asks for pip."""
    return Machine(tmp_path, getattr(request, "param", "uv"), index)


with_pip = pytest.mark.parametrize("machine", ["pip"], indirect=True)
with_each_tool = pytest.mark.parametrize("machine", ["uv", "pip"], indirect=True)


# It works


@with_each_tool
def test_the_script_makes_a_venv_and_prints_each_step(machine: Machine) -> None:
    tool = "uv" if "uv" in {path.name for path in machine.programs.iterdir()} else "pip"
    assert machine.makes_venv().splitlines() == [
        f"Making .venv with Python 3.{THIS} ...",
        f"Installing the locked packages with {tool} ...",
    ]


def test_a_failed_update_leaves_the_venv(machine: Machine) -> None:
    machine.makes_venv()
    mine = machine.folder / ".venv" / "mine"
    mine.touch()
    (machine.folder / "requirements.txt").write_text("unknown==1.0 --hash=sha256:0\n")
    status, printed = machine.run()
    assert status == 1
    assert printed.splitlines()[-1].startswith(".venv is not up to date: ")
    assert mine.exists()


def test_without_the_asked_python_it_takes_the_nearest_and_says_so(machine: Machine) -> None:
    write_service(machine.folder, asked=OTHER)
    assert machine.makes_venv().splitlines()[:2] == [
        f"Asking uv for Python 3.{OTHER} ...",
        f"Making .venv with Python 3.{THIS}, because there is no 3.{OTHER} ...",
    ]


def other_venv_active(machine: Machine) -> None:
    other = machine.tmp_path / "other"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", other], check=True)
    machine.command[0] = str(other / "bin" / "python")
    machine.env["VIRTUAL_ENV"] = str(other)


def misleading_variables(machine: Machine) -> None:
    shadows = machine.tmp_path / "shadows"
    shadows.mkdir()
    for name in ("pip", "venv", "ensurepip", "demo"):
        (shadows / f"{name}.py").write_text("raise SystemExit('shadowed')")
    machine.env |= dict.fromkeys(script.DROPPED, str(shadows))
    del machine.env["PYTHONHOME"]  # which ends the Python that runs the script
    machine.env |= {"PIP_USER": "1", "UV_SYSTEM_PYTHON": "1", "PIP_NO_BINARY": ":all:"}


def odd_path(machine: Machine) -> None:
    machine.folder = machine.tmp_path / 'it\'s "odd" $HOME \N{GRINNING FACE}' / "my-service"
    write_service(machine.folder)
    machine.env["LC_ALL"] = "C"


def required_hashes(machine: Machine) -> None:
    machine.env |= {"PIP_REQUIRE_HASHES": "1", "UV_REQUIRE_HASHES": "1"}


def venv_without_pip(machine: Machine) -> None:
    """As uv makes it, or an interrupted `python -m venv`."""
    command = [sys.executable, "-m", "venv", "--without-pip", str(machine.folder / ".venv")]
    subprocess.run(command, check=True)


CONDITIONS: dict[str, Callable[[Machine], object]] = {
    "HOME unset": lambda machine: machine.env.pop("HOME"),
    "another venv active": other_venv_active,
    "variables that change what pip and uv install": misleading_variables,
    "spaces, quotes and emoji in the path": odd_path,
    "hashes required": required_hashes,
    "a .venv without pip": venv_without_pip,
}


@pytest.mark.slow
@pytest.mark.parametrize("condition", CONDITIONS)
@with_each_tool
def test_it_makes_a_venv_with(condition: str, machine: Machine) -> None:
    CONDITIONS[condition](machine)
    machine.makes_venv()


def test_a_venv_that_is_only_a_link_to_another_python_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As uv leaves it when it is killed: packages would go into that Python."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    assert not script.usable("uv")
    (tmp_path / ".venv" / "pyvenv.cfg").touch()
    assert script.usable("uv")


# It fails, and the last line has the reason


@with_each_tool
def test_without_a_network_one_line_has_the_reason(machine: Machine) -> None:
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-n", "true"], capture_output=True).returncode:
        lacking("this user may not take the network away")
    machine.use_index("http://127.0.0.1:9/simple/")
    machine.command = [unshare, "-n", *machine.command]
    started = time.monotonic()
    assert machine.fails().startswith("the package index cannot be reached (")
    assert (
        time.monotonic() - started < 30
    )  # the script waits 6 s; a machine that runs tests is slower


@pytest.mark.slow
@with_each_tool
@pytest.mark.parametrize("there", [True, False])
def test_an_index_that_does_not_answer_is_reported(there: bool, machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        machine.use_index(f"http://user:secret@127.0.0.1:{silent.getsockname()[1]}/simple/")
        if not there:
            silent.close()
        why = machine.fails()
    assert why.startswith("the package index cannot be reached (")
    assert ("took more than 6 s" in why) is there
    assert "secret" not in why


@pytest.mark.slow
@with_each_tool
def test_a_package_with_another_hash_is_refused(machine: Machine) -> None:
    write_service(machine.folder, digest="0" * 64)
    assert re.search("(?i)hash", machine.fails())


@pytest.mark.slow
@pytest.mark.parametrize("module", ["ensurepip", "venv"])
@with_pip
def test_a_python_without_ensurepip_or_venv_is_named(machine: Machine, module: str) -> None:
    """As Debian's is, without the package python3-venv."""
    home = machine.tmp_path / "python"
    library = home / "lib" / f"python3.{THIS}"
    library.mkdir(parents=True)
    for path in (Path(sys.base_prefix) / "lib" / library.name).iterdir():
        if path.name != module:
            (library / path.name).symlink_to(path)
    (home / "bin").mkdir()
    machine.command[0] = str(home / "bin" / library.name)
    shutil.copy(Path(sys.base_prefix) / "bin" / library.name, machine.command[0])
    done = subprocess.run([machine.command[0], "-c", f"import {module}"], capture_output=True)
    if b"ModuleNotFoundError" not in done.stderr:
        pytest.skip("this Python cannot be copied")
    assert machine.fails() == (
        f"Python 3.{THIS} came without ensurepip; install python3.{THIS}-venv (Debian, Ubuntu) or uv"
    )


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("#!/bin/sh\necho 'error: no luck' >&2\nexit 2\n", "error: no luck"),
        ("#!/bin/sh\nread line || echo 'error: nobody to ask' && exit 1\n", "nobody to ask"),
        ("not a program", "Exec format error"),
    ],
)
def test_the_reason_of_a_failing_uv_is_printed(machine: Machine, program: str, why: str) -> None:
    uv = machine.programs / "uv"
    uv.unlink()
    uv.write_text(program)
    uv.chmod(0o755)
    assert why in machine.fails()


@pytest.mark.slow
def test_a_read_only_folder_is_one_clear_line(machine: Machine) -> None:
    # Root may write everywhere, without this.
    rights = [str(shutil.which("setpriv")), "--bounding-set=-dac_override,-dac_read_search"]
    machine.command = rights * (os.geteuid() == 0) + machine.command
    machine.folder.chmod(0o555)
    assert "ermission denied" in machine.fails()
    machine.folder.chmod(0o755)


# `make venv`, Cookiecutter and cruft run it


@pytest.fixture
def small_template(template: Path, tmp_path: Path) -> Path:
    """Return the template with the small locks of the index."""
    copy = tmp_path / "small"
    shutil.copytree(template, copy)
    dockerfile = (copy / TEMPLATE.name / "Dockerfile").read_text("utf-8")
    write_service(copy / TEMPLATE.name)
    (copy / TEMPLATE.name / "Dockerfile").write_text(dockerfile, "utf-8")
    return copy


def generate(template: Path, out: Path, env: dict[str, str], *answers: str) -> str:
    """Generate a service with Cookiecutter's command; return what it prints."""
    shutil.rmtree(out / "my-service", ignore_errors=True)
    command = (sys.executable, "-m", "cookiecutter", str(template), "--default-config")
    return run(*command, "--no-input", "--output-dir", str(out), *answers, cwd=out, env=env)


def test_the_hook_makes_the_venv_and_make_brings_it_up_to_date(
    machine: Machine, small_template: Path
) -> None:
    machine.env["PATH"] += f"{os.pathsep}{os.environ['PATH']}"
    printed = generate(small_template, machine.tmp_path, machine.env, f"python_version=3.{THIS}")
    assert "Installing the locked packages with uv ...\nNext:\n" in printed
    assert "    make test\n" in printed

    def make() -> str:
        return run("make", "venv", cwd=machine.folder, env=machine.env)

    assert "make_venv.py" not in make()
    lock = machine.folder / "requirements.txt"
    os.utime(lock, (time.time() + 60, time.time() + 60))
    assert "make_venv.py" in make()
    shutil.rmtree(machine.folder / ".venv")
    os.utime(lock)
    make()
    machine.makes_venv()


def test_a_failed_venv_leaves_the_project_complete(machine: Machine, small_template: Path) -> None:
    machine.use_index("http://127.0.0.1:9/simple/")
    printed = generate(small_template, machine.tmp_path, machine.env, f"python_version=3.{THIS}")
    assert printed.count("No .venv: ") == 1
    assert printed.partition("Next:\n")[2].splitlines()[1:] == [
        "    python3 scripts/make_venv.py",
        "    .venv/bin/python -m uvicorn app.main:app --reload --reload-dir app --port 8000",
    ]
    assert (machine.folder / "app" / "main.py").exists()


@pytest.mark.slow
def test_cruft_makes_a_venv(machine: Machine, small_template: Path) -> None:
    """tests/template/test_updates.py proves that no update makes or touches one."""
    machine.env["PATH"] += f"{os.pathsep}{os.environ['PATH']}"
    machine.env["TMPDIR"] = str(machine.tmp_path / "temporary")
    Path(machine.env["TMPDIR"]).mkdir()
    shutil.rmtree(machine.folder)
    commit(small_template)
    create = (sys.executable, "-m", "cruft", "create", str(small_template), "--no-input")
    answers = ("--extra-context", json.dumps({"python_version": f"3.{THIS}"}))
    assert "Next:" in run(*create, *answers, cwd=machine.tmp_path, env=machine.env)
    assert (machine.folder / ".venv" / "installed").exists()


# The template's own locks, from the network


@pytest.mark.slow
def test_uvx_generates_a_service_that_passes_its_tests(template: Path, tmp_path: Path) -> None:
    """tests/image/test_image.py installs the locks with pip, and runs the tests there."""
    if UV is None:
        lacking("no uv on this machine")
    path = f"{Path(UV).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"HOME": str(tmp_path), "PATH": path, "UV_CACHE_DIR": str(tmp_path / "cache")}
    uvx = (UV, "tool", "run", "cookiecutter", str(template), "--no-input", "--default-config")
    answers = (f"python_version=3.{THIS}", "--output-dir", str(tmp_path))
    assert "    make test\n" in run(*uvx, *answers, cwd=tmp_path, env=os.environ | own)
    run(".venv/bin/python", "-m", "pytest", "-q", cwd=tmp_path / "my-service")
