"""The template's source: a service with every feature on, in which each tag is a comment."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from hooks import post_gen_project
from tests.support.commands import run
from tests.support.repository import CONFIG, ROOT, TEMPLATE, sources
from tests.support.services import Bake

TAG = re.compile(r"\s*# \{% (if [a-z_.=!' \"]+|endif) %\}")


def in_place(*command: str) -> None:
    """Run `command` in the template folder, without leaving anything there."""
    run(sys.executable, *command, cwd=TEMPLATE)


def test_a_tag_fills_a_line_and_is_never_nested() -> None:
    for source in sources():
        depth = 0
        for number, line in enumerate(source.read_text("utf-8").splitlines(), 1):
            where = f"{source.relative_to(ROOT)}:{number}: {line}"
            if "{%" in line:
                assert TAG.fullmatch(line), where
                depth += -1 if "endif" in line else 1
            assert 0 <= depth <= 1, where
        assert depth == 0, source


def test_tags_stay_within_their_budget() -> None:
    tags = lines = 0
    for source in sources():
        text = source.read_text("utf-8")
        here = text.count("{%")
        # scripts/lock.py writes those of the locks.
        assert here <= 10 or source.name.startswith("requirements"), source
        tags += here
        lines += len(text.splitlines())
    assert tags <= 0.03 * lines


def test_every_file_of_a_feature_exists() -> None:
    for paths in CONFIG["_features"].values():
        assert len(paths) == len(set(paths))
        for path in paths:
            assert (TEMPLATE / path).is_file(), path


def test_every_file_of_an_overlay_replaces_a_file() -> None:
    listed = {path for paths in CONFIG["_features"].values() for path in paths}
    for folder in post_gen_project.OVERLAYS:
        for path in sources():
            if path.is_relative_to(TEMPLATE / folder):
                assert path.relative_to(TEMPLATE).as_posix() in listed
                assert (TEMPLATE / path.relative_to(TEMPLATE / folder)).is_file(), path


def test_the_template_folder_passes_its_own_tests_in_place() -> None:
    in_place("-m", "pytest", "--ignore=tests/server", "-q", "-p", "no:cacheprovider")


def test_the_template_folder_type_checks_in_place() -> None:
    in_place("-m", "mypy", "--cache-dir", os.devnull)


def test_the_repository_s_own_code_is_clean() -> None:
    for command in (
        ["-m", "ruff", "check", "--no-cache"],
        ["-m", "ruff", "format", "--no-cache", "--check"],
        ["-m", "mypy", "--cache-dir", os.devnull],
    ):
        run(sys.executable, *command, cwd=ROOT)


def pins(lock: Path) -> dict[str, str]:
    """Return the versions that `lock` pins, by package."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text("utf-8"), re.MULTILINE))


RUNTIME = TEMPLATE / "requirements.txt"
DEV = TEMPLATE / "requirements-dev.txt"
TESTS = ROOT / "tests" / "requirements.txt"


@pytest.mark.parametrize(
    ("database", "packages"), [("none", 18), ("sqlite", 22), ("postgresql", 25)]
)
def test_the_image_gets_no_more_than_the_service_needs(
    database: str, packages: int, bake: Bake
) -> None:
    lock = bake(database=database).path / "requirements.txt"
    assert len(pins(lock)) == packages
    assert not pins(lock).keys() & {"pip", "pytest", "httpx2", "ruff", "mypy", "uvloop"}


@pytest.mark.slow
def test_the_locks_are_what_lock_py_writes() -> None:
    """With the ranges of pyproject.toml, one version of a package everywhere, and a hash for each."""
    before = {lock: lock.read_bytes() for lock in (RUNTIME, DEV, TESTS)}
    try:
        run(sys.executable, "scripts/lock.py", cwd=ROOT)
        assert before == {lock: lock.read_bytes() for lock in before}
    finally:
        for lock, content in before.items():
            lock.write_bytes(content)
