"""Answers: refused before anything is written, encoded where they are written.

Cookiecutter imports this file because cookiecutter.json names it in `_extensions`.
"""

from __future__ import annotations

import inspect
import json
import keyword
import re
import shlex
import subprocess
import sys
import unicodedata
from collections.abc import Container, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import Any

import cookiecutter
from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment
from jinja2.ext import Extension
from slugify import slugify

ROOT = Path(__file__).parent
FOLDER = "{{cookiecutter.project_slug}}"
CONFIG = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
DEFAULTS = {name: default for name, default in CONFIG.items() if not name.startswith("_")}
PLACEHOLDER = "..."  # in the command to run again, for what was refused

# Of every Python that the service offers. `sys.stdlib_module_names` is of the one that runs
# Cookiecutter: the same answers would give other files, and an update could refuse an old name.
STANDARD_LIBRARY = """
abc aifc annotationlib antigravity argparse array ast asynchat asyncio asyncore atexit audioop
base64 bdb binascii bisect builtins bz2 calendar cgi cgitb chunk cmath cmd code codecs codeop
collections colorsys compileall compression concurrent configparser contextlib contextvars copy
copyreg crypt csv ctypes curses dataclasses datetime dbm decimal difflib dis distutils doctest
email encodings ensurepip enum errno faulthandler fcntl filecmp fileinput fnmatch fractions ftplib
functools gc genericpath getopt getpass gettext glob graphlib grp gzip hashlib heapq hmac html http
idlelib imaplib imghdr imp importlib inspect io ipaddress itertools json keyword lib2to3 linecache
locale logging lzma mailbox mailcap marshal math mimetypes mmap modulefinder msilib msvcrt
multiprocessing netrc nis nntplib nt ntpath nturl2path numbers opcode operator optparse os
ossaudiodev pathlib pdb pickle pickletools pipes pkgutil platform plistlib poplib posix posixpath
pprint profile profiling pstats pty pwd pyclbr pydoc pyexpat queue quopri random re readline
reprlib resource rlcompleter runpy sched secrets select selectors shelve shlex shutil signal site
smtpd smtplib sndhdr socket socketserver spwd sqlite3 ssl stat statistics string stringprep struct
subprocess sunau symtable sys sysconfig syslog tabnanny tarfile telnetlib tempfile termios textwrap
this threading time timeit tkinter token tokenize tomllib trace traceback tracemalloc tty turtle
turtledemo types typing unicodedata unittest urllib uu uuid venv warnings wave weakref webbrowser
winreg winsound wsgiref xdrlib xml xmlrpc zipapp zipfile zipimport zlib zoneinfo
""".split()
DEVICES = {"con", "prn", "aux", "nul"} | {
    f"{port}{n}" for port in ("com", "lpt") for n in range(10)
}
INSTALLED = [
    name
    for lock in (ROOT / FOLDER).glob("requirements*.txt")
    for name in re.findall(r"^([a-z0-9-]+)==", lock.read_text(encoding="utf-8"), re.MULTILINE)
]
RESERVED = (
    dict.fromkeys(STANDARD_LIBRARY, "is a module of Python's standard library")
    | dict.fromkeys(keyword.kwlist, "is a keyword of Python")
    | dict.fromkeys(DEVICES, "is a device on Windows, where no folder can have that name")
    | dict.fromkeys(INSTALLED, "is a package that the service installs, so it would need itself")
    | dict.fromkeys(["app", "tests"], "is a folder inside the service")
    | {"localhost": "is every machine's own name", "scratch": "is a name that Docker reserves"}
)
SLUG = re.compile(r"(?=.{2,50}\Z)[a-z][a-z0-9]*(-[a-z0-9]+)*")
UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029"  # control characters, line and paragraph separators
    r"\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"  # lone surrogates, noncharacters
    + "".join(rf"\U{plane:04x}fffe-\U{plane:04x}ffff" for plane in range(1, 17))
    # Bidirectional controls: code that holds them reads differently from what it does.
    + r"\u202a-\u202e\u2066-\u2069]"
)
# What Python, TOML or YAML cannot hold raw, and what nobody would see. Joiners stay: emoji and
# Persian words need them.
ESCAPED = re.compile(
    r'["\\\x00-\x1f\x7f-\xa0\xad\u061c\u1680\u2000-\u200b\u200e\u200f\u2028-\u202f\u205f-\u206f'
    r"\u3000\ufeff\ufff9-\uffff]"
)
# Where answers come in: the command, the argument that is the template, the option with answers.
CALLS = {
    "cookiecutter.main.cookiecutter": ("cookiecutter", "template", ""),
    "cruft._commands.create.create": ("cruft create", "template_git_url", "--extra-context"),
    "cruft._commands.link.link": ("cruft link", "template_git_url", "--extra-context"),
    "cruft._commands.update.update": ("cruft update", "", "--variables-to-update"),
}
# What else the commands take, as their functions call it.
OPTIONS = """
checkout directory output_dir project_dir template_path config_file default_config
overwrite_if_exists skip_if_file_exists keep_project_on_failure skip_apply_ask skip_update
allow_untracked_files refresh_private_variables cookiecutter_input
""".split()
# Where cruft renders a service that exists, from the answers that it has kept.
RENDERING = "cruft._commands.utils.generate.cookiecutter_template"


def slug(name: object) -> str:
    """Return a name for folder, image and host that is always valid, made from any text.

    Latin letters are found for other scripts. Where the first is no letter, or there is none,
    `service` goes before ("3D printer": `service-3d-printer`); after a reserved word it follows.
    """
    plain = re.sub("['\u2019]", "", name) if isinstance(name, str) else ""
    text = "-".join(re.findall("[a-z0-9]+", slugify(plain)))
    if not text[:1].isalpha():
        text = f"service-{text}"
    text = text[:50].rstrip("-")
    # Docker takes no container name of one letter.
    return f"{text}-service" if text in RESERVED or len(text) < 2 else text


def quoted(text: object) -> str:
    r"""Encode text for double quotes in Python, TOML and YAML alike.

    A quote becomes `\u0022`, not `\"`, which formatters of Python would put in single quotes.
    """

    def escape(match: re.Match[str]) -> str:
        return r"\\" if match[0] == "\\" else f"\\u{ord(match[0]):04x}"

    return ESCAPED.sub(escape, str(text))


def markdown(text: object) -> str:
    """Encode text as a heading or paragraph of Markdown, on one line, that shows it as it is."""
    escaped = re.sub(
        # An underscore inside a word, and an ampersand that begins no entity, stand for themselves.
        r"[\\`*\[\]<|~$]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|(?<!\S)#",
        r"\\\g<0>",
        str(text),
    )
    return re.sub(r"^(\d{1,9}(?=[.)](\s|$))|(?=[-+=>]))", r"\1\\", escaped)


def checked(answers: Mapping[str, Any]) -> str:
    """Return nothing when every answer follows its rule.

    Raises `FailedHookException` with a line for each one that does not, and the command to run
    again. Unanswered questions are passed over: with a replay file, Cookiecutter asks for those.
    """
    names = {name: answers[name] for name in DEFAULTS if name in answers}
    # A service that exists has its name, even if a newer version of the template reserves it.
    if _call([RENDERING])[0] and str(names.get("project_slug")) in RESERVED:
        del names["project_slug"]
    _refuse(names)
    return ""


class Answers(Extension):
    """Give templates the filters `slug`, `quoted`, `markdown` and `checked`.

    Making one, which Cookiecutter does before it asks or renders, raises `FailedHookException` for
    a Cookiecutter that is too old, and for what it was given on the command line or by its caller.
    """

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        # `cruft update` renders two versions of the template in one process, and a server may
        # serve several templates that have a module of this name: each is to import its own.
        sys.modules.pop(__name__, None)
        environment.filters |= {f.__name__: f for f in (slug, quoted, markdown, checked)}
        if [int(n) for n in re.findall(r"\d+", cookiecutter.__version__)[:2]] < [2, 7]:
            raise FailedHookException(
                f"This template needs Cookiecutter 2.7 or newer, and this is "
                f"{cookiecutter.__version__}. Upgrade it: pip install --upgrade cookiecutter"
            )
        # Before anything is rendered: Cookiecutter runs what it is given as templates.
        _refuse(_given())

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Check once more where the folder gets its name: replay files bring old `__` variables."""
        return CONFIG["__checked"] + source if source == FOLDER else source


def _refuse(answers: Mapping[str, Any]) -> None:
    """Raise with a line for each problem in `answers`, if there is any."""
    problems, kept, given = [], {}, _given()
    for name, answer in answers.items():
        question = (
            name if name in DEFAULTS else next(iter(get_close_matches(name, DEFAULTS, 1)), "")
        )
        fault = _fault(question, answer) if question else ""
        if name != question:
            hint = f"did you mean {question}?" if question else f"there are {', '.join(DEFAULTS)}"
            problems.append(f"{_shown(name)} is no question of this template; {hint}")
        elif fault:
            problems.append(f"{name}: {_shown(answer)} {fault}")
        if not question or (name != question and question in answers):
            continue
        if fault:
            kept[question] = PLACEHOLDER
        elif name in given or answer != _default(question, answers):
            kept[question] = str(answer).lower() if isinstance(answer, bool) else str(answer)
    if not problems:
        return
    message = "\n".join([*problems, *_again(kept)])
    # Printing a letter that the console lacks would end in a traceback.
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    message = message.encode(encoding, "backslashreplace").decode(encoding)
    # cruft's command line shows a traceback for every other exception.
    from_cruft = any(name.startswith("cruft._cli.") for name, _ in _frames())
    raise SystemExit(message) if from_cruft else FailedHookException(message)


def _shown(value: object) -> str:
    """Show any value on one line that a terminal can take."""
    shown = repr(value)
    return shown if len(shown) <= 70 else f"{shown[:67]}..."


def _default(question: str, answers: Mapping[str, Any]) -> object:
    if question == "project_slug":
        return slug(answers.get("project_name", DEFAULTS["project_name"]))
    default = DEFAULTS[question]
    return default[0] if isinstance(default, list) else default


def _fault(question: str, answer: object) -> str:
    """Say what is wrong with an answer and what would be right, or nothing."""
    default = DEFAULTS[question]
    if isinstance(default, bool):
        return "" if isinstance(answer, bool) else "is refused; it must be true or false"
    is_text = isinstance(answer, (str, int)) and not isinstance(answer, bool)
    text = str(answer) if is_text else ""
    fault = "is refused"
    if isinstance(default, list):
        right, rule = text in default, f"one of {', '.join(default)}"
    elif question == "project_slug":
        fault = RESERVED.get(text, fault)
        right = text not in RESERVED and SLUG.fullmatch(text) is not None
        rule = f"2 to 50 of a-z, 0-9 and single hyphens, a letter first, such as {slug(text)}"
    elif question in ("port", "workers"):
        low, high, example = (1024, 65535, "8000") if question == "port" else (1, 64, "4, or auto")
        is_number = re.fullmatch("[1-9][0-9]{0,4}", text) and low <= int(text) <= high
        right = bool(is_number) or (question, text) == ("workers", "auto")
        rule = f"a whole number from {low} to {high}, such as {example}"
    else:
        longest = 60 if question == "project_name" else 200
        fault = _fault_of_text(text, longest)
        if question == "project_name" and "</title" in text.lower():
            # FastAPI writes it into the page at /docs as it is.
            fault = "holds </title, which ends the title of a page"
        right, rule = not fault, f"1 to {longest} printable characters, such as {default!r}"
    return "" if right else f"{fault}; it must be {rule}"


def _fault_of_text(text: str, longest: int) -> str:
    if not 1 <= len(text) <= longest:
        return f"has {len(text)} characters"
    if found := UNPRINTABLE.search(text):
        unread = "\udc80" <= found[0] <= "\udcff"  # how Python keeps a byte that is no text
        what = "a byte that is no text in this locale" if unread else "which does not print"
        return f"holds {found[0]!a}, {what}"
    if found := re.search("{[{%#]", text):
        return f"holds {found[0]}, with which a template begins"
    if text != text.strip():
        return "begins or ends with a blank"
    if text == PLACEHOLDER or not any(unicodedata.category(c)[0] in "LNPS" for c in text):
        return "says nothing"
    return ""


def _frames() -> Iterator[tuple[str, FrameType]]:
    frame = inspect.currentframe()
    while frame:
        yield f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}", frame
        frame = frame.f_back


def _call(names: Container[str] = CALLS) -> tuple[str, Mapping[str, Any]]:
    """Find the command that this is part of, and its arguments, in the frames that led here.

    Cookiecutter drops unknown answers before it makes an extension; they are left nowhere else.
    """
    for name, frame in _frames():
        if name in names:
            arguments = frame.f_code.co_varnames[: frame.f_code.co_argcount]
            return name, {argument: frame.f_locals[argument] for argument in arguments}
    return "", {}


def _given() -> dict[str, Any]:
    """Return the answers on the command line or from the caller, with booleans as such."""
    if _call([RENDERING])[1].get("update_deleted_paths"):
        return {}  # an update renders the old version first, which may not know what is given
    given = dict(_call()[1].get("extra_context") or {})
    for name, answer in given.items():
        # Cookiecutter itself has refused all but its words for yes, and those for no.
        if isinstance(DEFAULTS.get(name), bool) and isinstance(answer, str):
            given[name] = answer.strip().lower() in ("1", "true", "t", "yes", "y", "on")
    return given


def _again(answers: Mapping[str, str]) -> list[str]:
    """Write the command to run again with `answers`, if it was one that is known."""
    name, call = _call()
    if not name:
        return []
    command, template, option = CALLS[name]
    quote = shlex.quote if sys.platform != "win32" else lambda word: subprocess.list2cmdline([word])
    words = [command, *([quote(str(call[template]))] if template else [])]
    for name in OPTIONS:
        value = call.get(name)
        if value is True:
            words.append(f"--{name.replace('_', '-')}")
        elif isinstance(value, (str, Path)) and str(value) not in ("", "."):
            words += [f"--{name.replace('_', '-')}", quote(str(value))]
    words += ["--accept-hooks no"] * (call.get("accept_hooks") is False)
    # Cookiecutter takes no answers together with a replay file; what that answers is written out.
    words += ["--no-input"] * bool(call.get("no_input") or call.get("replay"))
    if option:
        words += [option, quote(json.dumps(answers, ensure_ascii=False))]
    else:
        words += [f"{question}={quote(answer)}" for question, answer in answers.items()]
    return [f"Run again: {' '.join(words)}"]
