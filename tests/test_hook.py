"""What the hook decides, and that answers reach it as data."""

from __future__ import annotations

import ast
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cookiecutter.utils import create_env_with_context
from hypothesis import given, settings
from hypothesis import strategies as st

from hooks import post_gen_project as hook
from tests.conftest import CONFIG, ROOT

SOURCE = (ROOT / "hooks" / "post_gen_project.py").read_text(encoding="utf-8")
ANSWERS = {
    "project_slug": "my-service",
    "python_version": "3.12",
    "port": "9000",
    "create_venv": False,
    "_features": {},
}


def rendered(folder: Path, **answers: object) -> Path:
    """Write the hook into `folder` as Cookiecutter renders it."""
    context = {
        "cookiecutter": {**ANSWERS, **answers, "_jinja2_env_vars": CONFIG["_jinja2_env_vars"]}
    }
    text = create_env_with_context(context).from_string(SOURCE).render(**context)
    copy = folder / "rendered_hook.py"
    copy.write_text(text, encoding="utf-8")
    return copy


def project(tmp_path: Path) -> Path:
    """Make an empty project folder."""
    folder = tmp_path / "my-service"
    folder.mkdir()
    return folder


def run(copy: Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a rendered hook as Cookiecutter does."""
    return subprocess.run(
        [sys.executable, copy],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=30,
    )


# Dropping what was not chosen


FEATURES = {
    "metrics": ["app/metrics.py", "tests/test_metrics.py"],
    "database=sqlite": ["app/database", "data"],
    "database=postgresql": ["app/database", "compose.database.yaml"],
}


@pytest.mark.parametrize(
    ("metrics", "database", "dropped"),
    [
        (True, "sqlite", ["compose.database.yaml"]),
        (False, "postgresql", ["app/metrics.py", "data", "tests/test_metrics.py"]),
        (True, "none", ["app/database", "compose.database.yaml", "data"]),
    ],
)
def test_paths_of_features_not_chosen_go_except_those_a_chosen_one_shares(
    metrics: bool, database: str, dropped: list[str]
) -> None:
    context = {"_features": FEATURES, "metrics": metrics, "database": database}
    assert [path.as_posix() for path in hook.unwanted_paths(context)] == dropped


def test_the_hook_drops_files_and_whole_folders_and_nothing_else(tmp_path: Path) -> None:
    folder = project(tmp_path)
    (folder / "app" / "database").mkdir(parents=True)
    for name in ("app/main.py", "app/database/models.py", "compose.database.yaml", "data"):
        (folder / name).touch()
    done = run(rendered(tmp_path, _features=FEATURES, metrics=True, database="none"), folder)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.rglob("*")) == ["app", "main.py"]


def test_a_feature_that_lists_a_missing_path_is_an_error_of_the_template(tmp_path: Path) -> None:
    copy = rendered(tmp_path, _features={"metrics": ["gone.py"]}, metrics=False)
    assert run(copy, project(tmp_path)).returncode != 0


# Answers are data


HOSTILE = [
    '"""\nraise SystemExit(7)\nr"""',
    "'''; raise SystemExit(7)",
    "\\",
    '\\"""',
    '"',
    '""',
    "\\u0022",
    "{{ 7 * 7 }} {% raw %}",
    "\n# {% if true %}\n",
    "</script>&'<!--",
    "\N{GRINNING FACE}\u202e\u2028\x7f\x00",
]


def test_hostile_answers_come_through_unchanged_and_run_nothing(tmp_path: Path) -> None:
    answers = {f"answer_{number}": text for number, text in enumerate(HOSTILE)}
    copy = rendered(tmp_path, **answers)
    spy = "\nif __name__ == '__main__':\n    print(ascii(sorted(parsed.items(), key=str)))\n"
    copy.write_text(copy.read_text(encoding="utf-8") + spy, encoding="utf-8")
    done = run(copy, project(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    given_back = dict(ast.literal_eval(done.stdout.splitlines()[-1]))
    assert {name: given_back[name] for name in answers} == answers


@given(st.text())
@settings(deadline=None)
def test_any_text_is_inside_the_string_literal_when_rendered(text: str) -> None:
    env = create_env_with_context({"cookiecutter": {}})
    line = next(line for line in SOURCE.splitlines() if line.startswith("CONTEXT = "))
    module = ast.parse(env.from_string(line).render(cookiecutter={text: text}))
    (statement,) = module.body
    assert isinstance(statement, ast.Assign)
    assert json.loads(ast.literal_eval(statement.value)) == {text: text}


def test_the_rendered_copy_with_its_answers_removes_itself(tmp_path: Path) -> None:
    copy = rendered(tmp_path)
    assert run(copy, project(tmp_path)).returncode == 0
    assert not copy.exists()


def test_run_by_mistake_in_the_repository_it_removes_nothing(tmp_path: Path) -> None:
    copy = tmp_path / "post_gen_project.py"
    copy.write_text(SOURCE, encoding="utf-8")
    assert run(copy, project(tmp_path)).returncode != 0
    assert copy.exists()


# What it runs on


def test_it_imports_what_every_platform_and_every_python_from_310_has() -> None:
    tree = ast.parse(SOURCE, feature_version=(3, 10))
    imports = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imports |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    top = {str(name).partition(".")[0] for name in imports}
    assert top <= sys.stdlib_module_names - {
        "fcntl",
        "grp",
        "pwd",
        "resource",
        "termios",
        "tomllib",
    }


def test_it_writes_ascii_only() -> None:
    assert SOURCE.isascii()


# What is next


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1))
def test_a_posix_shell_reads_back_any_folder(folder: str) -> None:
    first, *_ = hook.next_commands(folder, ANSWERS, made=True, windows=False)
    assert shlex.split(first) == ["cd", folder]


def test_a_real_shell_changes_into_an_odd_folder(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s "odd" $HOME `x` \\ \N{GRINNING FACE}'
    folder.mkdir()
    first, *_ = hook.next_commands(str(folder), ANSWERS, made=True, windows=False)
    where = subprocess.run(["sh", "-c", f"{first} && pwd"], capture_output=True, check=True)
    assert Path(os.fsdecode(where.stdout).rstrip("\n")) == folder


@pytest.mark.parametrize(
    ("made", "windows", "commands"),
    [
        (True, False, ["cd svc", "make test", "make dev"]),
        (False, False, ["cd svc", "make venv", "make dev"]),
        (
            True,
            True,
            [
                'pushd "svc"',
                r".venv\Scripts\python -m pytest",
                r".venv\Scripts\uvicorn app.main:app --reload --reload-dir app --port 9000",
            ],
        ),
        (
            False,
            True,
            [
                'pushd "svc"',
                "py -3.12 -m venv .venv",
                r".venv\Scripts\python -m pip install --require-hashes"
                " -r requirements.txt -r requirements-dev.txt",
            ],
        ),
    ],
)
def test_the_next_three_commands(made: bool, windows: bool, commands: list[str]) -> None:
    assert hook.next_commands("svc", ANSWERS, made, windows) == commands


def test_the_folder_is_named_as_the_users_shell_sees_it(tmp_path: Path) -> None:
    folder = project(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    assert hook.nearest(folder, {"PWD": str(tmp_path)}) == "my-service"
    assert hook.nearest(folder, {"PWD": str(tmp_path / "link")}) == "my-service"
    assert hook.nearest(folder, {"PWD": str(tmp_path.parent)}) == str(folder)
    assert hook.nearest(folder, {}) == str(folder)


@pytest.mark.parametrize(
    ("windows", "path"), [(False, ".venv/bin/python"), (True, r".venv\Scripts\python")]
)
def test_the_python_in_a_venv(windows: bool, path: str) -> None:
    assert hook.venv_python(windows) == path


# cruft


@pytest.mark.parametrize(
    ("context", "parent", "expected"),
    [
        ({"_commit": "abc"}, "tmpab12_xyz", True),
        ({}, "tmpab12_xyz", False),
        ({"_commit": "abc"}, "tmp.Zq81hhQw2k", False),
        ({"_commit": "abc"}, "tmpab12_xyz/more", False),
        ({"_commit": "abc"}, "work", False),
    ],
)
def test_only_what_cruft_renders_to_compare_is_a_comparison(
    tmp_path: Path, context: dict[str, str], parent: str, expected: bool
) -> None:
    folder = tmp_path / parent / "svc"
    folder.mkdir(parents=True)
    assert hook.is_comparison(context, folder, str(tmp_path)) is expected


# Finding an interpreter


def interpreter(folder: Path, name: str, version: str) -> Path:
    """Write a program that claims to be Python `version`; `0` is a shim that only fails."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\necho {version} {program}\nexit {int(version == '0')}\n")
    program.chmod(0o755)
    return program


def machine(*folders: Path, pyenv: Path | None = None) -> dict[str, str]:
    """Return the environment of a machine with these folders on PATH."""
    return {"PATH": os.pathsep.join(map(str, folders)), "PYENV_ROOT": str(pyenv or "nowhere")}


def test_the_asked_version_wins_over_newer_ones(tmp_path: Path) -> None:
    interpreter(tmp_path, "python3", "3.15")
    wanted = interpreter(tmp_path, "python3.12", "3.12")
    assert hook.find_python(["3.12"], machine(tmp_path)) == ("3.12", str(wanted))


def test_a_shim_that_fails_hides_no_interpreter_behind_it(tmp_path: Path) -> None:
    interpreter(tmp_path / "shims", "python3.12", "0")
    wanted = interpreter(tmp_path / "bin", "python3.12", "3.12")
    env = machine(tmp_path / "shims", tmp_path / "bin")
    assert hook.find_python(["3.12"], env) == ("3.12", str(wanted))


def test_a_plain_python3_of_the_version_will_do(tmp_path: Path) -> None:
    wanted = interpreter(tmp_path, "python3", "3.13")
    assert hook.find_python(["3.13"], machine(tmp_path)) == ("3.13", str(wanted))


def test_a_name_that_lies_about_its_version_is_not_taken(tmp_path: Path) -> None:
    interpreter(tmp_path, "python3.13", "3.14")
    assert hook.find_python(["3.13"], machine(tmp_path)) is None


def test_pyenv_gives_its_newest_release_of_the_version(tmp_path: Path) -> None:
    for release in ("3.12.9", "3.12.10", "3.12.11rc1"):
        interpreter(tmp_path / "versions" / release / "bin", "python3.12", "3.12")
    found = hook.find_python(["3.12"], machine(pyenv=tmp_path))
    assert found == ("3.12", str(tmp_path / "versions" / "3.12.10" / "bin" / "python3.12"))


def test_the_windows_launcher_is_asked_for_the_version(tmp_path: Path) -> None:
    launcher = interpreter(tmp_path, "py", "3.15")
    assert (str(launcher), "-3.15") in hook.candidates("3.15", machine(tmp_path))
    assert hook.find_python(["3.15"], machine(tmp_path)) == ("3.15", str(launcher))


def test_where_the_asked_version_is_missing_the_newest_supported_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", None)  # which would be found, too
    for version in ("3.9", "3.11", "3.13", "3.16"):
        interpreter(tmp_path, f"python{version}", version)
    env = machine(tmp_path)
    assert hook.find_python(["3.14"], env) is None
    assert hook.find_python(hook.SUPPORTED, env) == ("3.13", str(tmp_path / "python3.13"))


def test_a_virtual_environment_is_never_the_base(tmp_path: Path) -> None:
    nested = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", nested], check=True)
    found = hook.inspect((str(nested / "bin" / "python"),))
    assert found is not None
    assert Path(found[1]).is_relative_to(sys.base_prefix)


# What pip and uv are told


def test_how_to_reach_the_index_is_kept_and_what_would_lead_astray_is_not() -> None:
    kept = {
        "PATH": "/bin",
        "HTTPS_PROXY": "http://proxy:3128",
        "PIP_INDEX_URL": "https://mirror/simple",
        "PIP_CERT": "/ca.pem",
        "PIP_RETRIES": "9",
        "UV_INDEX_COMPANY_PASSWORD": "secret",
        "UV_DEFAULT_INDEX": "https://mirror/simple",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_CACHE_DIR": "/cache",
    }
    dropped = (
        "VIRTUAL_ENV PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV PIP_NO_DEPS"
        " PIP_CONSTRAINT UV_PYTHON UV_SYSTEM_PYTHON UV_EXCLUDE_NEWER UV_CONSTRAINT FORCE_COLOR"
    )
    env = hook.environment(kept | dict.fromkeys([*dropped.split(), "PIP_USER"], "1"))
    assert env == kept | {"PIP_USER": "0", "UV_HTTP_RETRIES": "2"}


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Point HOME at an empty folder, so that this machine's own settings play no part."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


def config(home: Path, name: str, text: str) -> None:
    """Write a configuration file below `home`."""
    (home / name).parent.mkdir(parents=True, exist_ok=True)
    (home / name).write_text(text)


MIRROR = "https://user:word@mirror.example:8443/simple"


@pytest.mark.usefixtures("no_home")
@pytest.mark.parametrize(
    ("tool", "env", "urls"),
    [
        ("pip", {"PIP_INDEX_URL": MIRROR}, [MIRROR]),
        ("pip", {"UV_DEFAULT_INDEX": MIRROR}, ["https://pypi.org/simple/"]),
        ("pip", {"PIP_EXTRA_INDEX_URL": MIRROR}, ["https://pypi.org/simple/"]),
        ("pip", {"PIP_INDEX_URL": "file:///srv/simple"}, []),
        ("pip", {"URL": MIRROR, "INDEX_URL": MIRROR}, ["https://pypi.org/simple/"]),
        ("pip", {"PIP_NO_INDEX": "1"}, []),
        ("pip", {"PIP_PROXY": "http://proxy:3128"}, []),
        ("uv", {"UV_DEFAULT_INDEX": MIRROR}, [MIRROR]),
        ("uv", {"UV_INDEX_URL": MIRROR}, [MIRROR]),
        ("uv", {"PIP_INDEX_URL": MIRROR}, ["https://pypi.org/simple/"]),
    ],
)
def test_the_index_is_what_the_variables_say(
    tool: str, env: dict[str, str], urls: list[str]
) -> None:
    assert hook.index_urls(tool, env) == urls


@pytest.mark.parametrize(
    ("tool", "name", "text"),
    [
        ("pip", ".config/pip/pip.conf", f"[global]\nindex-url = {MIRROR}\n"),
        ("pip", ".pip/pip.conf", f"[install]\nindex_url={MIRROR}\n"),
        ("pip", "Library/Application Support/pip/pip.conf", f"[global]\nindex-url: {MIRROR}\n"),
        ("uv", ".config/uv/uv.toml", f'[[index]]\nurl = "{MIRROR}"\ndefault = true\n'),
        ("uv", ".config/uv/uv.toml", f"[pip]\nindex-url = '{MIRROR}'\n"),
    ],
)
def test_the_index_is_what_the_configuration_files_say(
    no_home: Path, tool: str, name: str, text: str
) -> None:
    config(no_home, name, text)
    assert hook.index_urls(tool, {}) == [MIRROR]


def test_configuration_files_named_by_variables_and_on_windows_are_read(no_home: Path) -> None:
    config(no_home, "roaming/pip/pip.ini", f"[global]\nindex-url = {MIRROR}\n")
    assert hook.index_urls("pip", {"APPDATA": str(no_home / "roaming")}) == [MIRROR]
    config(no_home, "mine", f"[global]\nindex-url = {MIRROR}\n")
    assert hook.index_urls("pip", {"PIP_CONFIG_FILE": str(no_home / "mine")}) == [MIRROR]


@contextmanager
def server(reply: bytes | None) -> Iterator[str]:
    """Serve one raw reply to every connection, or never answer at all; give the address."""
    listener = socket.create_server(("127.0.0.1", 0))

    connections = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                connections.append(listener.accept()[0])
                if reply is not None:
                    connections[-1].recv(1000)
                    connections[-1].sendall(reply)
                    connections[-1].close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    for open_still in [listener, *connections]:
        open_still.close()


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drop this machine's own proxies."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize(
    "reply", [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.0 401 No\r\n\r\n", b"?", None]
)
def test_whoever_answers_or_only_takes_the_connection_is_reachable(reply: bytes | None) -> None:
    with server(reply) as url:
        assert hook.reachable([url], seconds=1)


@pytest.mark.usefixtures("no_proxy")
def test_a_closed_port_and_an_unknown_host_are_not_reachable() -> None:
    with server(None) as url:
        pass
    assert not hook.reachable([url, "http://no-such-host.invalid/"])


def test_one_index_that_answers_is_enough_and_none_to_ask_is_too() -> None:
    with server(b"HTTP/1.0 200 OK\r\n\r\n") as url:
        assert hook.reachable(["http://127.0.0.1:9/", url])
    assert hook.reachable([])


@pytest.mark.parametrize("reply", [b"HTTP/1.0 403 Forbidden\r\n\r\n", None])
def test_a_proxy_that_refuses_or_is_silent_is_in_the_way(
    reply: bytes | None, no_proxy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(reply) as url:
        monkeypatch.setenv("https_proxy", url)
        assert not hook.reachable(["https://pypi.org/simple/"], seconds=1)


def test_a_lookup_that_hangs_costs_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(hook, "responds", lambda *_: released.wait(60))
    started = time.monotonic()
    assert not hook.reachable(["https://pypi.org/simple/"], seconds=0.1)
    assert time.monotonic() - started < 10
    released.set()


# What went wrong


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (
            "Collecting idna\nERROR: No matching distribution\n\nhint: more\n",
            "ERROR: No matching distribution",
        ),
        (
            "error: Request failed\n  cause: tls\n  cause: expired\n",
            "error: Request failed; cause: expired",
        ),
        ("Traceback:\n  ...\nOSError: no space\n", "OSError: no space"),
        ("", ""),
    ],
)
def test_the_line_that_says_why_is_picked_out(output: str, words: str) -> None:
    assert hook.last_words(output) == words


def test_a_command_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    script = f"(sleep 1; touch {shlex.quote(str(alive))}) & sleep 60"
    with pytest.raises(hook.Trouble, match="took more than"):
        hook.run(["sh", "-c", script], 0.2)
    time.sleep(1.2)
    assert not alive.exists()
