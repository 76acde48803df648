"""Answers: right ones arrive exactly, wrong ones are refused before anything is written.

`EXAMPLES=10000 pytest -m slow tests/test_answers.py` tries more of them than the usual 300.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
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
from tests.conftest import CONFIG, QUESTIONS, commit, tree
from tests.containers import docker, require_docker

quickly = settings(max_examples=200, deadline=None)
thoroughly = settings(
    max_examples=int(os.environ.get("EXAMPLES", "300")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a smaller example would take minutes
)

BIDIRECTIONAL = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
TRICKY = [
    *(
        "'",
        '"',
        '"""',
        "\\",
        "\\n",
        "\\u",
        "\\x41",
        "\\N{DASH}",
        "`",
        "```",
        "$",
        "${HOME}",
        "$(id)",
    ),
    *("%", "%s", "#", " # ", "{", "}", "}}", "%}", "#}", "{ {", "{}", "é", "e\u0301", "ß", "שלום"),
    *(
        "日本",
        "👩‍🔬",
        "🇩🇪",
        "👍🏽",
        "\u200d",
        "\u200f",
        "\u200b",
        "\xa0",
        "\xad",
        "\u3000",
        "\ufeff",
        "\uffff",
    ),
    *("*", "**", "_", "a_b", "~~", "[a](b)", "![a](b)", "<b>", "<!--", "&amp;", "&#65;", "|", "> "),
    *("- ", "+ ", "1. ", "1) ", "# ", "---", "===", " ##", "  ", " ", ":", ": ", ", ", "!", "@"),
    *("null", "true", "0.0.0.0", "/tmp/x", "noqa", "type: ignore", "</script>", "cookiecutter"),  # noqa: S104, S108
]


def free_text(longest: int) -> st.SearchStrategy[str]:
    """Generate any text that the rules allow."""
    characters = st.characters(
        exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters=BIDIRECTIONAL
    )
    pieces = st.lists(st.sampled_from(TRICKY) | characters, min_size=1, max_size=60)
    texts = pieces.map(lambda found: re.sub(r"\{(?=[{%#])", "", "".join(found))[:longest].strip())
    return texts.filter(lambda text: any(map(str.isprintable, text))) | st.just("é" * longest)


def wrong_text(longest: int) -> st.SearchStrategy[str]:
    """Generate text with one fault."""
    refused = st.characters(categories=["Cc", "Cs", "Zl", "Zp"])
    refused |= st.sampled_from([*BIDIRECTIONAL, "{{", "{%", "{#"])
    broken = st.tuples(free_text(longest // 2), refused, free_text(longest // 2)).map("".join)
    blank = st.sampled_from(["", " ", "\xa0", " x", "x ", "\u3000x", "\u200d"])
    return broken | refused | blank | st.just("x" * (longest + 1))


NUMBERS = [
    "",
    " ",
    "4 ",
    "+4",
    "-4",
    "04",
    "08000",
    "8_000",
    "8000\n",
    "1e4",
    "4.0",
    "0x2000",
    "٤",
    "Auto",
]
ODD: st.SearchStrategy[Any] = st.none() | st.just(4.5) | st.just(["8000"]) | st.just({"a": "b"})
RIGHT: dict[str, st.SearchStrategy[Any]] = {
    "project_name": free_text(60).filter(lambda text: "</title" not in text.lower()),
    "project_slug": st.from_regex("[a-z](-?[a-z0-9]){1,24}", fullmatch=True).filter(
        lambda text: text not in RESERVED
    ),
    "description": free_text(200),
    "python_version": st.sampled_from(CONFIG["python_version"]),
    "port": st.integers(1024, 65535) | st.integers(1024, 65535).map(str),
    "workers": st.integers(1, 64) | st.integers(1, 64).map(str) | st.just("auto"),
    "database": st.sampled_from(CONFIG["database"]),
    "create_venv": st.booleans(),
}
WRONG: dict[str, st.SearchStrategy[Any]] = {
    "project_name": wrong_text(60) | st.sampled_from(["a</title>", "</TITLE >", "</Title/"]) | ODD,
    "project_slug": st.sampled_from(
        [*RESERVED, "../evil", "/evil", "A", "a", "3d", "-a", "a-", "a--b"]
    )
    | st.sampled_from(["a_b", "a.b", "a\n", "\uff41", "a" * 51])
    | st.text().filter(lambda text: not re.fullmatch("[a-z](-?[a-z0-9]){1,49}", text))
    | ODD,
    "description": wrong_text(200) | ODD,
    "python_version": st.sampled_from(["2.7", "3.10", "3.16", "3", "latest", "", "3.14 "]) | ODD,
    "port": st.integers().filter(lambda n: not 1024 <= n <= 65535)
    | st.sampled_from([*NUMBERS, "auto", "80", "1023", "65536", True])
    | ODD,
    "workers": st.integers().filter(lambda n: not 1 <= n <= 64)
    | st.sampled_from([*NUMBERS, "0", "65", True])
    | ODD,
    "database": st.sampled_from(["", "mysql", "SQLite", "postgres", "sqlite "]) | ODD,
    "create_venv": st.sampled_from(["", "maybe", "no", 2, 0]) | ODD,
}
# Cookiecutter itself refuses these, one at a time, before it asks the template.
BY_COOKIECUTTER = ["python_version", "database", "create_venv"]


# --- the encoders


@quickly
@given(free_text(200) | st.sampled_from(TRICKY))
@example("".join(chr(n) for n in range(0x20, 0x30000) if n not in range(0xD800, 0xE000)))
def test_quoted_text_reads_back_in_python_toml_and_yaml(text: str) -> None:
    assert ast.literal_eval(f'"{quoted(text)}"') == text
    assert tomllib.loads(f'x = "{quoted(text)}"') == {"x": text}
    assert yaml.safe_load(f'x: "{quoted(text)}"') == {"x": text}


@pytest.mark.parametrize("text", ["It's über-fast", "👩‍🔬🇩🇪", "می‌خواهم", "日本語", "100 % & $5"])
def test_visible_text_stays_readable_when_quoted(text: str) -> None:
    assert quoted(text) == text


@pytest.mark.parametrize("character", [*"\x1b\x7f\x85\xa0\xad\u200b\u200f\u2028\u202e\u3000\ufeff"])
def test_invisible_characters_are_quoted_as_escapes(character: str) -> None:
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
        ("x", "x-service"),
        ("x" * 49 + " y", "x" * 49),
        ("my-service-2", "my-service-2"),
    ],
)
def test_short_names_are_what_people_expect(name: str, expected: str) -> None:
    assert slug(name) == expected


# --- the rules


def test_every_question_has_a_rule_and_the_check_comes_last() -> None:
    assert [*RULES] == [*RIGHT] == [*WRONG] == QUESTIONS
    assert [*CONFIG][-1] == "__checked"
    for question, rule in RULES.items():
        assert rule.accepts(rule.example.title() if question == "create_venv" else rule.example)


@pytest.mark.parametrize("question", QUESTIONS)
def test_right_answers_pass_and_wrong_ones_get_a_line_with_rule_and_example(question: str) -> None:
    @quickly
    @given(RIGHT[question], WRONG[question])
    def check(right: object, wrong: object) -> None:
        assert find_problem(question, right) == ""
        line = find_problem(question, wrong)
        start, end = (
            f"{question}: {repr(wrong)[:70]} is refused; it must be ",
            RULES[question].example,
        )
        assert line.startswith(start)
        assert line.endswith(f", such as {end}")
        assert line.isprintable()

    check()


@pytest.mark.parametrize(("question", "limits"), [("port", (1024, 65535)), ("workers", (1, 64))])
def test_numbers_at_the_limits(question: str, limits: tuple[int, int]) -> None:
    lowest, highest = limits
    assert not find_problem(question, lowest)
    assert not find_problem(question, str(highest))
    assert find_problem(question, str(lowest - 1))
    assert find_problem(question, highest + 1)


# --- every way that answers take


@dataclass(frozen=True)
class World:
    """A home, a temporary folder and an output folder, none of them empty, and the template."""

    root: Path
    template: Path

    @property
    def out(self) -> Path:
        """The folder where services are generated."""
        return self.root / "parent" / "out"

    def run(self, *command: str, typed: str = "", **environment: str) -> tuple[int, str]:
        """Run a module of Python in this world; return its exit status and what it printed."""
        home, temporary = str(self.root / "home"), str(self.root / "tmp")
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.out,
            env=os.environ | {"HOME": home, "TMPDIR": temporary, "PYTHONUTF8": "1"} | environment,
            input=typed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        return done.returncode, done.stdout

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

    def replay_file(self, **changed: Any) -> str:
        """Write a replay file of a good service with some values changed."""
        self.call(
            {"project_slug": "first"}, default_config=self.config() | {"replay_dir": str(self.root)}
        )
        shutil.rmtree(self.out / "first")
        file = self.root / f"{self.template.name}.json"
        context = json.loads(file.read_text(encoding="utf-8"))
        context["cookiecutter"] |= changed
        file.write_text(json.dumps(context), encoding="utf-8")
        return str(file)

    def cruft_service(self) -> Path:
        """Let cruft generate a service, and commit it."""
        commit(self.template)
        answers = json.dumps({"project_slug": "shop", "create_venv": False})
        status, printed = self.run(
            "cruft", "create", str(self.template), "-y", "--extra-context", answers
        )
        assert status == 0, printed
        commit(self.out / "shop")
        return self.out / "shop"


@pytest.fixture
def world(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in ("home", "tmp", "parent/out"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "mine.txt").write_text("Keep this.", encoding="utf-8")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    shutil.copytree(template, tmp_path / "template")
    return World(tmp_path, tmp_path / "template")


REFUSED = """\
project_name: 'Bob\\u202e\\x1b[31m' is refused; it must be 1 to 60 visible characters, no blank at \
either end, no {{, {% or {#, no </title, such as My Service
project_slug: '../evil' is refused; it must be 2 to 50 of a-z, 0-9 and single hyphens, a letter \
first, no reserved name (app, con, ...), such as my-service
port: '99999999' is refused; it must be a number from 1024 to 65535, such as 8000
'pyhton_version' is not a question; did you mean python_version?
'colour' is not a question; the questions are project_name, project_slug, description, \
python_version, port, workers, database, create_venv
"""


@pytest.mark.parametrize("options", ["--no-input", "--accept-hooks no", ""])
def test_the_command_refuses_all_at_once_before_it_asks(options: str, world: World) -> None:
    before = tree(world.root)
    words = ["project_name=Bob\u202e\x1b[31m", "project_slug=../evil", "port=99999999"]
    words += ["create_venv=no", "python_version=3.12", "pyhton_version=3.11", "colour=red"]
    assert world.run("cookiecutter", str(world.template), *options.split(), *words) == (1, REFUSED)
    assert tree(world.root) == before


def test_cruft_refuses_in_the_same_words_without_a_traceback(world: World) -> None:
    commit(world.template)
    before = tree(world.root)
    answers = {"project_name": "Bob\u202e\x1b[31m", "project_slug": "../evil", "port": "99999999"}
    given = json.dumps(answers | {"pyhton_version": "3.11", "colour": "red"})
    command = ["cruft", "create", str(world.template), "--no-input", "--extra-context", given]
    assert world.run(*command) == (1, REFUSED)
    assert tree(world.root) == before


def test_typed_answers_are_refused_after_the_last_question(world: World) -> None:
    before = tree(world.root)
    typed = "Bob's shop\n\nSays {% hi %}\n2\n80\nauto\n3\nn\n"
    status, printed = world.run("cookiecutter", str(world.template), typed=typed)
    _, _, refusal = printed.partition("[y/n] (y): ")
    assert [line.partition(":")[0] for line in refusal.splitlines()] == ["description", "port"]
    assert status == 1
    assert tree(world.root) == before


def test_a_console_without_the_letters_shows_escapes(world: World) -> None:
    words = ["--no-input", "project_name=Café", "port=é"]
    ascii_only = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    status, printed = world.run("cookiecutter", str(world.template), *words, **ascii_only)
    assert (status, printed.startswith("port: '\\xe9' is refused")) == (1, True)


def test_an_old_cookiecutter_gets_one_line(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cookiecutter, "__version__", "2.6.0")
    with pytest.raises(FailedHookException, match=r"^Cookiecutter 2\.7 or newer .* is 2\.6\.0$"):
        world.call({})
    monkeypatch.setattr(cookiecutter, "__version__", "2.10.0.dev1")
    world.call({})


CODE = "{{ cycler.__init__.__globals__.os.mkdir('executed') }}"
LINE_CODE = "% set x = cycler.__init__.__globals__.os.mkdir('executed')"


def from_default_context(**default_context: Any) -> Callable[[World], object]:
    def call(world: World) -> object:
        return world.call({}, default_config=world.config(**default_context))

    return call


def from_cruft_json(world: World) -> None:
    service = world.cruft_service()
    state = service / ".cruft.json"
    state.write_text(state.read_text("utf-8").replace(CONFIG["description"], CODE), "utf-8")
    commit(service)
    status, printed = world.run(
        "cruft",
        "update",
        "-y",
        "--project-dir",
        str(service),
        "--variables-to-update",
        '{"port": "9000"}',
    )
    assert (status, printed.startswith("description: ")) == (1, True), printed
    raise FailedHookException(printed)


def from_cruft_create(world: World) -> None:
    commit(world.template)
    answers = json.dumps({"description": CODE, "_extensions": []})
    status, printed = world.run(
        "cruft", "create", str(world.template), "-y", "--extra-context", answers
    )
    assert status == 1
    raise FailedHookException(printed)


WAYS: dict[str, Callable[[World], object]] = {
    "call": lambda world: world.call({"description": CODE}),
    "call with a mapping": lambda world: world.call({"description": {CODE: CODE}}),
    "call without extensions": lambda world: world.call({"description": CODE, "_extensions": []}),
    "default_context": from_default_context(description=CODE),
    "default_context without the check": from_default_context(project_slug=CODE, __checked=""),
    "default_context without extensions": from_default_context(description=CODE, _extensions=[]),
    ".cruft.json": from_cruft_json,
    "cruft create without extensions": from_cruft_create,
    "replay file": lambda world: world.call(
        None, replay=world.replay_file(project_slug="../evil", description=CODE, __checked="")
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_code_in_an_answer_is_refused_and_never_runs(
    way: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.out)
    with pytest.raises((FailedHookException, TypeError)):
        WAYS[way](world)
    assert not any(
        path.name in ("executed", "evil", "my-service") for path in world.root.rglob("*")
    )


@pytest.mark.parametrize(
    ("code", "syntax"),
    [
        (LINE_CODE, {"line_statement_prefix": "%"}),
        (CODE.replace("{{", "<<"), {"variable_start_string": "<<"}),
    ],
)
def test_another_syntax_makes_no_code_of_an_answer(
    code: str, syntax: dict[str, str], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.out)
    service = from_default_context(description=code, _jinja2_env_vars=syntax)(world)
    assert not (world.out / "executed").exists()
    assert read_back(Path(str(service)))["description"] == code


@pytest.mark.slow
def test_an_update_renders_each_version_with_its_own_filters(world: World) -> None:
    shop = world.cruft_service()
    extension = world.template / "local_extensions.py"
    text = extension.read_text("utf-8").replace(
        "return ESCAPED.sub(escape, str(text))", 'return "New!"'
    )
    extension.write_text(text, "utf-8")
    commit(world.template)
    status, printed = world.run("cruft", "update", "-y", "--project-dir", str(shop))
    assert status == 0, printed
    assert read_back(shop)["title"] == "New!"


# --- in every file, by the hundred


def read_back(service: Path) -> dict[str, Any]:
    """Read the answers as the tools do that use the files."""
    syntax = ast.parse((service / "app" / "main.py").read_text(encoding="utf-8"))
    calls = (node for node in ast.walk(syntax) if isinstance(node, ast.Call))
    found = {
        keyword.arg: keyword.value.value
        for call in calls
        if ast.unparse(call.func) == "FastAPI"
        for keyword in call.keywords
        if keyword.arg and isinstance(keyword.value, ast.Constant)
    }
    project = tomllib.loads((service / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    dockerfile = (service / "Dockerfile").read_text(encoding="utf-8")
    told = dict(re.findall(r"(PYTHON_VERSION|PORT|WORKERS|title)=([^\s\\]+)", dockerfile))
    compose = yaml.safe_load((service / "compose.yaml").read_text(encoding="utf-8"))
    makefile = (service / "Makefile").read_text(encoding="utf-8")
    readme = shown((service / "README.md").read_text(encoding="utf-8"))
    slugs = [project["name"], compose["name"], compose["services"]["app"]["image"]]
    slugs += [json.loads(told["title"]), *re.findall("^NAME := (.*)$", makefile, re.MULTILINE)]
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


def faults(service: Path) -> Iterator[str]:
    """Find files that do not parse or hold a trace of Jinja."""
    for path in sorted(path for path in service.rglob("*") if path.is_file()):
        text = path.read_text("utf-8")
        try:
            if path.suffix == ".py":
                compile(text, path.name, "exec")
            elif path.suffix == ".toml":
                tomllib.loads(text)
            elif path.suffix == ".yaml":
                [*yaml.safe_load_all(text)]
        except ValueError as error:
            yield f"{path}: {error}"
        if re.search(r"\{\{|\{%|\{#|cookiecutter\.[a-z]", text):
            yield f"{path}: Jinja is left"


# Short names that mean something else to YAML where they are not quoted.
WORDS = ["true", "false", "null", "yes", "no", "on", "off"]


@pytest.mark.slow
def test_right_answers_are_right_in_every_file(world: World) -> None:
    lines = []

    @thoroughly
    @given(
        st.fixed_dictionaries(
            {**RIGHT, "project_slug": RIGHT["project_slug"] | st.sampled_from(WORDS)}
        )
    )
    def check(answers: dict[str, Any]) -> None:
        service = world.call(answers)
        name, description, port = (answers[q] for q in ("project_name", "description", "port"))
        try:
            assert [*faults(service)] == []
            assert read_back(service) == {
                "title": name,
                "description": description,
                "project": description,
                "readme": [name, description],
                "slugs": [answers["project_slug"]] * 5,
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
    main_py = world.call({"project_slug": "together"}) / "app" / "main.py"
    with main_py.open("a", encoding="utf-8", newline="\n") as file:
        pairs = zip(lines[::2], lines[1::2], strict=True)
        calls = (
            f"    FastAPI(\n        {a.strip()}\n        {b.strip()}\n    ),\n" for a, b in pairs
        )
        file.write(f"\nothers = [\n{''.join(calls)}]\n")
    for command in (["check", "--output-format=concise"], ["format", "--diff"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "app/main.py"]
        done = subprocess.run(ruff, cwd=main_py.parents[1], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[:5000]


@pytest.mark.slow
def test_wrong_answers_leave_no_trace(world: World) -> None:
    before = tree(world.root)

    @thoroughly
    @given(st.fixed_dictionaries({}, optional=WRONG).filter(bool))
    def check(wrong: dict[str, Any]) -> None:
        with pytest.raises((FailedHookException, ValueError)) as refusal:
            world.call(wrong)
        if not wrong.keys() & set(BY_COOKIECUTTER):
            lines = str(refusal.value).split("\n")
            assert sorted(line.partition(": ")[0] for line in lines) == sorted(wrong)
        assert tree(world.root) == before

    check()


@pytest.mark.docker
def test_compose_accepts_its_file(world: World) -> None:
    require_docker()
    longest = {"project_name": "é" * 60, "description": "$x ${y} '\"` #" * 12}
    for answers in [*({"project_slug": word} for word in [*WORDS, "a" * 50]), longest]:
        service = world.call(
            {"project_slug": "shop", "port": "9000"} | answers, overwrite_if_exists=True
        )
        shown = docker("compose", "--project-directory", str(service), "config", "--format", "json")
        config = json.loads(shown)
        assert config["name"] == config["services"]["app"]["image"] == service.name
        assert config["services"]["app"]["ports"][0]["published"] == "9000"
