"""This repository: its folders, its questions."""

from __future__ import annotations

import json
import stat
from functools import cache
from pathlib import Path

from tests.support.commands import run

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "{{cookiecutter.project_slug}}"
CONFIG = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
QUESTIONS = [name for name in CONFIG if not name.startswith("_")]
DEFAULTS = {
    name: CONFIG[name][0] if isinstance(CONFIG[name], list) else CONFIG[name] for name in QUESTIONS
}


@cache
def sources() -> list[Path]:
    """List the template's files, as git knows them if this is a clone."""
    if not (ROOT / ".git").exists():
        return [path for path in TEMPLATE.rglob("*") if path.is_file()]
    which = ("--cached", "--others", "--exclude-standard", "-z", TEMPLATE.name)
    listed = run("git", "ls-files", *which, cwd=ROOT)
    return [ROOT / name for name in listed.split("\0") if name]


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Read a folder: mode and bytes of every file and folder below it."""
    return {
        path.relative_to(folder).as_posix(): (
            stat.S_IMODE(path.lstat().st_mode),
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(folder.rglob("*"))
    }
