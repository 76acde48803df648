"""Let copier serve the template that Cookiecutter serves.

    python scripts/copier_support.py   write copier.yml from cookiecutter.json, as `make fix` does

copier.yml names `Filters` as a Jinja extension and runs `finish` when the files are there.
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment
from jinja2.ext import Extension

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "{{cookiecutter.project_slug}}"
sys.path.insert(0, str(ROOT))

from hooks import post_gen_project as hook  # noqa: E402 - copier loads this file by its path
from local_extensions import CONFIG, checked, find_problem, markdown, quoted, slug  # noqa: E402 - by its path, too

QUESTIONS = [name for name in CONFIG if not name.startswith("_")]


class Filters(Extension):
    """The filters of the files, and `problem`, which validates an answer."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        filters = {"slug": slug, "quoted": quoted, "markdown": markdown, "problem": problem}
        environment.filters.update(filters)

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Leave expressions of GitHub's workflows as they are."""
        return source.replace("${{", "${{ '{{' }}")


def problem(answer: object, question: str) -> str:
    """Return a line about an invalid answer, or nothing."""
    return find_problem(question, answer)


def question(name: str) -> dict[str, Any]:
    """Return a question of cookiecutter.json as copier has it."""
    default, prompt = CONFIG[name], CONFIG["__prompts__"][name]
    # Only the prompt of a menu may have a name for each option.
    names = prompt if isinstance(prompt, dict) else {"__prompt__": prompt}
    result: dict[str, Any] = {"type": "bool" if isinstance(default, bool) else "str"}
    result["help"] = names["__prompt__"]
    if isinstance(default, list):
        result["choices"] = {names.get(choice, choice): choice for choice in default}
        default = default[0]
    elif isinstance(default, str):
        default = default.replace("cookiecutter.", "")
        result["validator"] = f"{{{{ {name} | problem('{name}') }}}}"
    return result | {"default": default}


def configuration() -> str:
    """Return the text of copier.yml; each value is JSON, which YAML includes."""
    names = ", ".join(f"{name}={name}" for name in QUESTIONS)
    service = tomllib.loads((TEMPLATE / "pyproject.toml").read_text(encoding="utf-8"))
    skipped = [f"**/{path}" for path in service["tool"]["cruft"]["skip"]]
    values: dict[str, Any] = {
        "_subdirectory": "{{ '{{cookiecutter.project_slug}}' }}",
        "_templates_suffix": "",
        # `cruft update` skips these, too.
        "_exclude": [f"{{{{ '{p}' if _copier_operation == 'update' else '' }}}}" for p in skipped],
        "_envops": {**CONFIG["_jinja2_env_vars"], "keep_trailing_newline": True},
        "_jinja_extensions": [
            "copier_template_extensions.TemplateExtensionLoader",
            "scripts/copier_support.py:Filters",
        ],
        "_tasks": [
            [
                "{{ _copier_python }}",
                "{{ _copier_conf.src_path }}/scripts/copier_support.py",
                "{{ _copier_operation }}",
                "{{ cookiecutter | to_json }}",
                "{{ _copier_answers | to_json }}",
            ]
        ],
        **{name: question(name) for name in QUESTIONS},
        "cookiecutter": {
            "type": "json",
            "when": False,
            "default": f"{{{{ dict({names}) | to_json }}}}",
        },
    }
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    head = "# For copier. `make fix` writes this file from cookiecutter.json."
    return "\n".join([head, *lines, ""])


def finish(operation: str, context: dict[str, Any], answers: dict[str, Any]) -> None:
    """Do what the hook does, and keep the answers for `copier update`."""
    try:
        checked(context)
    except FailedHookException as error:
        sys.exit(str(error))
    text = json.dumps(answers, indent=2, ensure_ascii=False) + "\n"
    Path(".copier-answers.yml").write_text(text, encoding="utf-8", newline="\n")
    context["_features"] = CONFIG["_features"]
    if operation == "copy":
        hook.main(context)
    else:
        hook.keep_selected(context, Path.cwd())


if __name__ == "__main__":
    if len(sys.argv) == 4:
        finish(sys.argv[1], *map(json.loads, sys.argv[2:]))
    else:
        (ROOT / "copier.yml").write_text(configuration(), encoding="utf-8")
