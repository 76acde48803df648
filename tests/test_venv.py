"""The hook for real: a .venv that works, or one line that says why there is none."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hooks import post_gen_project as hook
from tests.conftest import TEMPLATE, clean_environment, lacking
from tests.test_hook import rendered

THIS = f"{sys.version_info[0]}.{sys.version_info[1]}"
OTHER = "3.11" if THIS == "3.15" else "3.15"
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
TOOLS = ["uv", "pip"]
FILES = ["app.py", "requirements-dev.txt", "requirements.txt"]


# An index on loopback, with a package for each lock


def wheel(name: str) -> bytes:
    """Return a wheel of an empty module."""
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-1.0.dist-info"
    files = {
        f"{module}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return packed.getvalue()


WHEELS = {"demo": wheel("demo"), "demo-dev": wheel("demo-dev")}


class Index(http.server.ThreadingHTTPServer):
    """An index that counts what it is asked, and answers as slowly as it is told to."""

    daemon_threads = True
    delay = 0.0
    asked = 0

    @property
    def url(self) -> str:
        """Return the address that pip and uv are given."""
        return f"http://127.0.0.1:{self.server_port}/simple/"


class Answer(http.server.BaseHTTPRequestHandler):
    """The few pages of an index."""

    server: Index

    def do_GET(self) -> None:
        self.server.asked += 1
        time.sleep(self.server.delay)
        name = self.path.strip("/").split("/")[-1]
        module = name.split("-1.0")[0].replace("_", "-")
        if module not in WHEELS:
            self.send_error(404)
            return
        link = f"{module.replace('-', '_')}-1.0-py3-none-any.whl"
        page = f'<a href="/files/{link}">{link}</a>'.encode()
        body = WHEELS[module] if name.endswith(".whl") else page
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the name is given

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index() -> Iterator[Index]:
    """Serve both packages."""
    with Index(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def write_locks(folder: Path) -> None:
    """Write locks that list the packages of the index."""
    for lock, name in (("requirements.txt", "demo"), ("requirements-dev.txt", "demo-dev")):
        digest = hashlib.sha256(WHEELS[name]).hexdigest()
        (folder / lock).write_text(f"{name}==1.0 --hash=sha256:{digest}\n")


# A machine, and what the hook did on it


class Machine:
    """A project folder and an environment in which the hook runs as Cookiecutter runs it."""

    def __init__(self, tmp_path: Path, tool: str, index: str) -> None:
        self.tmp_path = tmp_path
        self.folder = tmp_path / "my-service"
        self.python = sys.executable
        self.options: dict[str, Any] = {}
        self.asked = THIS
        self.wrapper: list[str] = []
        self.output = ""
        programs = tmp_path / "programs"
        programs.mkdir()
        if tool == "uv":
            if UV is None:
                lacking("no uv on this machine")
            (programs / "uv").symlink_to(UV)
        self.env = {
            "PATH": str(programs),
            "HOME": str(tmp_path),
            "PYENV_ROOT": str(tmp_path / "no-pyenv"),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": index,
            "UV_DEFAULT_INDEX": index,
            "UV_CACHE_DIR": str(tmp_path / "uv-cache"),
            "UV_PYTHON_DOWNLOADS": "never",
        }

    def prepare(self) -> list[str]:
        """Write the project and the hook; return the command that runs the hook."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_locks(self.folder)
        (self.folder / "app.py").touch()
        copy = rendered(self.tmp_path, create_venv=True, python_version=self.asked)
        return [*self.wrapper, self.python, str(copy)]

    def run(self) -> str:
        """Run the hook; check that it succeeds and leaves the project complete."""
        command = self.prepare()
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | self.options
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, encoding="utf-8", timeout=120, **options
        )
        output = done.stdout or ""
        assert done.returncode == 0, output
        assert "Traceback" not in output
        assert output.isascii(), output
        assert output.endswith("    make dev\n") or done.stdout is None
        self.check_files()
        self.output = output
        return output

    def check_files(self) -> None:
        """Check that nothing but .venv was added to the project, and nothing taken from it."""
        assert sorted(p.name for p in self.folder.iterdir() if p.name != ".venv") == FILES

    def made(self) -> None:
        """Check that .venv has the Python that was asked for and both locks' packages."""
        assert (self.folder / ".venv").exists(), self.output
        code = "import demo, demo_dev, sys; print('%d.%d' % sys.version_info[:2], sys.prefix)"
        where = subprocess.run(
            [self.folder / ".venv" / "bin" / "python", "-I", "-c", code],
            capture_output=True,
            encoding="utf-8",
        )
        assert where.stdout.split(" ", 1) == [THIS, f"{self.folder / '.venv'}\n"], where.stderr

    def why_not(self, output: str) -> str:
        """Check that there is no .venv, and return the one line that says why."""
        assert not os.path.lexists(self.folder / ".venv")
        lines: list[str] = re.findall(r"^No \.venv: (.*)$", output, re.MULTILINE)
        (line,) = lines
        assert line.endswith(": make venv")
        assert "    make venv\n" in output
        return line


@pytest.fixture(params=TOOLS)
def machine(request: pytest.FixtureRequest, tmp_path: Path, index: Index) -> Machine:
    """Return a machine with uv, then one without."""
    return Machine(tmp_path, request.param, index.url)


@pytest.fixture
def with_uv(tmp_path: Path, index: Index) -> Machine:
    """Return a machine with uv."""
    return Machine(tmp_path, "uv", index.url)


@pytest.fixture
def without_uv(tmp_path: Path, index: Index) -> Machine:
    """Return a machine without uv."""
    return Machine(tmp_path, "pip", index.url)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return `mount(options)`, which makes a file system in memory; only root may."""
    mounted: list[Path] = []

    def make(options: str) -> Path:
        point = tmp_path / f"mounted-{len(mounted)}"
        point.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            lacking("this user may not mount a file system")
        mounted.append(point)
        return point

    yield make
    for point in mounted:
        subprocess.run(["umount", "--lazy", point], check=True)


# It works


def test_uv_makes_a_venv_and_every_step_is_told_with_its_time(with_uv: Machine) -> None:
    output = with_uv.run()
    with_uv.made()
    steps = output.partition("Next:")[0].splitlines()
    assert len(steps) == 3
    assert all(re.fullmatch(r"[A-Z].* \.\.\. \d+\.\d s", step) for step in steps)
    assert [line.strip() for line in output.partition("Next:\n")[2].splitlines()] == [
        f"cd {with_uv.folder}",
        "make test",
        "make dev",
    ]


@pytest.mark.slow
def test_pip_makes_a_venv(without_uv: Machine) -> None:
    assert "with pip" in without_uv.run()
    without_uv.made()


Condition = Callable[[Machine], object]


def other_venv_active(machine: Machine) -> None:
    other = machine.tmp_path / "other"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", other], check=True)
    machine.env |= {
        "VIRTUAL_ENV": str(other),
        "PATH": f"{other / 'bin'}{os.pathsep}{machine.env['PATH']}",
    }


def modules_shadowed(machine: Machine) -> None:
    shadows = machine.tmp_path / "shadows"
    shadows.mkdir()
    for name in ("pip", "venv", "ensurepip", "demo"):
        (shadows / f"{name}.py").write_text("raise SystemExit('shadowed')")
    machine.env["PYTHONPATH"] = str(shadows)


def pip_and_uv_told_otherwise(machine: Machine) -> None:
    elsewhere = str(machine.tmp_path / "elsewhere")
    machine.env |= {
        "PIP_USER": "1",
        "PIP_TARGET": elsewhere,
        "PIP_PREFIX": elsewhere,
        "PIP_REQUIRE_VIRTUALENV": "1",
        "PIP_CONSTRAINT": elsewhere,
        "PIP_NO_BINARY": ":all:",
        "UV_PYTHON": "2.7",
        "UV_SYSTEM_PYTHON": "1",
        "UV_CONSTRAINT": elsewhere,
        "UV_EXCLUDE_NEWER": "2001-01-01",
        "UV_PROJECT_ENVIRONMENT": elsewhere,
    }


def odd_path(machine: Machine) -> None:
    machine.folder = machine.tmp_path / 'it\'s "odd" $HOME \N{GRINNING FACE}' / "my-service"
    machine.env["PYTHONIOENCODING"] = "ascii"


CONDITIONS: dict[str, Condition] = {
    "HOME unset": lambda machine: machine.env.pop("HOME"),
    "LC_ALL=C": lambda machine: machine.env.update(LC_ALL="C"),
    "stdout is cp1252": lambda machine: machine.env.update(PYTHONIOENCODING="cp1252"),
    "stdout is ascii": lambda machine: machine.env.update(PYTHONIOENCODING="ascii"),
    "stdin closed": lambda machine: machine.wrapper.extend(["/bin/sh", "-c", '"$@" <&-', "sh"]),
    "umask 077": lambda machine: machine.options.update(umask=0o077),
    "PATH unset": lambda machine: machine.env.pop("PATH"),
    "no terminal colors wanted, yet forced": lambda machine: machine.env.update(FORCE_COLOR="1"),
    "another venv active": other_venv_active,
    "modules shadowed by PYTHONPATH": modules_shadowed,
    "pip and uv told otherwise": pip_and_uv_told_otherwise,
    "spaces, quotes and emoji in the path": odd_path,
}


@pytest.mark.slow
@pytest.mark.parametrize("condition", CONDITIONS)
def test_it_works_with(condition: str, machine: Machine) -> None:
    CONDITIONS[condition](machine)
    machine.run()
    machine.made()


@pytest.mark.slow
def test_it_works_where_nothing_in_tmpdir_may_be_run(
    machine: Machine, mount: Callable[[str], Path]
) -> None:
    machine.env["TMPDIR"] = str(mount("noexec"))
    machine.run()
    machine.made()


@pytest.mark.slow
def test_it_works_with_a_slow_mirror(machine: Machine, index: Index) -> None:
    index.delay = 2.5
    machine.run()
    machine.made()


@pytest.mark.slow
def test_it_works_with_a_mirror_from_a_configuration_file(machine: Machine, index: Index) -> None:
    for name in ("PIP_CONFIG_FILE", "PIP_INDEX_URL", "UV_DEFAULT_INDEX"):
        del machine.env[name]
    machine.env["HTTPS_PROXY"] = "http://127.0.0.1:9"  # so that no other index is asked
    machine.env["NO_PROXY"] = "127.0.0.1"
    settings = machine.tmp_path / ".config"
    (settings / "pip").mkdir(parents=True)
    (settings / "pip" / "pip.conf").write_text(f"[global]\nindex-url = {index.url}\nuser = true\n")
    (settings / "uv").mkdir()
    (settings / "uv" / "uv.toml").write_text(f'index-url = "{index.url}"\n')
    machine.run()
    machine.made()


@pytest.mark.slow
def test_it_works_offline_when_uv_has_the_packages_already(with_uv: Machine, index: Index) -> None:
    with_uv.run()
    shutil.rmtree(with_uv.folder)
    index.shutdown()
    index.server_close()
    with_uv.run()
    with_uv.made()


@pytest.mark.slow
def test_without_the_asked_python_it_takes_another_and_says_so(with_uv: Machine) -> None:
    with_uv.asked = OTHER
    output = with_uv.run()
    with_uv.made()
    assert f"Making .venv with Python {THIS}, for want of {OTHER} ..." in output


@pytest.mark.slow
def test_a_reader_that_went_away_costs_nobody_the_project(with_uv: Machine) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with_uv.options["stdout"] = writing
    with_uv.run()
    os.close(writing)
    with_uv.made()


def test_a_venv_that_is_there_is_left_alone(with_uv: Machine, index: Index) -> None:
    mine = with_uv.folder / ".venv" / "mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("kept")
    assert "Left .venv as it is." in with_uv.run()
    assert [path.name for path in mine.parent.iterdir()] == ["mine"]
    assert index.asked == 0


# It does not work, and says why


def closed_port() -> int:
    """Return a port of loopback on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def told_in_time(machine: Machine) -> str:
    """Run the hook, check that it took little time, and return why there is no .venv."""
    started = time.monotonic()
    output = machine.run()
    took = time.monotonic() - started
    assert took < 10, f"{took:.1f} s"  # 5 are promised; machines that run tests are busy
    return machine.why_not(output)


def test_no_network(machine: Machine) -> None:
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-n", "true"], capture_output=True).returncode:
        lacking("this user may not take the network away")
    machine.wrapper = [unshare, "-n"]
    expected = "the package index (127.0.0.1) cannot be reached. Once it can be: make venv"
    assert told_in_time(machine) == expected


@pytest.mark.slow
def test_an_index_that_is_not_there(machine: Machine) -> None:
    url = f"http://user:secret@127.0.0.1:{closed_port()}/simple/"
    machine.env |= {"PIP_INDEX_URL": url, "UV_DEFAULT_INDEX": url}
    why = told_in_time(machine)
    assert "cannot be reached" in why
    assert "secret" not in why


@pytest.mark.slow
@pytest.mark.parametrize("reply", [b"HTTP/1.0 403 Forbidden\r\n\r\n", b"", None])
def test_a_proxy_that_refuses_hangs_up_or_never_answers(
    machine: Machine, reply: bytes | None
) -> None:
    connections = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def serve() -> None:
            while True:
                try:
                    connection, _ = proxy.accept()
                except OSError:
                    return
                connections.append(connection)
                if reply is not None:
                    connection.recv(1000)
                    connection.sendall(reply)
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        machine.env |= {"PIP_INDEX_URL": "https://pypi.org/simple/"}
        machine.env |= {"UV_DEFAULT_INDEX": "https://pypi.org/simple/"}
        machine.env |= {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.getsockname()[1]}"}
        try:
            assert told_in_time(machine).startswith("the package index (pypi.org) cannot be")
        finally:
            proxy.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in connections:
                connection.close()


@pytest.mark.slow
def test_a_package_that_is_not_what_was_locked(machine: Machine) -> None:
    command = machine.prepare()
    lock = machine.folder / "requirements.txt"
    lock.write_text(f"demo==1.0 --hash=sha256:{'0' * 64}\n")
    done = subprocess.run(
        command, cwd=machine.folder, env=machine.env, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0
    assert "Once that is mended" in machine.why_not(done.stdout)


def crippled(machine: Machine, module: str) -> None:
    """Run the hook with a copy of this Python that lacks a module of its standard library."""
    home = machine.tmp_path / "python"
    library = home / "lib" / f"python{THIS}"
    library.mkdir(parents=True)
    for path in (Path(sys.base_prefix) / "lib" / f"python{THIS}").iterdir():
        if path.name != module:
            (library / path.name).symlink_to(path)
    (home / "bin").mkdir()
    machine.python = str(home / "bin" / f"python{THIS}")
    shutil.copy(Path(sys.base_prefix) / "bin" / f"python{THIS}", machine.python)
    code = f"import {module}"
    done = subprocess.run([machine.python, "-c", code], capture_output=True, encoding="utf-8")
    if "ModuleNotFoundError" not in done.stderr:
        pytest.skip("this Python cannot be copied")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["ensurepip", "venv"])
def test_a_python_without_ensurepip_or_venv(without_uv: Machine, module: str) -> None:
    crippled(without_uv, module)
    assert without_uv.why_not(without_uv.run()) == (
        f"Python {THIS} came without ensurepip."
        f" After `apt install python{THIS}-venv` (Debian, Ubuntu) or installing uv: make venv"
    )


@pytest.mark.slow
@pytest.mark.parametrize("module", ["ensurepip", "venv"])
def test_uv_needs_neither_ensurepip_nor_venv(with_uv: Machine, module: str) -> None:
    crippled(with_uv, module)
    with_uv.run()
    with_uv.made()


@pytest.mark.slow
def test_no_python_that_the_service_supports(machine: Machine) -> None:
    old = hook.find_python(["3.10"], os.environ)
    if old is None:
        pytest.skip("no Python 3.10 on this machine")
    machine.python, machine.asked = old[1], "3.14"
    assert machine.why_not(machine.run()).startswith(
        "no Python 3.11 to 3.15 is on this machine. After installing Python 3.14"
    )


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("#!/bin/sh\necho 'error: no luck' >&2\nexit 2\n", "error: no luck. Once that is mended"),
        ("#!/bin/sh\nexit 3\n", "uv: exit 3. Once"),
        ("#!/bin/sh\nread line || echo 'error: nobody to ask' && exit 1\n", "nobody to ask"),
        ("not a program", "Exec format error"),
    ],
)
def test_a_uv_that_fails(with_uv: Machine, script: str, why: str) -> None:
    uv = with_uv.tmp_path / "programs" / "uv"
    uv.unlink()
    uv.write_text(script)
    uv.chmod(0o755)
    with_uv.options["input"] = "yes\n"
    assert why in with_uv.why_not(with_uv.run())


@pytest.mark.slow
def test_no_space(machine: Machine, mount: Callable[[str], Path]) -> None:
    machine.folder = mount("size=200k") / "my-service"
    machine.env["UV_LINK_MODE"] = "copy"
    command = machine.prepare()
    (machine.folder.parent / "full").write_bytes(bytes(4096 * 40))
    done = subprocess.run(
        command, cwd=machine.folder, env=machine.env, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    machine.check_files()
    assert machine.why_not(done.stdout)


@pytest.mark.slow
def test_a_read_only_cache(machine: Machine, mount: Callable[[str], Path]) -> None:
    cache = str(mount("ro"))
    machine.env |= {"UV_CACHE_DIR": cache, "PIP_CACHE_DIR": cache}
    output = machine.run()
    if "No .venv" in output:  # uv wants one that it can write to, and says so
        assert "Read-only file system" in machine.why_not(output)
    else:
        machine.made()


# It is interrupted


def beating_uv(machine: Machine) -> Path:
    """Put a uv there that makes half a .venv, then goes on writing from a child of its own."""
    pulse = machine.tmp_path / "pulse"
    uv = machine.tmp_path / "programs" / "uv"
    uv.unlink()
    beat = f"while :; do /bin/date +%N > '{pulse}'; /bin/mkdir -p .venv/lib; /bin/sleep .05; done"
    uv.write_text(f"#!/bin/sh\n/bin/mkdir -p .venv/bin\n[ $1 = venv ] || ({beat})\n")
    uv.chmod(0o755)
    return pulse


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is true; fail after 30 s."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_leaves_no_half_venv_and_nothing_running(
    with_uv: Machine, sent: signal.Signals
) -> None:
    pulse = beating_uv(with_uv)
    with subprocess.Popen(
        with_uv.prepare(),
        cwd=with_uv.folder,
        env=with_uv.env,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        wait_for(pulse.exists)
        process.send_signal(sent)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    with_uv.check_files()
    assert with_uv.why_not(output) == "interrupted. Whenever you like: make venv"
    last = pulse.read_text()
    time.sleep(0.3)
    assert pulse.read_text() == last
    assert not (with_uv.folder / ".venv").exists()


@pytest.mark.slow
def test_an_interruption_of_pip_leaves_no_half_venv(without_uv: Machine, index: Index) -> None:
    index.delay = 30
    with subprocess.Popen(
        without_uv.prepare(),
        cwd=without_uv.folder,
        env=without_uv.env,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        wait_for(lambda: index.asked > 0)
        process.terminate()
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    without_uv.why_not(output)


# Through Cookiecutter and cruft


@pytest.fixture
def small_template(template: Path, tmp_path: Path) -> Path:
    """Return the template with the small locks of the index."""
    copy = tmp_path / "small"
    shutil.copytree(template, copy)
    write_locks(copy / TEMPLATE.name)
    return copy


def cookiecutter(template: Path, out: Path, env: dict[str, str], *options: str) -> list[str]:
    """Return the command that generates a service, and make its folder."""
    out.mkdir(exist_ok=True)
    program = [sys.executable, "-m", "cookiecutter", str(template), "--default-config"]
    return [*program, "--no-input", "--output-dir", str(out), *options]


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_leaves_a_complete_project(
    with_uv: Machine, small_template: Path
) -> None:
    pulse = beating_uv(with_uv)
    out = with_uv.tmp_path / "out"
    command = cookiecutter(small_template, out, with_uv.env, f"python_version={THIS}")
    with subprocess.Popen(command, env=with_uv.env, start_new_session=True) as process:
        wait_for(pulse.exists)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
    wait_for(lambda: not (out / "my-service" / ".venv").exists())
    made = {p.name for p in (out / "my-service").iterdir()}
    # The hook drops what takes the place of others only without a database.
    assert made == {p.name for p in (small_template / TEMPLATE.name).iterdir()} - {"stateless"}


@pytest.mark.slow
@pytest.mark.parametrize("condition", ["HOME unset", "stdin closed"])
def test_cookiecutter_itself_works_with(
    condition: str, with_uv: Machine, small_template: Path
) -> None:
    kept = with_uv.tmp_path / "kept"
    config = with_uv.tmp_path / "config.yaml"
    config.write_text(f"cookiecutters_dir: {kept}\nreplay_dir: {kept}\n")
    with_uv.env["COOKIECUTTER_CONFIG"] = str(config)
    CONDITIONS[condition](with_uv)
    with_uv.folder = with_uv.tmp_path / "out" / "my-service"
    command = cookiecutter(small_template, with_uv.folder.parent, with_uv.env)
    command.remove("--default-config")
    done = subprocess.run(
        [*with_uv.wrapper, *command, f"python_version={THIS}"],
        env=with_uv.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout
    with_uv.output = done.stdout
    with_uv.made()


@pytest.mark.slow
def test_without_hooks_only_what_was_not_chosen_is_left_over(
    with_uv: Machine, small_template: Path
) -> None:
    trees: list[dict[Path, bytes | bool]] = []
    for name, options in (("with", []), ("without", ["--accept-hooks", "no"])):
        out = with_uv.tmp_path / name
        answers = [*options, f"python_version={THIS}", "create_venv=no"]
        command = cookiecutter(small_template, out, with_uv.env, *answers)
        subprocess.run(command, env=with_uv.env, check=True)
        trees.append({p.relative_to(out): p.is_file() and p.read_bytes() for p in out.rglob("*")})
    left = {path.parts[1] for path in trees[1].keys() - trees[0].keys()}
    assert left == set(hook.INSTEAD)
    assert trees[0].items() <= trees[1].items()


@pytest.mark.slow
def test_the_rendered_hook_is_left_nowhere(with_uv: Machine, small_template: Path) -> None:
    temporary = with_uv.tmp_path / "temporary"
    temporary.mkdir()
    with_uv.env["TMPDIR"] = str(temporary)
    command = cookiecutter(small_template, with_uv.tmp_path / "out", with_uv.env)
    subprocess.run([*command, f"python_version={THIS}"], env=with_uv.env, check=True)
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_cruft_makes_a_venv_once_and_no_update_touches_or_makes_one(
    with_uv: Machine, small_template: Path, index: Index
) -> None:
    git = shutil.which("git")
    if git is None:
        lacking("no git on this machine")
    env = with_uv.env | {
        "PATH": f"{with_uv.env['PATH']}{os.pathsep}{Path(git).parent}",
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "user.name",
        "GIT_CONFIG_VALUE_0": "Test",
        "GIT_CONFIG_KEY_1": "user.email",
        "GIT_CONFIG_VALUE_1": "test@example.com",
    }

    def run(cwd: Path, *command: str) -> str:
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def commit(folder: Path) -> None:
        run(folder, git, "init", "--quiet")
        run(folder, git, "add", "--all")
        run(folder, git, "commit", "--quiet", "--message", "Change")

    cruft = [sys.executable, "-m", "cruft"]
    commit(small_template)
    answers = f'{{"python_version": "{THIS}"}}'
    here = with_uv.tmp_path
    create = [*cruft, "create", str(small_template), "--no-input", "--extra-context", answers]
    assert "Installing" in run(here, *create)
    service = here / "my-service"
    before = {p: p.stat().st_mtime_ns for p in (service / ".venv").rglob("*")}
    commit(service)
    readme = small_template / TEMPLATE.name / "README.md"
    readme.write_text(f"{readme.read_text()}\nA new line.\n")
    commit(small_template)
    asked = index.asked
    output = run(service, *cruft, "update", "--skip-apply-ask")
    assert "Next:" not in output
    assert "A new line." in (service / "README.md").read_text()
    assert index.asked == asked
    assert {p: p.stat().st_mtime_ns for p in (service / ".venv").rglob("*")} == before


# The template's own locks, from the network


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_service_passes_its_tests_in_the_venv(
    tool: str, version: str, template: Path, tmp_path: Path
) -> None:
    if hook.find_python([version], os.environ) is None:
        pytest.skip(f"no Python {version} on this machine")
    env = clean_environment()
    folders = env["PATH"].split(os.pathsep)
    env["PATH"] = os.pathsep.join(f for f in folders if not shutil.which("uv", path=f))
    if tool == "uv":
        if UV is None:
            lacking("no uv on this machine")
        env["PATH"] += f"{os.pathsep}{Path(UV).parent}"
    command = cookiecutter(template, tmp_path, env, f"python_version={version}")
    done = subprocess.run(command, env=env, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"with {tool} ..." in done.stdout, done.stdout
    service = tmp_path / "my-service"
    for code in (
        ["-c", f"import sys; assert sys.version.startswith('{version}.')"],
        ["-m", "pytest", "-q"],
    ):
        told = subprocess.run(
            [".venv/bin/python", *code],
            cwd=service,
            env=clean_environment(),
            capture_output=True,
            encoding="utf-8",
        )
        assert told.returncode == 0, told.stdout + told.stderr


# Tools that run Cookiecutter without an installation, from the network


def run_tool(words: str, template: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Generate a service with a tool that uv fetches; nothing is kept outside of `out`."""
    if UV is None:
        lacking("no uv on this machine")
    config = out / "config.yaml"
    config.write_text(f"cookiecutters_dir: {out}/kept\nreplay_dir: {out}/kept\n")
    environment = {"COOKIECUTTER_CONFIG": str(config), "PIPX_HOME": f"{out}/pipx"}
    environment["PATH"] = f"{Path(UV).parent}{os.pathsep}{os.environ['PATH']}"
    command = [UV, "tool", "run", *words.split(), str(template), "--no-input"]
    return subprocess.run(
        [*command, f"python_version={THIS}", "--output-dir", str(out)],
        env=clean_environment() | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


@pytest.mark.slow
@pytest.mark.parametrize("words", ["cookiecutter", "pipx run cookiecutter"])
def test_uvx_and_pipx_generate_a_service_with_its_venv(
    words: str, template: Path, tmp_path: Path
) -> None:
    done = run_tool(words, template, tmp_path)
    assert done.returncode == 0, done.stdout
    assert "    make test\n" in done.stdout
    python = tmp_path / "my-service" / ".venv" / "bin" / "python"
    found = "import fastapi, pytest, sys; print('%d.%d' % sys.version_info[:2])"
    assert subprocess.check_output([python, "-c", found], text=True) == f"{THIS}\n"


@pytest.mark.slow
def test_an_old_cookiecutter_itself_gets_one_line(template: Path, tmp_path: Path) -> None:
    done = run_tool("--quiet cookiecutter@2.6.0", template, tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith(
        "This template needs Cookiecutter 2.7 or newer, and this is 2.6.0"
    )
    assert len(done.stdout.splitlines()) == 1
    assert not (tmp_path / "my-service").exists()
