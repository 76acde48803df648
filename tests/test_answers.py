"""Answers: what is right is accepted, and right everywhere; what is wrong leaves no trace.

`EXAMPLES=10000 pytest -m slow tests/test_answers.py` tries more of them than the usual 1,000.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cookiecutter
import pytest
import yaml
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter as generate
from fastapi.openapi.docs import get_swagger_ui_html
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from jinja2.utils import import_string
from markdown_it import MarkdownIt
from markdown_it.token import Token

from local_extensions import RESERVED, STANDARD_LIBRARY, checked, markdown, quoted, slug
from tests.conftest import CONFIG, QUESTIONS
from tests.containers import docker, require_docker

EXAMPLES = int(os.environ.get("EXAMPLES", "1000"))
quickly = settings(max_examples=200, deadline=None)
thoroughly = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    # Looking for a smaller example would render for five minutes.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)

BIDIRECTIONAL = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
NONCHARACTERS = [
    *range(0xFDD0, 0xFDF0),
    *(plane << 16 | end for plane in range(17) for end in (0xFFFE, 0xFFFF)),
]
OPENERS = ["{{", "{%", "{#"]
TRICKY = [
    *("'", '"', '"""', "'''", "\\", "\\\\", "\\n", "\\u", "\\x41", "\\N{DASH}", "`", "```"),
    *("$", "${HOME}", "$(id)", "%", "%s", "#", " # ", "{", "}", "}}", "%}", "#}", "{ {", "{}"),
    *(
        "é",
        "e\u0301",
        "ß",
        "שלום",
        "مرحبا",
        "日本",
        "👩‍🔬",
        "🇩🇪",
        "👍🏽",
        "\u200d",
        "\u200f",
        "\u200b",
    ),
    *("\xa0", "\xad", "\u3000", "\u061c", "\ufeff", "\ue000", "\u2019", "\U0010fffd"),
    *("*", "**", "_", "a_b", "~~", "[a](b)", "![a](b)", "<b>", "<!--", "&amp;", "&#65;", "|", "> "),
    *("- ", "+ ", "1. ", "1) ", "# ", "---", "===", " ##", "  ", " ", ":", ": ", ", ", "!", "@"),
    *("null", "true", "0.0.0.0", "/tmp/x", "noqa", "type: ignore", "</script>", "cookiecutter"),  # noqa: S104, S108
]


def says_something(text: str) -> bool:
    return text != "..." and any(unicodedata.category(c)[0] in "LNPS" for c in text)


def free_text(longest: int) -> st.SearchStrategy[str]:
    """Generate any printable text without an opening Jinja tag, up to a length."""
    characters = st.characters(
        exclude_categories=["Cc", "Cs", "Zl", "Zp"],
        exclude_characters=BIDIRECTIONAL + "".join(map(chr, NONCHARACTERS)),
    )
    pieces = st.lists(st.sampled_from(TRICKY) | characters, min_size=1, max_size=60)
    texts = pieces.map(lambda found: re.sub(r"\{(?=[{%#])", "", "".join(found))[:longest].strip())
    return texts.filter(says_something) | st.just("é" * longest)


def is_slug(text: str) -> bool:
    return 2 <= len(text) <= 50 and re.fullmatch("[a-z](-?[a-z0-9])*", text) is not None


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


def wrong_text(longest: int) -> st.SearchStrategy[str]:
    refused = st.characters(categories=["Cc", "Cs", "Zl", "Zp"])
    refused |= st.sampled_from([*BIDIRECTIONAL, *map(chr, NONCHARACTERS), *OPENERS])
    broken = st.tuples(free_text(longest // 2), refused, free_text(longest // 2)).map("".join)
    blank = st.sampled_from(["", " ", "\xa0 ", " x", "x ", "\u3000x", "\u200d", "\u0301", "..."])
    return broken | refused | blank | st.just("x" * (longest + 1))


NO_NUMBERS = [
    "",
    " ",
    "4 ",
    " 4",
    "+4",
    "-4",
    "04",
    "08000",
    "8_000",
    "8000\n",
    "1e4",
    "8e3",
    "4.0",
]
NO_NUMBERS += [
    "0x2000",
    "\uff18\uff10\uff10\uff10",
    "٤",
    "Auto",
    "None",
    "...",
    "auto ",
    "99999999999999999999",
]
ODD: st.SearchStrategy[Any] = st.none() | st.booleans() | st.just(4.5)
WRONG: dict[str, st.SearchStrategy[Any]] = {
    "project_name": wrong_text(60),
    "project_slug": st.sampled_from(sorted(RESERVED))
    | st.sampled_from(
        ["../evil", "/evil", "A", "a", "3d", "-a", "a-", "a--b", "a_b", "a.b", "a\n", "\uff41"]
    )
    | st.just("a" * 51)
    | st.text().filter(lambda text: not is_slug(text)),
    "description": wrong_text(200),
    "python_version": st.sampled_from(["2.7", "3.10", "3.16", "3", "latest", "", "3.14 "]),
    "port": st.integers().filter(lambda n: not 1024 <= n <= 65535)
    | st.sampled_from([*NO_NUMBERS, "auto", "80", "1023", "65536"]),
    "workers": st.integers().filter(lambda n: not 1 <= n <= 64)
    | st.sampled_from([*NO_NUMBERS, "0", "65"]),
    "database": st.sampled_from(["", "mysql", "SQLite", "postgres", "sqlite "]),
    "create_venv": st.sampled_from(["", "maybe", "2", 2, "yes please"]),
}
# What Cookiecutter judges itself, and what only its callers in Python can hand over.
BY_COOKIECUTTER = ["python_version", "database", "create_venv"]
WRONG_TYPES = {name: WRONG[name] | ODD for name in WRONG if name not in BY_COOKIECUTTER}


def problems(answers: dict[str, Any]) -> list[str]:
    try:
        checked(answers)
    except FailedHookException as refusal:
        return str(refusal).split("\n")
    return []


# --- the encoders


def test_what_is_quoted_reads_back_in_python_toml_and_yaml() -> None:
    @quickly
    @given(free_text(200))
    def check(text: str) -> None:
        assert ast.literal_eval(f'"{quoted(text)}"') == text
        assert tomllib.loads(f'x = "{quoted(text)}"') == {"x": text}
        assert yaml.safe_load(f'x: "{quoted(text)}"') == {"x": text}

    check()


def test_every_character_that_could_be_answered_can_be_quoted() -> None:
    refused = {*map(ord, BIDIRECTIONAL), *NONCHARACTERS, *range(0xD800, 0xE000)}
    text = "".join(chr(n) for n in range(0x30000) if n not in refused)
    assert ast.literal_eval(f'"{quoted(text)}"') == text
    assert tomllib.loads(f'x = "{quoted(text)}"')["x"] == text
    assert yaml.safe_load(f'"{quoted(text)}"') == text


def test_what_nobody_would_see_is_written_out() -> None:
    for character in "\x1b\x7f\x85\xa0\xad\u061c\u200b\u200f\u2028\u202e\u2066\u3000\ufeff\uffff":
        assert quoted(character) == f"\\u{ord(character):04x}"


@pytest.mark.parametrize(
    "text", ["It's über-fast", "👩‍🔬🇩🇪", "שלום", "می‌خواهم", "日本語", "100 % & $5"]
)
def test_what_people_write_stays_readable(text: str) -> None:
    assert quoted(text) == text


def test_a_formatter_of_python_leaves_quoted_text_alone(tmp_path: Path) -> None:
    lines = "".join(f'    title="{quoted(text)}",\n' for text in [*TRICKY, 'say "it\'s"', "\x1f"])
    (tmp_path / "main.py").write_text(f"app = dict(\n{lines})\n", encoding="utf-8")
    ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "--diff", "main.py"]
    done = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def shown(text: str) -> list[tuple[str, str]]:
    """Render Markdown; return each block's kind, and its text as a reader sees it."""
    blocks = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    return [
        (before.tag, "".join(map(plain, block.children or [])))
        for before, block in pairwise(blocks)
        if block.type == "inline"
    ]


def plain(part: Token) -> str:
    return part.content if part.type in ("text", "text_special") else f"<{part.type}>"


def test_markdown_shows_the_text_as_it_is() -> None:
    @quickly
    @given(free_text(200))
    @example("_a_ __b__ ___ a_b_c")
    def check(text: str) -> None:
        page = f"# {markdown(text)}\n\n{markdown(text)}\n\nEnd.\n"
        assert shown(page) == [("h1", text), ("p", text), ("p", "End.")]

    check()


@pytest.mark.parametrize(
    "text",
    ["A FastAPI service that runs in a container.", "C# & F#: fast, 3.14-ready (v2)!", "a_b"],
)
def test_markdown_leaves_ordinary_sentences_alone(text: str) -> None:
    assert markdown(text) == text


# --- the short name


def test_a_short_name_made_from_any_text_is_valid() -> None:
    @quickly
    @given(st.text() | free_text(60) | st.sampled_from(sorted(RESERVED)))
    def check(text: str) -> None:
        assert is_slug(slug(text))
        assert slug(text) not in RESERVED
        assert not problems({"project_slug": slug(text)})

    check()


def test_a_valid_short_name_stays_as_it_is() -> None:
    @quickly
    @given(RIGHT["project_slug"])
    def check(text: str) -> None:
        assert slug(text) == text

    check()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("My Service", "my-service"),
        ("  Bob's  shop_API ", "bobs-shop-api"),
        ("3D printer", "service-3d-printer"),
        ("Café Größe", "cafe-grosse"),
        ("Привет", "privet"),
        ("🚀", "service"),
        ("Calendar", "calendar-service"),
        ("App", "app-service"),
        ("x" * 49 + " y", "x" * 49),
    ],
)
def test_short_names_are_what_people_expect(name: str, expected: str) -> None:
    assert slug(name) == expected


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("class", "keyword of Python"),
        ("json", "standard library"),
        ("con", "Windows"),
        ("lpt1", "Windows"),
        ("app", "inside the service"),
        ("tests", "inside the service"),
        ("fastapi", "package that the service installs"),
        ("anyio", "package that the service installs"),
        ("scratch", "Docker"),
    ],
)
def test_reserved_names_are_refused_with_the_reason(name: str, reason: str) -> None:
    (problem,) = problems({"project_slug": name})
    assert reason in problem
    assert problem.endswith(f"such as {name}-service")


def test_no_module_of_this_python_is_missing_among_the_reserved_names() -> None:
    modules = {name for name in sys.stdlib_module_names if is_slug(name)}
    assert modules <= {*STANDARD_LIBRARY}


# --- the rules


def test_every_question_is_tested_here() -> None:
    assert [*RIGHT] == [*WRONG] == QUESTIONS
    assert [*CONFIG][-1] == "__checked", "the check must come after all that it checks"


def test_right_answers_pass() -> None:
    @quickly
    @given(st.fixed_dictionaries(RIGHT))
    def check(answers: dict[str, Any]) -> None:
        assert not problems(answers)

    check()


def test_every_wrong_answer_is_named_on_a_line_of_its_own() -> None:
    @quickly
    @given(st.fixed_dictionaries({}, optional=RIGHT), st.fixed_dictionaries({}, optional=WRONG))
    def check(right: dict[str, Any], wrong: dict[str, Any]) -> None:
        lines = problems(right | wrong)
        named = [line.partition(": ")[0] for line in lines]
        assert sorted(named) == sorted(wrong)
        assert all(line.isprintable() and "must be" in line for line in lines)

    check()


def test_each_character_that_does_not_print_is_refused() -> None:
    controls = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0xD800, 0xDFFF]
    for character in [*map(chr, [*controls, *NONCHARACTERS]), *BIDIRECTIONAL, *OPENERS]:
        (problem,) = problems({"description": f"a{character}b"})
        assert f"holds {character if character in OPENERS else ascii(character)}" in problem


@pytest.mark.parametrize("end", ["</title>", "</TITLE >", "a </Title/ b"])
def test_a_name_that_ends_the_title_of_a_page_is_refused(end: str) -> None:
    (problem,) = problems({"project_name": f"x{end}<script>alert(1)</script>"})
    assert problem.startswith("project_name: ")


def test_the_page_with_the_docs_holds_the_name_in_its_title_alone() -> None:
    name = "<script>alert(1)</script><!--"
    assert not problems({"project_name": name})
    page = bytes(get_swagger_ui_html(openapi_url="/", title=name).body).decode()
    assert page.count("alert(1)") == page.count(f"<title>{name}</title>") == 1


@pytest.mark.parametrize("port", [1024, 65535, "1024", "65535"], ids=ascii)
def test_ports_at_the_limits_pass(port: str | int) -> None:
    assert not problems({"port": port})


@pytest.mark.parametrize(
    "port", [1023, 65536, "auto", True, None, 8000.0, ["8000"], *NO_NUMBERS], ids=ascii
)
def test_other_ports_do_not(port: Any) -> None:
    assert len(problems({"port": port})) == 1


@pytest.mark.parametrize("workers", [1, 64, "1", "64", "auto"], ids=ascii)
def test_workers_at_the_limits_pass(workers: str | int) -> None:
    assert not problems({"workers": workers})


@pytest.mark.parametrize("workers", [0, 65, True, None, *NO_NUMBERS], ids=ascii)
def test_other_workers_do_not(workers: Any) -> None:
    assert len(problems({"workers": workers})) == 1


@pytest.mark.parametrize("name", [None, True, 4.5, ["Shop"], {"a": "b"}], ids=ascii)
def test_text_must_be_text(name: Any) -> None:
    assert len(problems({"project_name": name})) == 1


def test_a_long_value_is_cut() -> None:
    (problem,) = problems({"description": "é" * 100_000})
    assert problem.startswith("description: 'éééé")
    assert "has 100000 characters" in problem
    assert len(problem) < 250


def can_be_typed(answer: object) -> bool:
    """Tell whether an answer can stand on a command line."""
    return not re.search("[\0\ud800-\udfff]", str(answer))


# --- through every door: command line, Python, replay file, cruft


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Read a whole tree: names, modes, bytes."""
    return {
        path.relative_to(folder).as_posix(): (
            stat.S_IMODE(path.stat().st_mode),
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(folder.rglob("*"))
    }


@dataclass(frozen=True)
class World:
    """A home, a temporary folder and an output folder, none of them empty."""

    root: Path
    template: Path

    @property
    def out(self) -> Path:
        return self.root / "parent" / "out"

    def run(self, *command: str, typed: str = "", **environment: str) -> tuple[int, str]:
        """Run a module of Python in this world; return its exit status and what it printed."""
        home, temporary = str(self.root / "home"), str(self.root / "tmp")
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("COOKIECUTTER", "XDG_"))
        }
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.out,
            env=inherited
            | {"HOME": home, "USERPROFILE": home, "TMPDIR": temporary, "PYTHONIOENCODING": "utf-8"}
            | environment,
            input=typed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )
        return done.returncode, done.stdout

    def cookiecutter(self, *words: str, typed: str = "", **environment: str) -> tuple[int, str]:
        """Run Cookiecutter's command on the template."""
        return self.run("cookiecutter", str(self.template), *words, typed=typed, **environment)

    def call(self, answers: dict[str, Any], **arguments: Any) -> Path:
        """Call Cookiecutter from Python; return the service's folder."""
        home = str(self.root / "home" / ".cookiecutter")
        arguments = {"default_config": {"replay_dir": home, "cookiecutters_dir": home}} | arguments
        return Path(
            generate(
                str(self.template),
                no_input=True,
                extra_context=answers,
                output_dir=str(self.out),
                accept_hooks=False,
                **arguments,
            )
        )


@pytest.fixture
def world(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in ("home", "tmp", "parent/out"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "mine.txt").write_text("Keep this.", encoding="utf-8")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return World(tmp_path, template)


CODE = "{{ cycler.__init__.__globals__.os.mkdir('executed') }}"
WRONG_WORDS = [
    "project_name=Bob\N{RIGHT-TO-LEFT OVERRIDE}\x1b[31m",
    "project_slug=../evil",
    f"description={CODE}",
    "python_version=3.12",
    "port=99999999",
    "workers=0",
    "create_venv=no",
    "pyhton_version=3.11",
    "colour=red",
]
REFUSAL = """\
project_name: 'Bob\\u202e\\x1b[31m' holds '\\u202e', which does not print; it must be 1 to 60 \
printable characters, such as 'My Service'
project_slug: '../evil' is refused; it must be 2 to 50 of a-z, 0-9 and single hyphens, a letter \
first, such as evil
description: "{{ cycler.__init__.__globals__.os.mkdir('executed') }}" holds {{, with which a \
template begins; it must be 1 to 200 printable characters, such as 'A FastAPI service that runs \
in a container.'
port: '99999999' is refused; it must be a whole number from 1024 to 65535, such as 8000
workers: '0' is refused; it must be a whole number from 1 to 64, such as 4, or auto
'pyhton_version' is no question of this template; did you mean python_version?
'colour' is no question of this template; there are project_name, project_slug, description, \
python_version, port, workers, database, create_venv
Run again: cookiecutter TEMPLATE --no-input project_name=... project_slug=... description=... \
python_version=3.12 port=... workers=... create_venv=false
"""


@pytest.mark.parametrize("options", ["--no-input", "--accept-hooks no --no-input"])
def test_the_command_line_refuses_all_at_once(world: World, options: str) -> None:
    before = snapshot(world.root)
    code, printed = world.cookiecutter(*options.split(), *WRONG_WORDS)
    expected = REFUSAL.replace("--no-input", options)
    assert printed.replace(str(world.template), "TEMPLATE") == expected
    assert code == 1
    assert snapshot(world.root) == before


def test_what_is_typed_is_refused_after_the_last_question(world: World) -> None:
    before = snapshot(world.root)
    typed = "Bob's shop\n\nSays {% hi %}\n2\n80\nauto\n3\nn\n"
    code, printed = world.cookiecutter(typed=typed)
    _, _, refusal = printed.partition("[y/n] (y): ")
    assert [line.partition(":")[0] for line in refusal.splitlines()] == [
        "description",
        "port",
        "Run again",
    ]
    assert shlex.split(refusal.splitlines()[-1])[4:] == [
        "project_name=Bob's shop",
        "description=...",
        "python_version=3.15",
        "port=...",
        "workers=auto",
        "database=none",
        "create_venv=false",
    ]
    assert code == 1
    assert snapshot(world.root) == before


def test_what_is_wrong_on_the_command_line_is_refused_before_anything_is_asked(
    world: World,
) -> None:
    code, printed = world.cookiecutter("port=80")
    assert printed.startswith("port: '80' is refused")
    assert code == 1


def test_the_command_to_run_again_works_and_drops_no_option(world: World) -> None:
    config = world.root / "config.yaml"
    config.write_text(f"cookiecutters_dir: {world.root}\nreplay_dir: {world.root}\n")
    options = ["--output-dir", "there", "--config-file", str(config), "--overwrite-if-exists"]
    options += ["--skip-if-file-exists", "--keep-project-on-failure", "--accept-hooks", "no"]
    answers = ['project_name=It\'s $5 \\ "now" é', "port=80", "create_venv=no"]
    _, printed = world.cookiecutter(*options, "--no-input", *answers)
    again = shlex.split(printed.splitlines()[-1].removeprefix("Run again: "))
    assert again[2:-3] == [*options, "--no-input"]
    words = ["port=8080" if word == "port=..." else word for word in again]
    code, printed = world.run(*words)
    assert code == 0, printed
    assert read_back(world.out / "there" / "its-5-now-e")["title"] == 'It\'s $5 \\ "now" é'


def test_a_console_that_lacks_the_letters_shows_escapes(world: World) -> None:
    code, printed = world.cookiecutter(
        "--no-input", "project_name=Café", "port=é", PYTHONIOENCODING="ascii"
    )
    assert "port: '\\xe9' is refused" in printed
    assert "Traceback" not in printed
    assert code == 1


def test_letters_that_the_locale_cannot_hold_are_named_as_such(world: World) -> None:
    code, printed = world.cookiecutter("--no-input", "project_name=Üni", LC_ALL="C", PYTHONUTF8="0")
    assert "holds '\\udcc3', a byte that is no text in this locale" in printed
    assert code == 1


def test_a_private_variable_cannot_be_given(world: World) -> None:
    before = snapshot(world.root)
    code, printed = world.cookiecutter("--no-input", "__checked=yes", "port=80")
    assert [line.partition(" ")[0] for line in printed.splitlines()] == [
        "'__checked'",
        "port:",
        "Run",
    ]
    assert code == 1
    assert snapshot(world.root) == before


def test_callers_in_python_get_one_exception(world: World) -> None:
    before = snapshot(world.root)
    with pytest.raises(FailedHookException) as refusal:
        world.call({"port": 80, "workers": None, "project_slug": ["a"], "prot": 8000})
    assert [line.partition(" ")[0] for line in str(refusal.value).splitlines()] == [
        "port:",
        "workers:",
        "project_slug:",
        "'prot'",
        "Run",
    ]
    assert snapshot(world.root) == before


@pytest.mark.parametrize(
    ("question", "answer"), [("python_version", "2.7"), ("create_venv", "maybe")]
)
def test_a_wrong_choice_is_refused_by_cookiecutter_itself(
    world: World, question: str, answer: str
) -> None:
    """Before any code of a template runs, so with its own words and a traceback."""
    before = snapshot(world.root)
    with pytest.raises(ValueError, match=rf"{answer} provided for .*variable {question}"):
        world.call({question: answer})
    assert snapshot(world.root) == before


def test_the_users_own_defaults_may_be_for_other_templates(world: World) -> None:
    config = {"default_context": {"full_name": "Bob", "port": 9000}}
    config["replay_dir"] = config["cookiecutters_dir"] = str(world.root / "home" / "config")  # type: ignore[assignment]
    assert world.call({"project_slug": "bobs"}, default_config=config) == world.out / "bobs"
    config["default_context"]["port"] = 80
    with pytest.raises(FailedHookException, match=r"^port: '80' is refused"):
        world.call({"project_slug": "again"}, default_config=config)


def test_a_replay_file_is_checked_too(world: World) -> None:
    world.call({"project_slug": "first"})
    (replay,) = (world.root / "home" / ".cookiecutter").iterdir()
    context = json.loads(replay.read_text(encoding="utf-8"))
    context["cookiecutter"] |= {"project_slug": "../evil", "port": 80, "create_venv": "no"}
    file = world.root / "wrong.json"
    file.write_text(json.dumps(context), encoding="utf-8")
    before = snapshot(world.root)
    code, printed = world.cookiecutter("--replay-file", str(file))
    assert [line.partition(":")[0] for line in printed.splitlines()] == [
        "project_slug",
        "port",
        "create_venv",
        "Run again",
    ]
    assert "--no-input project_slug=... port=... create_venv=..." in printed
    assert code == 1
    # Cookiecutter keeps a copy of the file before it asks the template anything.
    after = snapshot(world.root)
    own = {name for name in after if name.startswith("home/.cookiecutter_replay")}
    assert own == {"home/.cookiecutter_replay", "home/.cookiecutter_replay/wrong.json"}
    assert {name: after[name] for name in after.keys() - own} == before


def commit(repository: Path) -> None:
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "Change"]):
        subprocess.run([*git, *command], cwd=repository, check=True)


def test_cruft_shows_the_refusal_without_a_traceback(world: World, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(world.template, repository)
    commit(repository)
    before = snapshot(world.root)
    answers = json.dumps({"port": 80, "pyhton_version": "3.12", "project_name": "Bob's"})
    code, printed = world.run("cruft", "create", str(repository), "-y", "--extra-context", answers)
    assert printed.replace(str(repository), "TEMPLATE").splitlines() == [
        "port: 80 is refused; it must be a whole number from 1024 to 65535, such as 8000",
        "'pyhton_version' is no question of this template; did you mean python_version?",
        "Run again: cruft create TEMPLATE --no-input --extra-context "
        + shlex.quote('{"port": "...", "python_version": "3.12", "project_name": "Bob\'s"}'),
    ]
    assert code == 1
    assert snapshot(world.root) == before


DOORS = ["cookiecutter", "replay", "cruft"]


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses_a_sample_in_a_process_of_its_own(
    door: str, world: World, tmp_path: Path
) -> None:
    repository, replay = tmp_path / "repository", tmp_path / "replay.json"
    shutil.copytree(world.template, repository)
    commit(repository)
    wrong_words = {name: WRONG[name].filter(can_be_typed) for name in WRONG_TYPES}
    answers = DEFAULTS | {"create_venv": False}
    # A replay file may hold anything, and Cookiecutter judges none of it.
    wrong_answers = {
        "cookiecutter": wrong_words,
        "replay": {name: WRONG[name] | ODD for name in WRONG if name != "create_venv"},
        "cruft": WRONG_TYPES,
    }

    @settings(thoroughly, max_examples=EXAMPLES // 100)
    @given(st.fixed_dictionaries({}, optional=wrong_answers[door]).filter(bool))
    def check(wrong: dict[str, Any]) -> None:
        replay.write_text(json.dumps({"cookiecutter": answers | wrong}), encoding="utf-8")
        before = snapshot(world.root)
        if door == "cookiecutter":
            words = [f"{name}={answer}" for name, answer in wrong.items()]
            code, printed = world.cookiecutter("--no-input", *words)
        elif door == "replay":
            code, printed = world.cookiecutter("--replay-file", str(replay))
        else:
            given = ["--extra-context", json.dumps(wrong)]
            code, printed = world.run("cruft", "create", str(repository), "--no-input", *given)
        assert "Traceback" not in printed
        *lines, again = printed.splitlines()
        assert sorted(line.partition(": ")[0] for line in lines) == sorted(wrong)
        assert again.startswith("Run again: ")
        assert code == 1
        # Cookiecutter's own copy of the replay file.
        shutil.rmtree(world.root / "home" / ".cookiecutter_replay", ignore_errors=True)
        assert snapshot(world.root) == before

    check()


@pytest.fixture
def shop(world: World, tmp_path: Path) -> Path:
    """Return a service that cruft made of a template in `tmp_path / "repository"`."""
    repository = tmp_path / "repository"
    shutil.copytree(world.template, repository, ignore=shutil.ignore_patterns("hooks"))
    commit(repository)
    answers = json.dumps({"project_slug": "shop", "create_venv": False})
    code, printed = world.run("cruft", "create", str(repository), "-y", "--extra-context", answers)
    assert code == 0, printed
    commit(world.out / "shop")
    return world.out / "shop"


@pytest.mark.parametrize("command", ["update", "link"])
def test_cruft_refuses_what_is_given_later_too(world: World, shop: Path, command: str) -> None:
    repository, *options = str(world.root / "repository"), "--project-dir", str(shop)
    if command == "update":
        options, option = [*options, "--skip-apply-ask"], "--variables-to-update"
    else:
        (shop / ".cruft.json").unlink()
        options, option = [repository, *options, "--no-input"], "--extra-context"
    before = snapshot(world.root)
    answers = json.dumps({"description": CODE, "pyhton_version": "3.12"})
    code, printed = world.run("cruft", command, *options, option, answers)
    assert [line.partition(" ")[0] for line in printed.splitlines()] == [
        "description:",
        "'pyhton_version'",
        "Run",
    ]
    again = shlex.split(printed.splitlines()[-1].removeprefix("Run again: "))
    kept = '{"description": "...", "python_version": "3.12"}'
    assert again == ["cruft", command, *options, option, kept]
    assert code == 1
    assert snapshot(world.root) == before


def test_an_update_may_answer_a_question_that_the_old_version_did_not_ask(
    world: World, shop: Path
) -> None:
    config = world.root / "repository" / "cookiecutter.json"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace('  "port"', '  "colour": "red",\n  "port"'), encoding="utf-8")
    commit(config.parent)
    answers = ["--variables-to-update", '{"colour": "blue"}']
    code, printed = world.run("cruft", "update", "-y", "--project-dir", str(shop), *answers)
    assert code == 0, printed
    assert '"colour": "blue"' in (shop / ".cruft.json").read_text(encoding="utf-8")


def test_an_update_takes_the_name_of_a_service_that_is_reserved_by_now(
    world: World, shop: Path
) -> None:
    lock = world.root / "repository" / "{{cookiecutter.project_slug}}" / "requirements.txt"
    lock.write_text(f"shop==1.0\n{lock.read_text(encoding='utf-8')}", encoding="utf-8")
    commit(world.root / "repository")
    code, printed = world.run("cruft", "update", "-y", "--project-dir", str(shop))
    assert code == 0, printed
    assert "shop==1.0" in (shop / "requirements.txt").read_text(encoding="utf-8")
    commit(shop)
    code, printed = world.run("cruft", "diff", "--project-dir", str(shop))
    assert (code, printed) == (0, "")
    for name in ("fastapi", "shop"):  # a new name must not be a reserved one
        answers = ["--variables-to-update", json.dumps({"project_slug": name})]
        code, printed = world.run("cruft", "update", "-y", "--project-dir", str(shop), *answers)
        assert f"project_slug: '{name}' is a package that the service installs" in printed
        assert code == 1


def test_an_old_cookiecutter_gets_one_line(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cookiecutter, "__version__", "2.6.0")
    with pytest.raises(
        FailedHookException, match=r"^This template needs Cookiecutter 2\.7 .*2\.6\.0.*$"
    ):
        world.call({})
    monkeypatch.setattr(cookiecutter, "__version__", "2.10.0.dev1")
    world.call({})


def test_two_templates_in_one_process_each_have_their_own_extension(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.call({})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "local_extensions.py").write_text("Answers = 'other'\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "other")
    assert import_string("local_extensions.Answers") == "other"
    del sys.modules["local_extensions"]


# --- by the thousand


def read_back(service: Path) -> dict[str, Any]:
    """Read the answers, as the tools do that are told them."""
    tree = ast.parse((service / "app" / "main.py").read_text(encoding="utf-8"))
    (call,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "FastAPI"
    )
    found = {
        keyword.arg: keyword.value.value
        for keyword in call.keywords
        if keyword.arg and isinstance(keyword.value, ast.Constant)
    }
    project = tomllib.loads((service / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    dockerfile = (service / "Dockerfile").read_text(encoding="utf-8")
    told = dict(re.findall(r"(PYTHON_VERSION|PORT|WORKERS|title)=([^\s\\]+)", dockerfile))
    compose = yaml.safe_load((service / "compose.yaml").read_text(encoding="utf-8"))
    makefile = (service / "Makefile").read_text(encoding="utf-8")
    readme = shown((service / "README.md").read_text(encoding="utf-8"))
    return {
        "title": found["title"],
        "description": found["description"],
        "project": project["description"],
        "readme": [text for _, text in readme[:2]],
        "slugs": [
            project["name"],
            compose["name"],
            compose["services"]["app"]["image"],
            json.loads(told["title"]),
            *re.findall("^NAME := (.*)$", makefile, re.MULTILINE),
        ],
        "python_version": told["PYTHON_VERSION"],
        "ports": [told["PORT"], compose["x-port"].removeprefix("${PORT:-").removesuffix("}")],
        "workers": told["WORKERS"],
    }


def written(answers: dict[str, Any]) -> dict[str, Any]:
    """Return what `read_back` is to find in a service that was generated from `answers`."""
    name, description, port = (answers[q] for q in ("project_name", "description", "port"))
    return {
        "title": name,
        "description": description,
        "project": description,
        "readme": [name, description],
        "slugs": [answers["project_slug"]] * 5,
        "python_version": answers["python_version"],
        "ports": [str(port)] * 2,
        "workers": str(answers["workers"]),
    }


DEFAULTS: dict[str, Any] = {
    "project_name": "Shop",
    "description": "Sells.",
    "python_version": "3.14",
}
DEFAULTS |= {"project_slug": "shop", "port": "8000", "workers": "4", "database": "sqlite"}
# Short names that mean something else to YAML where they are not quoted.
WORDS = ["true", "false", "null", "yes", "no", "on", "off"]


@pytest.mark.parametrize("slug", WORDS)
def test_a_short_name_is_text_in_every_file(slug: str, world: World) -> None:
    answers = DEFAULTS | {"project_slug": slug}
    assert read_back(world.call(answers)) == written(answers)


@pytest.mark.docker
def test_compose_accepts_its_file(world: World) -> None:
    require_docker()
    longest = {"project_name": "é" * 60, "description": "$x ${y} '\"` #" * 12}
    odd = [{"project_slug": slug} for slug in [*WORDS, "a" * 50, "a0-b"]]
    odd += [longest, *({"python_version": version} for version in CONFIG["python_version"])]
    odd += [{"port": "1024"}, {"port": "65535"}, {"workers": "64"}, {"workers": "auto"}]
    for answers in (DEFAULTS | each for each in odd):
        service = world.call(answers, overwrite_if_exists=True)
        shown = docker("compose", "--project-directory", str(service), "config", "--format", "json")
        config = json.loads(shown)
        app, slug = config["services"]["app"], answers["project_slug"]
        assert (config["name"], app["image"]) == (slug, slug)
        assert app["ports"][0]["published"] == answers["port"]
        assert app["environment"]["PORT"] == answers["port"]


def faults(service: Path) -> Iterator[str]:
    """Find files that do not parse, hold a trace of Jinja, or end their lines otherwise."""
    for path in sorted(path for path in service.rglob("*") if path.is_file()):
        name = path.relative_to(service).as_posix()
        data = path.read_bytes()
        text = data.decode("utf-8")
        try:
            if path.suffix == ".py":
                compile(data, name, "exec")
            elif path.suffix == ".toml":
                tomllib.loads(text)
            elif path.suffix in (".yaml", ".yml"):
                [*yaml.safe_load_all(text)]
            elif path.suffix == ".json":
                json.loads(text)
        except ValueError as error:
            yield f"{name}: {error}"
        if found := re.search(r"\{\{|\{%|\{#|cookiecutter\.[a-z]", text):
            yield f"{name}: {found[0]} is left"
        if "\r" in text or (text and not re.search(r"\S\n\Z", text)):
            yield f"{name}: line feeds, and one at the end"
        if re.search(r"[ \t]$", text, re.MULTILINE):
            yield f"{name}: blanks at the end of a line"


@pytest.mark.slow
def test_right_answers_are_right_in_every_file(world: World) -> None:
    calls = []

    @thoroughly
    @given(st.fixed_dictionaries(RIGHT))
    # What a linter may take for an address or a path.
    @example(DEFAULTS | {"project_name": "0.0.0.0", "description": "/tmp/x"})  # noqa: S104, S108
    def check(answers: dict[str, Any]) -> None:
        service = world.call(answers)
        try:
            assert [*faults(service)] == []
            assert read_back(service) == written(answers)
            main = (service / "app" / "main.py").read_text(encoding="utf-8")
            calls.append(re.findall("^        (?:title|description)=.*\n", main, re.MULTILINE))
        finally:
            shutil.rmtree(service)

    check()
    # All of them in one file: the rules and exceptions for app/main.py are meant for this.
    main_py = world.call({"project_slug": "together"}) / "app" / "main.py"
    listed = "".join(f"    FastAPI(\n{''.join(lines)}    ),\n" for lines in calls)
    with main_py.open("a", encoding="utf-8", newline="\n") as file:
        file.write(f"\nothers = [\n{listed}]\n")
    for command in (["check", "--output-format=concise"], ["format", "--diff"]):
        # Without the hook, what it would drop is still there.
        ruff = [sys.executable, "-m", "ruff", *command, "--exclude=stateless"]
        done = subprocess.run(
            ruff, cwd=main_py.parents[1], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[:5000]


@pytest.mark.slow
def test_wrong_answers_leave_no_trace(world: World) -> None:
    before = snapshot(world.root)

    @thoroughly
    @given(
        st.fixed_dictionaries({}, optional=RIGHT),
        st.fixed_dictionaries({}, optional=WRONG_TYPES).filter(bool),
    )
    def check(right: dict[str, Any], wrong: dict[str, Any]) -> None:
        with pytest.raises(FailedHookException) as refusal:
            world.call(right | wrong)
        *lines, again = str(refusal.value).split("\n")
        assert sorted(line.partition(": ")[0] for line in lines) == sorted(wrong)
        kept = dict(word.split("=", 1) for word in shlex.split(again) if re.match("[a-z_]+=", word))
        right = {name: right[name] for name in right if name not in wrong}
        texts = {
            name: str(answer).lower() if answer in (True, False) else str(answer)
            for name, answer in right.items()
        }
        assert kept == texts | dict.fromkeys(wrong, "...")
        assert snapshot(world.root) == before

    check()


@pytest.mark.slow
def test_wrong_choices_leave_no_trace(world: World) -> None:
    before = snapshot(world.root)
    choices = {name: WRONG[name] for name in BY_COOKIECUTTER}

    @thoroughly
    @given(
        st.fixed_dictionaries({}, optional=WRONG_TYPES),
        st.fixed_dictionaries({}, optional=choices).filter(bool),
    )
    def check(others: dict[str, Any], wrong: dict[str, Any]) -> None:
        with pytest.raises((ValueError, FailedHookException)):
            world.call(others | wrong)
        assert snapshot(world.root) == before

    check()


@pytest.mark.slow
def test_an_update_renders_each_version_with_its_own_filters(world: World, shop: Path) -> None:
    repository = world.root / "repository"
    for path, old, new in [
        (
            repository / "local_extensions.py",
            '"""Encode text for double',
            '"""Put text between double',
        ),
        (
            repository / "local_extensions.py",
            "return ESCAPED.sub(escape, str(text))",
            'return "New!"',
        ),
    ]:
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
    commit(repository)
    code, printed = world.run("cruft", "update", "-y", "--project-dir", str(shop))
    assert code == 0, printed
    assert read_back(shop)["title"] == "New!"
