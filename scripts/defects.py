"""Seed one defect at a time, and check that a test fails.

For files that scripts/mutants.py does not change. Copies the repository for each defect, applies it there, and
runs the quickest tests that should notice. First, each selection of tests must pass without the defect; otherwise
its failure would prove nothing. Ends with status 0 only if all are caught; `--without-docker` leaves out those
that only a container shows.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SERVICE = "{{cookiecutter.project_slug}}"
LEFT_BEHIND = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*_cache", ".hypothesis")


class Defect(NamedTuple):
    """A fault that somebody could commit: every `old` in `file` becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    """Arguments of pytest. After the word `service`, they select the service's own tests, which run in
    the template folder."""

    @property
    def needs_docker(self) -> bool:
        """Whether the tests run containers."""
        return self.tests.startswith("-m docker ")


DEFECTS = [
    Defect(
        "the image runs as root",
        f"{SERVICE}/Dockerfile",
        "USER 10001:10001",
        "",
        "-m docker tests/image/test_image.py -k runs_as_answered_and_stops[default]",
    ),
    Defect(
        "CMD in shell form",
        f"{SERVICE}/Dockerfile",
        'CMD ["python", "-m", "server"]',
        "CMD python -m server",
        "tests/service/test_service.py -k dockerfile_is_clean[default]",
    ),
    Defect(
        "no health check",
        f"{SERVICE}/Dockerfile",
        "HEALTHCHECK ",
        "# HEALTHCHECK ",
        "tests/service/test_service.py -k dockerfile_is_clean[default]",
    ),
    Defect(
        "the port fixed in the Dockerfile",
        f"{SERVICE}/Dockerfile",
        "{{ cookiecutter.port }}",
        "8000",
        "tests/service/test_service.py -k are_in_one_file",
    ),
    Defect(
        "the service's folder writable by everybody",
        f"{SERVICE}/Dockerfile",
        "COPY --chmod=755 app app",
        "COPY --chmod=777 app app",
        "-m docker tests/image/test_image.py -k nothing_to_write",
    ),
    Defect(
        ".dockerignore lets everything in",
        f"{SERVICE}/.dockerignore",
        "**/*.*\n",
        "",
        "-m docker tests/image/test_image.py -k no_secret",
    ),
    Defect(
        "Compose lets the container write",
        f"{SERVICE}/compose.yaml",
        "read_only: true",
        "read_only: false",
        "-m docker tests/service/test_make.py -k build_run_stop",
    ),
    Defect(
        "an entry of the lock without a hash",
        f"{SERVICE}/requirements.txt",
        "    --hash=sha256:",
        "    # sha256:",
        "-m slow tests/template/test_template.py -k locks_are_what_lock_py_writes",
    ),
    Defect(
        "a description without quotes in pyproject.toml",
        f"{SERVICE}/pyproject.toml",
        '"{{ cookiecutter.description | quoted }}"',
        '"{{ cookiecutter.description }}"',
        "-m slow tests/template/test_answers.py -k right_in_every_file",
    ),
    Defect(
        "a name that is not encoded in main.py",
        f"{SERVICE}/app/main.py",
        "cookiecutter.project_name | quoted",
        "cookiecutter.project_name",
        "-m slow tests/template/test_answers.py -k right_in_every_file",
    ),
    Defect(
        "a short name without quotes in compose.yaml",
        f"{SERVICE}/compose.yaml",
        'name: "{{ cookiecutter.project_slug }}"',
        "name: {{ cookiecutter.project_slug }}",
        "-m slow tests/template/test_answers.py -k right_in_every_file",
    ),
    Defect(
        "a tag inside a line",
        f"{SERVICE}/pyproject.toml",
        'requires-python = ">=3.11"',
        'requires-python = ">=3.11" # {% if cookiecutter.create_venv %} # {% endif %}',
        "tests/template/test_template.py -k fills_a_line",
    ),
    Defect(
        "line ends as in the check-out",
        "cookiecutter.json",
        '  "_new_lines": "\\n",\n',
        "",
        "tests/template/test_surroundings.py -k same_bytes",
    ),
    Defect(
        "`make rm` without asking",
        f"{SERVICE}/Makefile",
        "\t$(call ask,Stop and remove the containers of $(NAME)?)\n",
        "",
        "tests/service/test_service.py -k asks_first",
    ),
    Defect(
        "`make rmi` for what is built on the image",
        f"{SERVICE}/Makefile",
        """awk 'NR == 1 || $$1 ~ "(^|/)$(NAME)$$"'""",
        "cat",
        "-m docker tests/service/test_make.py -k built_on_this_one",
    ),
    Defect(
        "extensions that a caller can replace",
        "cookiecutter.json",
        '["local_extensions.Answers", []]',
        '["local_extensions.Answers"]',
        "tests/template/test_answers.py -k never_runs",
    ),
    Defect(
        "WORKERS ignored",
        f"{SERVICE}/server/gunicorn_conf.py",
        'cpus.available() if workers == "auto" else workers',
        "7",
        "service tests/server/test_gunicorn_conf.py",
    ),
    Defect(
        "heartbeats on the disk",
        f"{SERVICE}/server/gunicorn_conf.py",
        '"worker_tmp_dir": "/dev/shm" if Path("/dev/shm").is_dir() else None',
        '"worker_tmp_dir": None',
        "-m docker tests/promises/test_promises.py -k hardened_as_any_user[none]",
    ),
    Defect(
        "no `nosniff`",
        f"{SERVICE}/app/middleware.py",
        '    b"x-content-type-options": b"nosniff",\n',
        "",
        "service tests/test_middleware.py",
    ),
    Defect(
        "any request id accepted",
        f"{SERVICE}/app/middleware.py",
        "if PLAIN_ID.fullmatch(given) else",
        "if given else",
        "service tests/test_middleware.py",
    ),
    Defect(
        "the query in the log",
        f"{SERVICE}/app/logs.py",
        'encode(scope["path"])',
        'encode(scope["path"] + "?" + scope["query_string"].decode())',
        "service tests/test_middleware.py",
    ),
    Defect(
        "a 500 that tells what went wrong",
        f"{SERVICE}/app/middleware.py",
        '"Internal Server Error")',
        "repr(sys.exception()))",
        "service tests/test_additions.py",
    ),
    Defect(
        "no limit for bodies in pieces",
        f"{SERVICE}/app/middleware.py",
        "self.app if small else super().__call__",
        "self.app",
        "service tests/test_middleware.py",
    ),
    Defect(
        "lines of several workers that mix",
        f"{SERVICE}/app/logs.py",
        "fcntl.lockf(self.file, fcntl.LOCK_EX)",
        "pass",
        "service tests/test_logs.py -k mix",
    ),
    Defect(
        "an owner's handler of all errors that is not called",
        f"{SERVICE}/app/middleware.py",
        "Middleware(RouteMiddleware)]",
        "Middleware(RouteMiddleware), Middleware(RequestMiddleware)]",
        "service tests/test_additions.py",
    ),
    Defect(
        "an answer without its item_id",
        f"{SERVICE}/app/items/routes.py",
        "read_item(item_id: ItemId, database: DatabaseDep) -> Item:",
        "read_item(item_id: ItemId, database: DatabaseDep) -> NewItem:",
        "service tests/items",
    ),
]


def copy_of_repository(folder: Path) -> Path:
    """Copy the working tree to `folder`, as a git repository, because some tests ask git for its files."""
    copy = folder / "template"
    shutil.copytree(ROOT, copy, ignore=LEFT_BEHIND)
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=copy, check=True)
    return copy


def run(tests: str, defect: Defect | None = None) -> tuple[int, str]:
    """Run `tests` on a fresh copy of the repository, with `defect`; return status and output."""
    words = tests.split()
    in_service = words[0] == "service"
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "REQUIRE_DOCKER": "1"}
    if "docker" not in words:
        environment["DOCKER_HOST"] = "tcp://127.0.0.1:9"  # a defect must not reach this engine
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_of_repository(Path(folder))
        if defect:
            file = copy / defect.file
            text = file.read_text(encoding="utf-8")
            if defect.old not in text:
                return 0, f"{defect.file} no longer holds {defect.old!r}"
            file.write_text(text.replace(defect.old, defect.new), encoding="utf-8")
        pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        done = subprocess.run(
            pytest + words[in_service:],
            cwd=copy / SERVICE if in_service else copy,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
    return done.returncode, done.stdout


def run_all(defects: Iterable[Defect]) -> list[Defect]:
    """Seed each of `defects`, print the result, and return those that no test noticed."""
    missed = []
    # One after the other where tests measure containers, because a busy machine changes times.
    for docker, at_once in ((False, 2), (True, 1)):
        chosen = [each for each in defects if each.needs_docker is docker]
        with ThreadPoolExecutor(at_once) as pool:
            selections = list(dict.fromkeys(each.tests for each in chosen))
            for tests, (status, output) in zip(selections, pool.map(run, selections), strict=True):
                if status:
                    sys.exit(f"Without any defect, this does not pass: pytest {tests}\n{output}")
            results = pool.map(lambda each: run(each.tests, each), chosen)
            for defect, (status, output) in zip(chosen, results, strict=True):
                caught = status == 1  # 2 to 5 mean that no test was run
                print(f"{'caught' if caught else 'NOT CAUGHT'}: {defect.name}", flush=True)
                if not caught:
                    missed.append(defect)
                    print(f"    {defect.file}: pytest {defect.tests}\n{output}", flush=True)
    return missed


def docker_answers() -> bool:
    """Tell whether there is a Docker Engine."""
    try:
        return subprocess.run(["docker", "info"], capture_output=True).returncode == 0
    except OSError:
        return False


def main() -> int:
    """Return 0 if every defect was caught, except those that `--without-docker` left out; else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without-docker", action="store_true", help="leave out what needs it")
    parser.add_argument("names", nargs="*", help="only defects whose names hold one of these")
    options = parser.parse_args()
    begin = time.monotonic()
    chosen = [d for d in DEFECTS if any(name in d.name for name in options.names or [""])]
    docker = not options.without_docker and docker_answers()
    skipped = [] if docker else [d for d in chosen if d.needs_docker]
    missed = run_all([d for d in chosen if d not in skipped])
    for defect in skipped:
        print(f"skipped, needs Docker: {defect.name}")
    caught = len(chosen) - len(skipped) - len(missed)
    print(f"{caught} of {len(chosen)} caught in {time.monotonic() - begin:.0f} s")
    return 1 if missed or (skipped and not options.without_docker) else 0


if __name__ == "__main__":
    sys.exit(main())
