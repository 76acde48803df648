"""Check the answers before anything is written, and encode them for the files.

Cookiecutter imports this module because cookiecutter.json names it in `_extensions`.
docs/decisions.md lists the sources of answers, and the limits of these checks.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import cookiecutter
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter as generate
from jinja2 import Environment, ext
from slugify import slugify

ROOT = Path(__file__).parent
FOLDER = "{{cookiecutter.project_slug}}"
CONFIG = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
# The template's own text that Cookiecutter renders, beside the files in its folder.
OWN_TEXT = {(ROOT / "hooks" / "post_gen_project.py").read_text(encoding="utf-8")}
for default in CONFIG.values():
    OWN_TEXT.update(map(str, default if isinstance(default, list) else [default]))

DEVICES = ["con", "prn", "aux", "nul", *(f"{p}{n}" for p in ("com", "lpt") for n in range(10))]
RESERVED = {"app", "database", "tests", "localhost", "scratch", *DEVICES}
# Control characters, line separators, bidirectional controls, surrogates; the starts of Jinja's tags.
NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]|{[{%#]")
# Quotes, backslashes, invisible characters, and characters that Python, TOML or YAML cannot hold raw.
# Joiners stay: emoji and Persian words need them.
ESCAPED = re.compile(
    r'["\\\x00-\x1f\x7f-\xa0\xad\u061c\u1680\u2000-\u200b\u200e\u200f\u2028-\u202f\u205f-\u206f'
    r"\u3000\ufeff\ufff9-\uffff]"
)


def slug(name: object) -> str:
    """Return a valid name for folder, image and host, made from any text.

    Letters of other scripts become Latin ones. A name that does not begin with a letter gets the
    prefix `service-`, a reserved or very short name the suffix `-service`.
    """
    text = "-".join(re.findall("[a-z0-9]+", slugify(re.sub("['\u2019]", "", str(name)))))
    text = (text if text[:1].isalpha() else f"service-{text}")[:50].rstrip("-")
    return f"{text}-service" if text in RESERVED or len(text) < 2 else text


def quoted(text: object) -> str:
    r"""Encode text for double quotes in Python, TOML and YAML alike.

    A quote becomes `\u0022`: for `\"`, formatters of Python would choose single quotes.
    """
    return ESCAPED.sub(lambda m: r"\\" if m[0] == "\\" else f"\\u{ord(m[0]):04x}", str(text))


def markdown(text: object) -> str:
    """Encode text for a heading or a paragraph of Markdown."""
    # An underscore inside a word, and an ampersand that begins no entity, need no backslash.
    special = r"[\\`*\[\]<|~$]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|(?<!\S)#"
    escaped = re.sub(special, r"\\\g<0>", str(text))
    return re.sub(r"^(\d{1,9}(?=[.)](\s|$))|(?=[-+=>]))", r"\1\\", escaped)


def is_text(text: str, longest: int) -> bool:
    """Tell whether `text` is visible, not too long, without blanks at its ends, and free of code."""
    visible = any(letter.isprintable() for letter in text)
    return visible and len(text) <= longest and text == text.strip() and not NO_TEXT.search(text)


def is_slug(text: str) -> bool:
    """Tell whether `text` can name the folder, the image and the host."""
    words = re.fullmatch("[a-z][a-z0-9]*(-[a-z0-9]+)*", text)
    return words is not None and 2 <= len(text) <= 50 and text not in RESERVED


class Rule(NamedTuple):
    """A test of an answer as text, the rule in words, and an example."""

    accepts: Callable[[str], bool]
    words: str
    example: str


TEXT = "visible characters, no blank at either end, no {{, {% or {#"
SLUG = "2 to 50 of a-z, 0-9 and single hyphens, a letter first, no reserved name (app, con, ...)"
PORTS, WORKERS = [*map(str, range(1024, 65536))], ["auto", *map(str, range(1, 65))]
PYTHONS, DATABASES, PIPELINES = CONFIG["python_version"], CONFIG["database"], CONFIG["ci"]
RULES = {
    # FastAPI writes the name into the page at /docs without escaping it.
    "project_name": Rule(
        lambda text: is_text(text, 60) and "</title" not in text.lower(),
        f"1 to 60 {TEXT}, no </title",
        "My Service",
    ),
    "project_slug": Rule(is_slug, SLUG, "my-service"),
    "description": Rule(lambda text: is_text(text, 200), f"1 to 200 {TEXT}", "Sells books."),
    "python_version": Rule(PYTHONS.__contains__, f"one of {', '.join(PYTHONS)}", PYTHONS[0]),
    "port": Rule(PORTS.__contains__, "a number from 1024 to 65535", "8000"),
    "workers": Rule(WORKERS.__contains__, "a number from 1 to 64, or auto", "4"),
    "database": Rule(DATABASES.__contains__, f"one of {', '.join(DATABASES)}", DATABASES[0]),
    "ci": Rule(PIPELINES.__contains__, f"one of {', '.join(PIPELINES)}", PIPELINES[0]),
    "kubernetes": Rule(["no", "yes"].__contains__, "no or yes", "no"),
    "create_venv": Rule(["True", "False"].__contains__, "true or false", "true"),
}


def find_problem(name: str, answer: object) -> str:
    """Return a line about an invalid answer, with the rule and an example; for a valid one, ''."""
    if name not in RULES:
        near = get_close_matches(name, RULES, 1)
        hint = f"did you mean {near[0]}?" if near else f"the questions are {', '.join(RULES)}"
        return f"{name!r} is not a question; {hint}"
    rule, shown = RULES[name], repr(answer)[:70]
    if isinstance(answer, (str, int)) and rule.accepts(str(answer)):
        return ""
    return f"{name}: {shown} is refused; it must be {rule.words}, such as {rule.example}"


def refuse(answers: Mapping[str, Any]) -> None:
    """Raise `FailedHookException` with a line for each problem, if there is one."""
    problems = [line for name in answers if (line := find_problem(name, answers[name]))]
    if (answers.get("kubernetes"), answers.get("database")) == ("yes", "sqlite"):
        problems.append("kubernetes: 'yes' is refused; it needs database=postgresql or none")
    if problems:
        # A console that lacks a letter shows its escape instead of a traceback.
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        message = "\n".join(problems).encode(encoding, "backslashreplace").decode(encoding)
        # cruft's command shows a traceback for every other exception.
        from_cruft = re.search(r"\bcruft(\.exe|[\\/]__main__\.py)?$", "".join(sys.argv[:1]))
        raise SystemExit(message) if from_cruft else FailedHookException(message)


def checked(answers: Mapping[str, Any]) -> str:
    """Check the answers of Cookiecutter's context; return nothing to render."""
    refuse({name: answers[name] for name in RULES if name in answers})
    return ""


def for_hook(answers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answers with the template's own `_features`; a replay file may hold others."""
    return {**answers, "_features": CONFIG["_features"]}


def given() -> dict[str, Any]:
    """Return the answers that `cookiecutter()` or `cruft.create()` got, with unknown names."""
    create = getattr(sys.modules.get("cruft"), "create", generate)
    codes = [generate.__code__, inspect.unwrap(create).__code__]
    frame = inspect.currentframe()
    while frame and frame.f_code not in codes:
        frame = frame.f_back
    answers = dict(frame.f_locals["extra_context"] or {}) if frame else {}
    if isinstance(answers.get("create_venv"), str):
        del answers["create_venv"]  # Cookiecutter checks words itself: yes and no are valid, too
    return answers


class Answers(ext.Extension):
    """Give the template its filters; Cookiecutter creates this before it asks or renders anything."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        # `cruft update` renders two versions of the template; each must import its own module.
        sys.modules.pop(__name__, None)
        version = cookiecutter.__version__
        if [int(n) for n in re.findall(r"\d+", version)[:2]] < [2, 7]:
            raise FailedHookException(f"Cookiecutter 2.7 or newer is needed, and this is {version}")
        # A caller can replace `_jinja2_env_vars`; answers in another syntax would be code.
        for name, value in vars(Environment(**CONFIG["_jinja2_env_vars"])).items():  # noqa: S701 - no HTML
            if name.endswith(("_string", "_prefix", "_blocks", "_sequence", "escape")):
                setattr(environment, name, value)
        environment.filters |= {f.__name__: f for f in (slug, quoted, markdown, checked, for_hook)}
        refuse(given())

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Let Jinja run the template's own text only; every other text renders as itself.

        It checks the answers before the folder gets its name: a replay file skips `__checked`.
        """
        if source == FOLDER:
            return f"{CONFIG['__checked']}{source}"
        literal = source.replace("${{", "${{ '{{' }}")  # expressions of GitHub's workflows stay
        return literal if filename or source in OWN_TEXT else f"{{{{ {source!a} }}}}"


class Sealed(ext.Extension):
    """Do nothing. Jinja imports this for the `[]` at the end of `_extensions`.

    An empty `_extensions` from a caller would let answers run as templates. Cookiecutter compares
    lists as sets, which cannot hold a list: so a caller's `_extensions` is always a TypeError.
    """


sys.modules["[]"] = Sealed  # type: ignore[assignment]
