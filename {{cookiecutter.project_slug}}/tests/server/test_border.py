"""The border between the service and the server: neither imports the other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def imports(folder: str) -> set[str]:
    """Return the top-level packages that the modules of `folder` import."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize(("folder", "other"), [("app", "server"), ("server", "app")])
def test_neither_imports_the_other(folder: str, other: str) -> None:
    assert folder in imports(folder)
    assert other not in imports(folder)


def test_the_server_names_the_service_once() -> None:
    texts = {path.name: path.read_text("utf-8") for path in (ROOT / "server").glob("*.py")}
    assert {name for name, text in texts.items() if '"app.' in text} == {"settings.py"}
    assert texts["settings.py"].count('"app.main:app"') == 1


def test_the_readme_describes_every_module() -> None:
    readme = (ROOT / "server/README.md").read_text("utf-8")
    modules = {path.name for path in (ROOT / "server").glob("*.py")} - {"__init__.py"}
    assert {name for name in modules if f"| `{name}` |" in readme} == modules
