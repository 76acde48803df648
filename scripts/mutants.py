"""Change one operator or constant at a time, and count the changes that no test notices.

    make mutants                               everything, for hours; then scripts/defects.py
    make mutants ARGS="hook --sample 40"        40 mutants of each file of a group, the same ones each time

cosmic-ray makes the mutants in a copy of the repository. Prints each survivor as a diff, and the score of each
file. scripts/defects.py does the same for files that cosmic-ray cannot change.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from scripts.defects import SERVICE, copy_of_repository

# Files, and the tests that should notice a change in them.
GROUPS = {
    "extension": {
        "local_extensions.py": "tests/template/test_answers.py tests/template/test_hook.py",
    },
    "hook": {
        "hooks/post_gen_project.py": "tests/template/test_hook.py tests/template/test_surroundings.py"
        " tests/template/test_venv.py tests/service/test_service.py::test_it_has_exactly_these_files"
        " tests/service/test_service.py::test_without_a_database_there_is_no_trace_of_one",
        # All but those that need the network.
        f"{SERVICE}/scripts/make_venv.py": "-m 'not docker' -k 'not uvx'"
        " tests/template/test_venv.py tests/template/test_surroundings.py"
        "::test_an_interrupted_venv_leaves_a_complete_service_and_no_venv",
    },
    "server": {
        f"{SERVICE}/server/{name}.py": tests
        for name, tests in {
            "cpus": "tests/server/test_cpus.py",
            "gunicorn_conf": "tests/server/test_gunicorn_conf.py tests/server/test_startup.py"
            " tests/server/test_shutdown.py",
            "limits": "tests/server/test_limits.py"
            " tests/server/test_shutdown.py::test_a_stop_waits_for_requests_but_not_for_idle_clients"
            " tests/server/test_shutdown.py::test_at_a_stop_every_client_is_told_which_answer_is_the_last"
            f" && cd .. && {sys.executable} -m pytest -x -q -m slow tests/service/test_websockets.py",
            "probe": "tests/server/test_probe.py",
            "settings": "tests/test_settings.py tests/server/test_startup.py -k setting",
            "shutdown": "tests/server/test_shutdown.py",
            "startup": "tests/server/test_startup.py"
            " tests/server/test_shutdown.py::test_a_drain_serves_requests_and_readyz_answers_503",
            "worker": "tests/server/test_limits.py::test_a_client_that_does_not_go_on_is_dropped"
            " tests/server/test_limits.py::test_a_reader_that_takes_nothing_is_dropped"
            " tests/server/test_limits.py::test_a_head_that_http_forbids_is_refused"
            " tests/server/test_shutdown.py tests/server/test_startup.py",
        }.items()
    },
}
# One replacement for each operator, because more only take longer. No `|`, because it is in annotations alone.
OPERATORS = (
    "ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Mod_Mul|Pow_Mul|BitAnd_BitOr)"
    "|ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Is_IsNot|IsNot_Is|In_NotIn|NotIn_In)"
    "|ReplaceAndWithOr|ReplaceOrWithAnd|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceContinueWithBreak"
    "|ReplaceBreakWithContinue|AddNot|NumberReplacer|ExceptionReplacer|ReplaceUnaryOperator_(Delete_Not|USub_UAdd)"
    "|RemoveDecorator|ZeroIterationForLoop"
)


class Score(NamedTuple):
    """How many mutants of a file were tried and noticed, and the diffs of the others."""

    file: str
    tried: int
    survivors: list[str]

    def __str__(self) -> str:
        killed = self.tried - len(self.survivors)
        return f"{self.file}: {killed} of {self.tried} killed"


def config(file: str, tests: str, inside: str) -> str:
    """Return cosmic-ray's configuration for one file; JSON's strings are TOML's, too."""
    select = "-m 'slow or not slow'" if inside else ""
    options = f"{select} -x -q -p no:cacheprovider -p no:randomly"
    command = f"{sys.executable} -m pytest {options} {tests}"
    if inside:
        command = f'sh -c "cd {inside!r} && {command}"'
    values = {
        "module-path": [file],
        "timeout": 300.0,
        "excluded-modules": [],
        "test-command": command,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    excluded = json.dumps([f"core/(?!({OPERATORS})$)"])
    return "\n".join(
        [
            "[cosmic-ray]",
            *lines,
            '[cosmic-ray.distributor]\nname = "local"',
            f"[cosmic-ray.filters.operators-filter]\nexclude-operators = {excluded}\n",
        ]
    )


def draw(session: Path, sample: int) -> None:
    """Leave `sample` mutants in the session, the same ones each time."""
    from cosmic_ray.work_db import use_db
    from cosmic_ray.work_item import WorkerOutcome, WorkResult

    with use_db(str(session)) as work:
        jobs = sorted(
            (item.mutations[0].start_pos, item.mutations[0].operator_name, item.job_id)
            for item in work.pending_work_items
        )
        kept = random.Random(13).sample(jobs, min(sample, len(jobs)))  # noqa: S311 - no secret
        left_out = WorkResult(worker_outcome=WorkerOutcome.SKIPPED)
        for job in set(jobs) - set(kept):
            work.set_result(job[2], left_out)


def score(file: str, tests: str, sample: int) -> Score:
    """Try the mutants of `file` with `tests`."""
    inside = SERVICE if "/server/" in file else ""
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_of_repository(Path(folder))
        (copy / "cosmic.toml").write_text(config(file, tests, inside), encoding="utf-8")

        def run(program: str, *arguments: str) -> str:
            command = [str(Path(sys.executable).with_name(program)), *arguments]
            return subprocess.run(
                command, cwd=copy, check=True, capture_output=True, text=True
            ).stdout

        run("cosmic-ray", "baseline", "cosmic.toml")  # without a mutant, the tests must pass
        run("cosmic-ray", "init", "cosmic.toml", "session.sqlite")
        run("cr-filter-operators", "session.sqlite", "cosmic.toml")
        draw(copy / "session.sqlite", sample)
        run("cosmic-ray", "exec", "cosmic.toml", "session.sqlite")
        done = [
            json.loads(line) for line in run("cosmic-ray", "dump", "session.sqlite").splitlines()
        ]
    results = [result for _, result in done if result and result["worker_outcome"] == "normal"]
    survivors = [result["diff"] for result in results if result["test_outcome"] == "survived"]
    return Score(file, len(results), survivors)


def main() -> int:
    """Return 0 if at least nine in ten mutants were killed, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--only", default="", help="files whose names hold this")
    parser.add_argument("--sample", type=int, default=10**6, help="mutants of each file")
    options = parser.parse_args()
    tried = survived = 0
    for group in options.groups or GROUPS:
        for file, tests in GROUPS[group].items():
            if not re.search(options.only, file):
                continue
            result = score(file, tests, options.sample)
            tried, survived = tried + result.tried, survived + len(result.survivors)
            print(result, *result.survivors, sep="\n", flush=True)
    print(f"{tried - survived} of {tried} killed")
    return int(survived > tried / 10)


if __name__ == "__main__":
    sys.exit(main())
