"""The pipelines of a service as files, and the robots' job; tests/image/test_pipelines.py runs the rest."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.commands import commit, run
from tests.support.pipelines import JobError, Runner, lend_venv, of_github, of_gitlab
from tests.support.repository import CONFIG
from tests.support.services import Bake, Service

BIN = Path(sys.executable).parent
WORKFLOWS = ".github/workflows"


def valid(service: Service, schema: str, *files: str) -> None:
    """Check files against a schema that check-jsonschema ships."""
    gitlab = ("--data-transform", "gitlab-ci") if schema == "gitlab-ci" else ()
    service.run(str(BIN / "check-jsonschema"), f"--builtin-schema=vendor.{schema}", *gitlab, *files)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_files_of_both_pipelines_are_sound(database: str, bake: Bake) -> None:
    service = bake(database=database, ci="gitlab")
    valid(service, "gitlab-ci", ".gitlab-ci.yml")
    valid(service, "renovate", "renovate.json")
    assert len(service.read(".gitlab-ci.yml").splitlines()) <= 90
    service = bake(database=database)
    workflows = [f"{WORKFLOWS}/ci.yml", f"{WORKFLOWS}/upgrade.yml"]
    service.run(str(BIN / "zizmor"), "--offline", "--quiet", "--persona=pedantic", ".github")
    valid(service, "github-workflows", *workflows)
    valid(service, "dependabot", ".github/dependabot.yml")
    for name in workflows:
        assert len(service.read(name).splitlines()) <= 120


@pytest.mark.parametrize("ci", CONFIG["ci"])
def test_there_is_no_trace_of_another_pipeline(ci: str, bake: Bake) -> None:
    service = bake(ci=ci)
    words = {"github": "gitlab|renovate", "gitlab": "dependabot|github_"}
    pattern = words.get(ci, "gitlab|renovate|dependabot|ghcr|github_")
    for name in service.files():
        if not name.startswith("requirements"):
            assert not re.search(f"(?i){pattern}", service.read(name)), name


def test_gitlab_tests_with_the_database_of_compose(bake: Bake) -> None:
    service = bake(database="postgresql", ci="gitlab")
    (database,) = yaml.safe_load(service.read(".gitlab-ci.yml"))["test"]["services"]
    compose = yaml.safe_load(service.read("compose.yaml"))["services"]["database"]
    assert (database["name"], database["alias"]) == (compose["image"], "database")


def copied(service: Service, folder: Path) -> Service:
    """Return a copy of a service as a repository with one commit."""
    commit((copy := service.copy(folder)).path)
    return copy


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """Return a repository to push to."""
    folder = tmp_path / "upstream.git"
    subprocess.run(["git", "init", "--quiet", "--bare", folder], check=True)
    config = ("config", "receive.advertisePushOptions", "true")
    subprocess.run(["git", "-C", folder, *config], check=True)
    return folder


@pytest.mark.parametrize("newer", [True, False])
@pytest.mark.parametrize("ci", ["github", "gitlab"])
def test_a_newer_lock_is_proposed(
    ci: str, newer: bool, upstream: Path, bake: Bake, tmp_path: Path
) -> None:
    service = copied(bake(database="none", ci=ci), tmp_path / "service")
    jobs = (
        {"upgrade": of_github(service.path / f"{WORKFLOWS}/upgrade.yml")["propose"]}
        if ci == "github"
        else of_gitlab(service.path / ".gitlab-ci.yml")
    )
    url = "https://oauth2:t0ken@gitlab.example.com/team/my-service.git"
    runner = Runner(service, tmp_path / "runner", "registry.example.com", {})
    runner.variables = {
        "UPGRADE_TOKEN": "t0ken",
        "CI_SERVER_HOST": "gitlab.example.com",
        "CI_PROJECT_PATH": "team/my-service",
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": f"url.{upstream}.insteadOf",
        "GIT_CONFIG_VALUE_0": url,
        "GIT_CONFIG_KEY_1": f"url.{upstream}.insteadOf",
        "GIT_CONFIG_VALUE_1": str(service.path),
    }
    uv = runner.folder / "programs" / "uv"
    change = 'echo "# newer" >>requirements.txt' if newer else ":"
    uv.write_text(f'#!/bin/sh\necho "uv: $*"\n{change}\n')
    uv.chmod(0o755)
    printed = runner.run(jobs["upgrade"])
    assert "uv: pip compile" in printed
    assert "--upgrade" in printed
    branches = run("git", "-C", upstream, "branch", "--list", cwd=tmp_path).split()
    assert branches == (["upgrade-locks"] if newer else [])
    if newer:
        show = ("git", "-C", upstream, "show", "--format=%s", "--name-only", "upgrade-locks")
        assert run(*show, cwd=tmp_path).split("\n\n") == ["Upgrade the locks", "requirements.txt\n"]
    if ci == "github":
        assert ("pr create" in runner.calls.read_text()) is newer


def test_the_upgrade_is_tested_before_it_is_proposed(bake: Bake) -> None:
    """On GitLab, the pipeline of the merge request tests it."""
    workflow = yaml.safe_load(bake().read(f"{WORKFLOWS}/upgrade.yml"))
    assert workflow["jobs"]["propose"]["needs"] == "test"
    scripts = [each.text for each in of_github(bake().path / f"{WORKFLOWS}/upgrade.yml")["test"]]
    assert scripts == ["make lock UPGRADE=--upgrade", "make check", "make test"]


@pytest.mark.parametrize("database", CONFIG["database"])
def test_commands_for_assistants_are_few_and_right(database: str, bake: Bake) -> None:
    service = bake(database=database)
    text = service.read("AGENTS.md")
    assert len(text.splitlines()) <= 25
    assert service.read("CLAUDE.md") == "@AGENTS.md\n"
    commands = re.findall(r"`(make [^`]+)`", text)
    assert len(commands) >= 8
    for command in commands:
        run("sh", "-c", command.replace("make", "make --dry-run", 1), cwd=service.path)
    for path in re.findall(r"`([\w/]+\.\w+|\w+/)`", text):
        assert [*service.path.rglob(path.rstrip("/"))] or (service.path / path).exists(), path


@pytest.mark.slow
def test_the_hooks_before_a_commit_use_the_service_s_own_tools(bake: Bake, tmp_path: Path) -> None:
    service = copied(bake(), tmp_path / "service")
    lend_venv(service.path)
    prek = (str(BIN / "prek"), "run", "--all-files")
    assert service.run(*prek, PREK_HOME=str(tmp_path)).count("Passed") == 3
    (service.path / "app" / "items" / "models.py").write_text("import os\nx : int = 'a'\n")
    assert service.fails(*prek).count("Failed") == 3


def test_a_job_ends_at_the_first_line_that_fails(bake: Bake, tmp_path: Path) -> None:
    """The proofs rest on this runner."""
    service = copied(bake(ci="gitlab"), tmp_path / "service")
    (service.path / ".gitlab-ci.yml").write_text('job: {script: ["echo one; false", "echo two"]}')
    commit(service.path)
    runner = Runner(service, tmp_path / "runner", "", {})
    with pytest.raises(JobError, match=r"\none\n$"):
        runner.run(of_gitlab(service.path / ".gitlab-ci.yml")["job"])
