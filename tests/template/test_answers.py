"""Answers: valid ones are rendered exactly, invalid ones are refused before anything is written.

`EXAMPLES=10000 pytest -m slow tests/template/test_answers.py` tries more of them than the usual 300.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cookiecutter
import pytest
import yaml
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter as generate
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from local_extensions import RESERVED, RULES, find_problem, is_slug, markdown, quoted, slug
from tests.support.commands import commit, edit, outcome, run
from tests.support.repository import CONFIG, QUESTIONS, tree

quickly = settings(max_examples=200, deadline=None)
thoroughly = settings(
    max_examples=int(os.environ.get("EXAMPLES", "300")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a smaller example would take minutes
)

BIDIRECTIONAL = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
# One a line; blanks count.
TRICKY = r"""
' " \ \\ \n \u \x41 \N{DASH} ` ``` $ ${HOME} $(id) % %s # { } }} %} #} {} é ß שלום 日本 👩‍🔬 🇩🇪 👍🏽
* ** _ a_b ~~ [a](b) ![a](b) <b> <!-- &amp; &#65; | > - + 1. 1) --- === : ! @ </script> cookiecutter
null true 0.0.0.0 /tmp/x noqa
""".split()
TRICKY += '|> |- |+ |1. |# |: |, | # | ##|  |"""|type: ignore|e\u0301'.split("|")
TRICKY += "\u200d\u200f\u200b\xa0\xad\u3000\ufeff\uffff"


def free_text(longest: int) -> st.SearchStrategy[str]:
    """Generate any text that the rules allow."""
    characters = st.characters(
        exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters=BIDIRECTIONAL
    )
    pieces = st.lists(st.sampled_from(TRICKY) | characters, min_size=1, max_size=60)
    texts = pieces.map(lambda found: re.sub(r"\{(?=[{%#])", "", "".join(found))[:longest].strip())
    return texts.filter(lambda text: any(map(str.isprintable, text))) | st.just("é" * longest)


def wrong_text(longest: int) -> st.SearchStrategy[Any]:
    """Generate text with one fault."""
    refused = st.characters(categories=["Cc", "Cs", "Zl", "Zp"])
    refused |= st.sampled_from([*BIDIRECTIONAL, "{{", "{%", "{#"])
    broken = st.tuples(free_text(longest // 2), refused, free_text(longest // 2)).map("".join)
    others = ["", " ", "\xa0", " x", "x ", "\u3000x", "\u200d", "x" * (longest + 1), *ODD]
    return broken | refused | st.sampled_from(others)


ODD: list[Any] = [None, 4.5, ["8000"], {"a": "b"}]
NO_NUMBERS = [*",4 ,+4,-4,04,08000,8_000,1e4,4.0,0x2000,٤,Auto,8000\n".split(","), True, *ODD]
NO_SLUGS = ["a\n", "a" * 51, *"../evil /evil A a 3d -a a- a--b a_b a.b \uff41".split()]
Strategy = st.SearchStrategy[Any]
RIGHT: dict[str, Strategy] = {
    "project_name": free_text(60).filter(lambda text: "</title" not in text.lower()),
    "project_slug": st.from_regex("[a-z](-?[a-z0-9]){3,24}", fullmatch=True).filter(is_slug),
    "description": free_text(200),
    "port": st.integers(1024, 65535) | st.integers(1024, 65535).map(str),
    "workers": st.integers(1, 64) | st.integers(1, 64).map(str) | st.just("auto"),
    "create_venv": st.booleans(),
}
WRONG: dict[str, Strategy] = {
    "project_name": wrong_text(60) | st.sampled_from(["a</title>", "</TITLE >", "</Title/"]),
    "project_slug": st.sampled_from([*NO_SLUGS, *RESERVED, *ODD])
    | st.text("aA0-_. ").filter(lambda t: not is_slug(t)),
    "description": wrong_text(200),
    "port": st.integers(max_value=1023) | st.sampled_from([65536, "auto", "80", *NO_NUMBERS]),
    "workers": st.integers(min_value=65) | st.sampled_from([0, -1, "65", *NO_NUMBERS]),
    "create_venv": st.sampled_from(["", "maybe", 2, 0, *ODD]),
}
for menu in QUESTIONS:
    if isinstance(CONFIG[menu], list):
        RIGHT[menu] = st.sampled_from(CONFIG[menu])
        others = {other for o in CONFIG[menu] for other in (o + " ", " " + o, o.title())}
        others |= {"", "3.10", "3", "maybe"}
        WRONG[menu] = st.sampled_from([*sorted(others - {*CONFIG[menu]}), True, *ODD])


# --- the encoders


@quickly
@given(free_text(200) | st.sampled_from(TRICKY))
@example("".join(chr(n) for n in range(0x20, 0x30000) if n not in range(0xD800, 0xE000)))
def test_quoted_text_reads_back_in_python_toml_and_yaml(text: str) -> None:
    assert ast.literal_eval(f'"{quoted(text)}"') == text
    assert tomllib.loads(f'x = "{quoted(text)}"') == {"x": text}
    assert yaml.safe_load(f'x: "{quoted(text)}"') == {"x": text}


def test_visible_text_stays_readable_and_invisible_characters_become_escapes() -> None:
    for text in ("It's über-fast", "👩‍🔬🇩🇪", "می‌خواهم", "日本語", "100 % & $5"):
        assert quoted(text) == text
    for character in "\x1b\x7f\x85\xa0\xad\u200b\u200f\u2028\u202e\u3000\ufeff":
        assert quoted(character) == f"\\u{ord(character):04x}"


def shown(text: str) -> list[tuple[str, str]]:
    """Render Markdown; return each block's kind, and its text as a reader sees it."""

    def plain(part: Token) -> str:
        return part.content if part.type in ("text", "text_special") else f"<{part.type}>"

    blocks = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    return [
        (before.tag, "".join(map(plain, block.children or [])))
        for before, block in pairwise(blocks)
        if block.type == "inline"
    ]


@quickly
@given(free_text(200))
@example("_a_ __b__ ___ a_b_c")
def test_markdown_shows_the_text_as_it_is(text: str) -> None:
    page = f"# {markdown(text)}\n\n{markdown(text)}\n\nEnd.\n"
    assert shown(page) == [("h1", text), ("p", text), ("p", "End.")]


@pytest.mark.parametrize("text", [CONFIG["description"], "C# & F#: fast, 3.14-ready (v2)!", "a_b"])
def test_markdown_leaves_ordinary_sentences_alone(text: str) -> None:
    assert markdown(text) == text


# --- the short name


@quickly
@given(st.text() | free_text(60) | st.sampled_from(sorted(RESERVED)))
def test_a_short_name_made_from_any_text_is_valid(text: str) -> None:
    assert is_slug(slug(text))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("My Service", "my-service"),
        ("  Bob's  shop_API ", "bobs-shop-api"),
        ("3D printer", "service-3d-printer"),
        ("Café Größe", "cafe-grosse"),
        ("Привет", "privet"),
        ("🚀", "service"),
        ("Con", "con-service"),
        ("Database", "database-service"),  # the host of PostgreSQL in compose.yaml
        ("x", "x-service"),
        ("Hi", "hi"),
        ("B2 shop", "b2-shop"),
        ("x" * 49 + " y", "x" * 49),
        ("x" * 60, "x" * 50),
        ("my-service-2", "my-service-2"),
    ],
)
def test_short_names_are_made_from_names(name: str, expected: str) -> None:
    assert slug(name) == expected


# --- the rules


def test_every_question_has_a_rule_and_the_check_comes_last() -> None:
    assert [*RULES] == QUESTIONS
    assert {*RIGHT} == {*WRONG} == {*QUESTIONS}
    assert [*CONFIG][-1] == "__checked"
    for question, rule in RULES.items():
        assert rule.accepts(
            rule.example.title() if isinstance(CONFIG[question], bool) else rule.example
        )
        if isinstance(CONFIG[question], list):
            assert rule.example == CONFIG[question][0]


@pytest.mark.parametrize("question", QUESTIONS)
def test_right_answers_pass_and_wrong_ones_get_a_line_with_rule_and_example(question: str) -> None:
    @quickly
    @given(RIGHT[question], WRONG[question])
    def check(right: object, wrong: object) -> None:
        assert find_problem(question, right) == ""
        line = find_problem(question, wrong)
        assert line.startswith(f"{question}: {repr(wrong)[:70]} is refused; it must be ")
        assert line.endswith(f", such as {RULES[question].example}")
        assert line.isprintable()

    check()


@pytest.mark.parametrize(
    ("question", "least", "most"),
    [
        ("port", 1024, 65535),
        ("workers", 1, 64),
        ("project_name", 1, 60),
        ("project_slug", 2, 50),
        ("description", 1, 200),
    ],
)
def test_numbers_and_lengths_at_the_limits(question: str, least: int, most: int) -> None:
    answer = str if question in ("port", "workers") else "a".__mul__
    tried = least - 1, least, most, most + 1
    assert [n for n in tried if not find_problem(question, answer(n))] == [least, most]


# --- every way that answers take


@dataclass(frozen=True)
class Workspace:
    """A home, a temporary folder and an output folder, none of them empty, and the template."""

    root: Path
    template: Path

    @property
    def out(self) -> Path:
        """The folder where services are generated."""
        return self.root / "parent" / "out"

    def run(self, *command: str, typed: str = "", **environment: str) -> tuple[int, str]:
        """Run a module of Python in this workspace; return its exit status and what it printed."""
        own = {"HOME": str(self.root / "home"), "TMPDIR": str(self.root / "tmp")}
        own["PYTHONUTF8"] = "1"
        env = os.environ | own | environment
        return outcome(sys.executable, "-m", *command, cwd=self.out, env=env, input=typed)

    def call(self, answers: dict[str, Any] | None, **arguments: Any) -> Path:
        """Call Cookiecutter from Python; return the service's folder."""
        arguments.setdefault("default_config", self.config())
        arguments |= {"output_dir": str(self.out), "accept_hooks": False}
        arguments |= {"no_input": answers is not None, "extra_context": answers}
        return Path(generate(str(self.template), **arguments))

    def config(self, **default_context: Any) -> dict[str, Any]:
        """Return the user's configuration of Cookiecutter."""
        home = str(self.root / "home" / ".cookiecutter")
        folders = {"replay_dir": home, "cookiecutters_dir": home}
        return folders | {"default_context": default_context}

    def replay(self, **changed: Any) -> Path:
        """Replay the defaults with some values changed."""
        file = self.root / "replay.json"
        answers = {
            k: v[0] if k in QUESTIONS and isinstance(v, list) else v for k, v in CONFIG.items()
        }
        file.write_text(json.dumps({"cookiecutter": answers | changed}), encoding="utf-8")
        return self.call(None, replay=str(file))

    def cruft(self, command: str, **answers: Any) -> str:
        """Let cruft create or update the service `shop`; raise with what it prints where it fails."""
        commit(self.template)
        shop, option = self.out / "shop", "--extra-context"
        words = [str(self.template)]
        if command == "update":
            commit(shop)
            words, option = ["--project-dir", str(shop)], "--variables-to-update"
        status, printed = self.run("cruft", command, "-y", *words, option, json.dumps(answers))
        if status:
            raise FailedHookException(printed)
        return printed


@pytest.fixture
def workspace(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    for name in ("home", "tmp", "parent/out"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "mine.txt").write_text("Keep this.", encoding="utf-8")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # beside local_extensions.py
    shutil.copytree(template, tmp_path / "template")
    return Workspace(tmp_path, tmp_path / "template")


REFUSED = (
    """\
project_name: 'Bob\\u202e\\x1b[31m' is refused; it must be 1 to 60 visible characters, no blank at \
either end, no {{, {% or {#, no </title, such as My Service
project_slug: '../evil' is refused; it must be 2 to 50 of a-z, 0-9 and single hyphens, a letter \
first, no reserved name (app, con, ...), such as my-service
port: '99999999' is refused; it must be a number from 1024 to 65535, such as 8000
'pyhton_version' is not a question; did you mean python_version?
'colour' is not a question; the questions are """
    + ", ".join(QUESTIONS)
    + "\n"
)


@pytest.mark.parametrize("options", ["--no-input", "--accept-hooks no", ""])
def test_the_command_refuses_all_at_once_before_it_asks(options: str, workspace: Workspace) -> None:
    before = tree(workspace.root)
    words = ["project_name=Bob\u202e\x1b[31m", "project_slug=../evil", "port=99999999"]
    words += ["create_venv=no", "python_version=3.12", "pyhton_version=3.11", "colour=red"]
    assert workspace.run("cookiecutter", str(workspace.template), *options.split(), *words) == (
        1,
        REFUSED,
    )
    assert tree(workspace.root) == before


@pytest.mark.parametrize("words", [["kubernetes=yes"], ["kubernetes=yes", "database=sqlite"]])
def test_kubernetes_is_refused_with_a_database_that_is_a_file(
    words: list[str], workspace: Workspace
) -> None:
    before = tree(workspace.root)
    told = "kubernetes: 'yes' is refused; it needs database=postgresql or none\n"
    assert workspace.run("cookiecutter", str(workspace.template), "--no-input", *words) == (1, told)
    assert tree(workspace.root) == before


def test_cruft_refuses_in_the_same_words_without_a_traceback(workspace: Workspace) -> None:
    commit(workspace.template)
    before = tree(workspace.root / "parent")
    answers = {"project_name": "Bob\u202e\x1b[31m", "project_slug": "../evil", "port": "99999999"}
    with pytest.raises(FailedHookException) as refusal:
        workspace.cruft("create", **answers, pyhton_version="3.11", colour="red")
    assert str(refusal.value) == REFUSED
    assert tree(workspace.root / "parent") == before


def test_typed_answers_are_refused_after_the_last_question(workspace: Workspace) -> None:
    before = tree(workspace.root)
    answers = {"project_name": "Bob's shop", "description": "Says {% hi %}", "python_version": "2"}
    answers |= {"port": "80", "workers": "auto", "database": "3", "ci": "3", "create_venv": "n"}
    typed = "".join(answers.get(question, "") + "\n" for question in QUESTIONS)
    status, printed = workspace.run("cookiecutter", str(workspace.template), typed=typed)
    _, _, refusal = printed.partition("[y/n] (y):")
    assert [line.partition(":")[0] for line in refusal.strip().splitlines()] == [
        "description",
        "port",
    ]
    assert status == 1
    assert tree(workspace.root) == before


def test_a_console_that_lacks_a_letter_shows_its_escape(workspace: Workspace) -> None:
    words = ["--no-input", "project_name=Café", "port=é"]
    ascii_only = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    status, printed = workspace.run("cookiecutter", str(workspace.template), *words, **ascii_only)
    assert (status, printed.startswith("port: '\\xe9' is refused")) == (1, True)


def test_an_old_cookiecutter_gets_one_line(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cookiecutter, "__version__", "2.6.0")
    with pytest.raises(FailedHookException, match=r"^Cookiecutter 2\.7 or newer .* is 2\.6\.0$"):
        workspace.call({})
    monkeypatch.setattr(cookiecutter, "__version__", "2.10.0.dev1")
    workspace.call({})


CODE = "{{ cycler.__init__.__globals__.os.mkdir('executed') }}"
LINE_CODE = "% set x = cycler.__init__.__globals__.os.mkdir('executed')"


def from_default_context(**default_context: Any) -> Callable[[Workspace], object]:
    def call(workspace: Workspace) -> object:
        return workspace.call({}, default_config=workspace.config(**default_context))

    return call


def from_cruft_json(workspace: Workspace) -> None:
    workspace.cruft("create", project_slug="shop", create_venv=False)
    edit(workspace.out / "shop" / ".cruft.json", CONFIG["description"], CODE)
    workspace.cruft("update", port="9000")


WAYS: dict[str, Callable[[Workspace], object]] = {
    "call": lambda workspace: workspace.call({"description": CODE}),
    "call with a mapping": lambda workspace: workspace.call({"description": {CODE: CODE}}),
    "call without extensions": lambda workspace: workspace.call(
        {"description": CODE, "_extensions": []}
    ),
    "default_context": from_default_context(description=CODE),
    "default_context without the check": from_default_context(project_slug=CODE, __checked=""),
    "default_context without extensions": from_default_context(description=CODE, _extensions=[]),
    ".cruft.json": from_cruft_json,
    "cruft create": lambda workspace: workspace.cruft("create", description=CODE),
    "cruft create without extensions": lambda workspace: workspace.cruft(
        "create", description=CODE, _extensions=[]
    ),
    "replay file": lambda workspace: workspace.replay(project_slug="../evil", description=CODE),
}


@pytest.mark.parametrize("way", WAYS)
def test_code_in_an_answer_is_refused_and_never_runs(
    way: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.out)
    with pytest.raises((FailedHookException, TypeError)):
        WAYS[way](workspace)
    assert not any(
        path.name in ("executed", "evil", "my-service") for path in workspace.root.rglob("*")
    )


@pytest.mark.parametrize(
    ("code", "syntax"),
    [
        (LINE_CODE, {"line_statement_prefix": "%"}),
        (CODE.replace("{{", "<<"), {"variable_start_string": "<<"}),
        ("<b> & 'x'", {"autoescape": True}),
    ],
)
def test_an_answer_stays_text_under_another_syntax(
    code: str, syntax: dict[str, Any], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.out)
    service = from_default_context(description=code, _jinja2_env_vars=syntax)(workspace)
    assert not (workspace.out / "executed").exists()
    assert read_back(Path(str(service)))["description"] == code


@pytest.mark.slow
def test_an_update_renders_each_version_with_its_own_filters(workspace: Workspace) -> None:
    workspace.cruft("create", project_slug="shop", create_venv=False)
    extension = workspace.template / "local_extensions.py"
    edit(extension, "return ESCAPED.sub(", 'return "New!"  # ')
    workspace.cruft("update", port="9000")
    assert read_back(workspace.out / "shop")["title"] == "New!"


# --- in every file, by the hundred


def read_back(service: Path) -> dict[str, Any]:
    """Read the answers as the tools do that use the files."""
    syntax = ast.parse((service / "app" / "main.py").read_text(encoding="utf-8"))
    calls = (node for node in ast.walk(syntax) if isinstance(node, ast.Call))
    found = {
        keyword.arg: keyword.value.value
        for call in calls
        if ast.unparse(call.func) == "Service"
        for keyword in call.keywords
        if keyword.arg and isinstance(keyword.value, ast.Constant)
    }
    project = tomllib.loads((service / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    dockerfile = (service / "Dockerfile").read_text(encoding="utf-8")
    told = dict(re.findall(r"(PYTHON_VERSION|PORT|WORKERS|title)=([^\s\\]+)", dockerfile))
    compose = yaml.safe_load((service / "compose.yaml").read_text(encoding="utf-8"))
    readme = shown((service / "README.md").read_text(encoding="utf-8"))
    slugs = [project["name"], compose["name"], json.loads(told["title"])]
    return {
        "title": found["title"],
        "description": found["description"],
        "project": project["description"],
        "readme": [text for _, text in readme[:2]],
        "slugs": slugs,
        "python_version": told["PYTHON_VERSION"],
        "ports": [told["PORT"], compose["x-port"].removeprefix("${PORT:-").removesuffix("}")],
        "workers": told["WORKERS"],
    }


# Short names that mean something else to YAML where they are not quoted.
WORDS = ["true", "false", "null", "yes", "no", "on", "off"]


@pytest.mark.slow
def test_right_answers_are_right_in_every_file(workspace: Workspace) -> None:
    lines = []

    @thoroughly
    @given(
        st.fixed_dictionaries(
            {**RIGHT, "project_slug": RIGHT["project_slug"] | st.sampled_from(WORDS)}
        ).filter(lambda answers: (answers["database"], answers["kubernetes"]) != ("sqlite", "yes"))
    )
    def check(answers: dict[str, Any]) -> None:
        service = workspace.call(answers)
        name, description, port = (answers[q] for q in ("project_name", "description", "port"))
        try:
            assert read_back(service) == {
                "title": name,
                "description": description,
                "project": description,
                "readme": [name, description],
                "slugs": [answers["project_slug"]] * 3,
                "python_version": answers["python_version"],
                "ports": [str(port)] * 2,
                "workers": str(answers["workers"]),
            }
            main = (service / "app" / "main.py").read_text(encoding="utf-8")
            lines.extend(re.findall("^ +(?:title|description)=.*\n", main, re.MULTILINE))
        finally:
            shutil.rmtree(service)

    check()
    # All of them in one file: the service's linter and formatter must accept any text there.
    main_py = workspace.call({"project_slug": "together"}) / "app" / "main.py"
    with main_py.open("a", encoding="utf-8", newline="\n") as file:
        pairs = zip(lines[::2], lines[1::2], strict=True)
        calls = (
            f"    FastAPI(\n        {a.strip()}\n        {b.strip()}\n    ),\n" for a, b in pairs
        )
        file.write(f"\nothers = [\n{''.join(calls)}]\n")
    for command in (["check", "--output-format=concise"], ["format", "--diff"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "app/main.py"]
        run(*ruff, cwd=main_py.parents[1])


@pytest.mark.slow
def test_wrong_answers_leave_no_trace(workspace: Workspace) -> None:
    before = tree(workspace.root)
    # Cookiecutter refuses these itself, one at a time.
    by_cookiecutter = {"python_version", "database", "ci", "kubernetes", "create_venv"}

    @thoroughly
    @given(st.fixed_dictionaries({}, optional=WRONG).filter(bool))
    def check(wrong: dict[str, Any]) -> None:
        with pytest.raises((FailedHookException, ValueError)) as refusal:
            workspace.call(wrong)
        named = [line.partition(": ")[0] for line in str(refusal.value).split("\n")]
        assert sorted(named) == sorted(wrong) or wrong.keys() & by_cookiecutter
        assert tree(workspace.root) == before

    check()
