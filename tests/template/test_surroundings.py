"""Interruptions and other surroundings: the user's files stay, the bytes are the same."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import wait_until
from tests.support.repository import TEMPLATE, tree
from tests.support.services import Bake

NAME = "my-service"
OWN = ["notes.txt", "other/app/main.py", f"{NAME}/mine.py", f"{NAME}/app/mine.py", f"{NAME}/.env"]


def command(template: Path, out: Path, *words: str) -> list[str]:
    """Return the command that generates a service in `out`, with the user's own files there."""
    for name in OWN:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(f"{name} is mine\r\n")
    program = [sys.executable, "-m", "cookiecutter", str(template), "--no-input"]
    return [*program, "--overwrite-if-exists", "--output-dir", str(out), "create_venv=no", *words]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment with a home of its own."""
    return os.environ | {"HOME": str(tmp_path / "home")}


@pytest.mark.parametrize("last", [".dockerignore", "Makefile", "tests/test_settings.py"])
def test_a_run_after_an_interrupted_one_completes_the_service(
    last: str, template: Path, bake: Bake, tmp_path: Path, environment: dict[str, str]
) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(command(template, out), env=environment) as process:
        wait_until((out / NAME / last).exists, pause=0.002)
        process.kill()
    subprocess.run(command(template, out), env=environment, check=True, capture_output=True)
    made = tree(out)
    assert {name: made.pop(name)[1].decode() for name in OWN} == {
        n: f"{n} is mine\r\n" for n in OWN
    }
    expected = {f"{NAME}/{name}": entry for name, entry in tree(bake().path).items()}
    assert {name: made[name] for name in made if name.startswith(f"{NAME}/")} == expected


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_venv_leaves_a_complete_service_and_no_venv(
    sent: signal.Signals, template: Path, bake: Bake, tmp_path: Path, environment: dict[str, str]
) -> None:
    """In a terminal, a signal reaches Cookiecutter, the hook, and what the hook runs."""
    uv = tmp_path / "programs" / "uv"
    uv.parent.mkdir()
    uv.write_text(
        "#!/bin/sh\nmkdir -p .venv/bin\n[ $1 = venv ] || { touch .venv/busy; sleep 60; }\n"
    )
    uv.chmod(0o755)
    environment["PATH"] = f"{uv.parent}{os.pathsep}{environment['PATH']}"
    words = [*command(template, tmp_path / "out"), "create_venv=yes"]
    service, log = tmp_path / "out" / NAME, tmp_path / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(words, env=environment, stdout=output, start_new_session=True) as process,
    ):
        wait_until((service / ".venv" / "busy").exists)
        os.killpg(process.pid, sent)
        process.wait(30)
    wait_until(lambda: "make dev" in log.read_text())  # the hook outlives Cookiecutter
    assert "No .venv: interrupted." in log.read_text()
    assert not (service / ".venv").exists()
    assert {*bake().files()} <= {p.relative_to(service).as_posix() for p in service.rglob("*")}
    assert not (service / "stateless").exists()


def test_the_same_answers_give_the_same_bytes_and_modes_everywhere(
    template: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    answers = {"project_name": "Ünïcode 'n' \"quotes\"", "port": "9000", "create_venv": "no"}
    words = [f"{name}={answer}" for name, answer in answers.items()]
    tokyo = {"TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "1"}
    lima = {"TZ": "America/Lima", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "2"}
    trees = []
    for number, (source, surroundings) in enumerate(
        [(template, tokyo), (crlf(template, tmp_path), lima)]
    ):
        out = tmp_path / str(number)
        subprocess.run(
            command(source, out, *words),
            env=environment | surroundings,
            check=True,
            capture_output=True,
        )
        trees.append(tree(out / "unicode-n-quotes"))
    assert len(trees[0]) > 30
    assert trees[0] == trees[1]


def crlf(template: Path, tmp_path: Path) -> Path:
    """Return a copy of the template with the line ends of Windows, as a check-out may have."""
    copy = tmp_path / "windows"
    shutil.copytree(template, copy)
    files = [copy / "cookiecutter.json", copy / "local_extensions.py"]
    files += [path for name in ("hooks", TEMPLATE.name) for path in (copy / name).rglob("*")]
    for path in filter(Path.is_file, files):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    return copy


def test_windows_can_hold_every_path(template: Path, bake: Bake) -> None:
    longest = bake(project_slug="a" * 50)
    paths = [path.relative_to(template).as_posix() for path in template.rglob("*")]
    rendered = [f"{longest.path.name}/{name}" for name in longest.files()]
    device = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
    for path in [*paths, *rendered]:
        assert len(path) <= 120, path
        for part in path.split("/"):
            assert not device.fullmatch(part), path
            assert not re.search(r'[<>:"\\|?*\x00-\x1f]|[. ]$', part), path
    for every in (paths, rendered):
        assert len({path.lower() for path in every}) == len(every), "two names differ in case alone"
