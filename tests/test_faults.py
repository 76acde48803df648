"""Whatever goes wrong while generating: the user's files stay, and the next run works or says why not.

`pytest -m "" tests/test_faults.py` tries 200 faults; with `-k "test_trial[17-"` only the one with seed 17.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import cruft
import pytest
from cookiecutter.exceptions import FailedHookException, OutputDirExistsException
from cookiecutter.main import cookiecutter as generate

from tests.conftest import TEMPLATE, Bake, clean_environment, lacking
from tests.test_service import COMBINATIONS

NAME = "my-service"
SEEDS = 200
QUICK = 6

# The user's own files, none of which the template has, and one that it has.
OWN = ["notes.txt", "other/app/main.py", f"{NAME}/mine.py", f"{NAME}/app/mine.py", f"{NAME}/.env"]
SHARED = f"{NAME}/README.md"

Tree = dict[str, tuple[int, bytes]]


def tree(folder: Path) -> Tree:
    """Read a folder: the mode and the bytes of every file and folder below it, none if it is not there."""
    return {
        path.relative_to(folder).as_posix(): (
            stat.S_IMODE(path.stat().st_mode),
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(folder.rglob("*"))
    }


@dataclass(frozen=True)
class Place:
    """A folder in which to generate, with files of the user's, and what a good run makes there."""

    out: Path
    template: Path
    good: Tree

    def fill(self, exists: bool) -> Tree:
        """Write the user's own files, if wanted some where the service would go; return what is there."""
        self.out.mkdir(exist_ok=True)
        for name in [*OWN, SHARED]:
            if exists or not name.startswith(f"{NAME}/"):
                (self.out / name).parent.mkdir(parents=True, exist_ok=True)
                (self.out / name).write_text(f"{name} is mine\r\n")
        return tree(self.out)

    @property
    def command(self) -> list[str]:
        """Return the command that generates here, without a virtual environment."""
        words = [
            "cookiecutter",
            str(self.template),
            "--default-config",
            "--no-input",
            "create_venv=no",
        ]
        return [sys.executable, "-m", *words, "--output-dir", str(self.out)]

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment for that command: a home and a folder for its temporary files."""
        for name in "home", "temporary":
            (self.out.parent / name).mkdir(exist_ok=True)
        home, temporary = str(self.out.parent / "home"), str(self.out.parent / "temporary")
        return clean_environment() | {"HOME": home, "USERPROFILE": home, "TMPDIR": temporary}

    def generate(
        self,
        answers: dict[str, str] | None = None,
        overwrite: bool = False,
        template: Path | None = None,
    ) -> None:
        """Generate in this process, which is quicker."""
        home = str(self.out.parent / "replay")
        generate(
            str(template or self.template),
            no_input=True,
            extra_context={"create_venv": "no"} | (answers or {}),
            output_dir=str(self.out),
            overwrite_if_exists=overwrite,
            default_config={"replay_dir": home, "cookiecutters_dir": home},  # type: ignore[arg-type]
        )

    def left(self) -> Tree:
        """Return what there is of the service, without the user's own files."""
        mine = {name.removeprefix(f"{NAME}/") for name in OWN}
        return {name: entry for name, entry in tree(self.out / NAME).items() if name not in mine}


@pytest.fixture
def place(tmp_path: Path, template: Path, bake: Bake, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in "PIP_INDEX_URL", "UV_DEFAULT_INDEX":
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple/")  # nobody is there
    return Place(tmp_path / "out", template, tree(bake().path))


# Faults. Each runs the generator, over a folder that exists or into none, and sees that something
# went wrong with it.

Fault = Callable[[Place, bool, random.Random], None]


def interrupted(sent: signal.Signals) -> Fault:
    """Return the fault that the command gets a signal, at any moment from its start to its end."""

    def fault(place: Place, exists: bool, chance: random.Random) -> None:
        files = [name for name, (_, text) in place.good.items() if text]
        moment = chance.choice(["start", *files, "hook"])
        wait = chance.uniform(0, 0.5 if moment == "start" else 0.05)
        for _ in range(20):
            if hit(place, exists, moment, wait):
                return
            # It came to its end before: once more from the start, and sooner.
            shutil.rmtree(place.out / NAME)
            place.fill(exists)
            wait /= 2
        pytest.fail("there was no time for a signal")

    def hit(place: Place, exists: bool, moment: str, wait: float) -> bool:
        environment = place.environment
        with subprocess.Popen(
            place.command + ["--overwrite-if-exists"] * exists,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            while process.poll() is None and not (
                moment == "start"
                or (moment == "hook" and any(Path(environment["TMPDIR"]).iterdir()))
                or (place.out / NAME / moment).exists()
            ):
                time.sleep(0.001)
            time.sleep(wait)
            running = process.poll() is None
            if running:
                # Ctrl-C reaches the hook, too; the others are sent to one process.
                (os.killpg if sent is signal.SIGINT else os.kill)(process.pid, sent)
            process.communicate(timeout=60)  # which ends when the hook does
        return running

    return fault


@contextmanager
def mounted(point: Path, options: str) -> Iterator[None]:
    """Mount a file system in memory on a folder; only root may."""
    point.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        lacking("this user may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)


def disk_full(place: Place, exists: bool, chance: random.Random) -> None:
    """Let the disk be full after any number of pages, then make room."""
    all_pages = sum(-(-len(text) // 4096) for _, text in place.good.values())
    pages = chance.randrange(len(OWN) + 1, all_pages)
    remount = ["mount", "-o", f"remount,size={pages * 4096}", str(place.out)]
    subprocess.run(remount, check=True)
    try:
        with pytest.raises(OSError, match=r"No space left|Unable to create directory"):
            place.generate(overwrite=exists)
    finally:
        subprocess.run([*remount[:2], "remount,size=10M", str(place.out)], check=True)


def read_only(place: Place, exists: bool, chance: random.Random) -> None:
    """Let the whole file system be read-only, then not."""
    remount = ["mount", "-o", "remount,ro", str(place.out)]
    subprocess.run(remount, check=True)
    try:
        with pytest.raises(OSError, match=r"Read-only|Unable to create directory"):
            place.generate(overwrite=exists)
    finally:
        subprocess.run([*remount[:2], "remount,rw", str(place.out)], check=True)


def no_permission(place: Place, exists: bool, chance: random.Random) -> None:
    """Let the user have no right to write into the folder, or into one of those in it."""
    service = place.out / NAME
    locked = chance.choice([service, service / "app"]) if exists else place.out
    mode = locked.stat().st_mode
    locked.chmod(0o555)
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]  # root's rights to all
    done = subprocess.run(
        drop * (os.geteuid() == 0) + place.command + ["--overwrite-if-exists"] * exists,
        env=place.environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    locked.chmod(mode)
    assert done.returncode != 0
    assert re.search("Permission denied|Unable to create directory", done.stderr)


STEPS = ["unwanted_paths", "is_comparison", "try_venv", "next_commands", "nearest", "say"]
STEPS_OF_VENV = ["make_venv", "find_python", "index_urls", "reachable", "step", "run", "candidates"]
ERRORS = [
    "RuntimeError",
    "OSError",
    "MemoryError",
    "KeyboardInterrupt",
    "SystemExit",
    "RecursionError",
]


def failing_hook(place: Place, exists: bool, chance: random.Random) -> None:
    """Let any step of the hook fail in any way."""
    step, error = chance.choice(STEPS + STEPS_OF_VENV), chance.choice(ERRORS)
    broken, failed = place.out.parent / "broken", place.out.parent / "failed"
    shutil.copytree(place.template, broken)
    hook = broken / "hooks" / "post_gen_project.py"
    text = hook.read_text("utf-8")
    assert f"def {step}(" in text
    raising = f"    Path({str(failed)!r}).touch()\n    raise {error}('this step fails')"
    raising = f"def {step}(*_, **__):\n{raising}\n\n\nif __name__"
    hook.write_text(text.replace("if __name__", raising), encoding="utf-8")
    answers = {"create_venv": "yes" if step in ["try_venv", *STEPS_OF_VENV] else "no"}
    # What goes wrong with .venv costs nobody the service.
    fatal = step in STEPS or error == "SystemExit"
    with suppress(*[FailedHookException] * fatal):
        place.generate(answers, exists, broken)
    assert failed.exists()
    assert not (place.out / NAME / ".venv").exists()


FAULTS: dict[str, Fault] = {
    "SIGINT": interrupted(signal.SIGINT),
    "SIGTERM": interrupted(signal.SIGTERM),
    "SIGKILL": interrupted(signal.SIGKILL),
    "disk full": disk_full,
    "read-only": read_only,
    "no permission": no_permission,
    "failing hook": failing_hook,
}
# What the hook drops from a service with the default answers.
UNWANTED = ["stateless"]
# Where Cookiecutter leaves a part of the service: it writes one file after the other, in place.
PARTIAL = {*FAULTS} - {"failing hook", "read-only"}


@pytest.mark.parametrize(
    ("seed", "name"),
    [
        pytest.param(
            seed, [*FAULTS][seed % len(FAULTS)], marks=[pytest.mark.slow] * (seed >= QUICK)
        )
        for seed in range(SEEDS)
    ],
)
def test_trial(seed: int, name: str, place: Place) -> None:
    chance = random.Random(seed)  # noqa: S311
    exists = chance.random() < 0.5
    with ExitStack() as stack:
        if name in ("disk full", "read-only"):
            stack.enter_context(mounted(place.out, "size=10M"))
        before = place.fill(exists)
        kept = {path: entry for path, entry in before.items() if (place.out / path).is_file()}
        FAULTS[name](place, exists, chance)

        after, left = tree(place.out), place.left()
        if exists:
            kept.pop(SHARED, None)
        assert {path: after.get(path) for path in kept} == kept
        if not exists and name not in PARTIAL:
            assert left in ({}, place.good)
        for path, (_, text) in left.items():  # each file is whole, or its beginning is there
            if path.split("/")[0] in UNWANTED:
                continue  # the hook has not come to it
            assert place.good[path][1].startswith(text) or f"{NAME}/{path}" == SHARED, path

        # The next run succeeds, or names the folder that must go. With `--overwrite-if-exists` it
        # need not go.
        if (place.out / NAME).exists():
            with pytest.raises(OutputDirExistsException, match=re.escape(f'"{place.out / NAME}"')):
                place.generate()
        place.generate(overwrite=(place.out / NAME).exists())
        after = tree(place.out)
        assert place.left() == place.good
        kept.pop(SHARED, None)
        assert {path: after.get(path) for path in kept} == kept


# Folders that exist


def test_a_folder_that_exists_is_refused_and_stays_as_it_is(place: Place) -> None:
    before = place.fill(exists=True)
    done = subprocess.run(place.command, env=place.environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert f'"{place.out / NAME}" directory already exists' in done.stdout + done.stderr
    assert tree(place.out) == before


@pytest.mark.parametrize("skip", [False, True])
def test_what_overwriting_replaces_and_what_it_keeps(skip: bool, place: Place) -> None:
    """A file that the service has, too, is replaced, unless `--skip-if-file-exists` keeps it."""
    before = place.fill(exists=True)
    own = [*OWN, SHARED]
    options = ["--overwrite-if-exists"] + ["--skip-if-file-exists"] * skip
    subprocess.run(place.command + options, env=place.environment, check=True, capture_output=True)
    after = tree(place.out)
    assert [path for path in own if after[path] != before[path]] == ([] if skip else [SHARED])
    assert {f"{NAME}/{name}" for name in place.good} <= after.keys()


# The same answers give the same bytes

ANSWERS = {"project_name": "Ünïcode 'n' \"quotes\"", "port": "9000", "create_venv": "no"}


def test_the_same_answers_give_the_same_bytes_and_modes_everywhere(
    place: Place, tmp_path: Path
) -> None:
    trees = []
    for surroundings in (
        {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "1"},
        {"TZ": "America/Lima", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "2"},
    ):
        out = tmp_path / surroundings["PYTHONHASHSEED"]
        command = [*place.command[:-3], *(f"{name}={answer}" for name, answer in ANSWERS.items())]
        subprocess.run(
            [*command, "--output-dir", out],
            env=place.environment | surroundings,
            check=True,
            capture_output=True,
        )
        trees.append(tree(out))
    place.generate(ANSWERS)
    trees.append(tree(place.out))

    repository = tmp_path / "repository"
    shutil.copytree(place.template, repository)
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@localhost"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "All"]):
        subprocess.run([*git, *arguments], cwd=repository, check=True)
    made = cruft.create(
        str(repository), tmp_path / "cruft", default_config=True, extra_context=ANSWERS
    )
    (made / ".cruft.json").unlink()
    trees.append(tree(tmp_path / "cruft"))

    assert len(trees[0]) > 30
    assert all(each == trees[0] for each in trees)


def test_a_check_out_with_crlf_gives_the_same_bytes(place: Place, tmp_path: Path) -> None:
    windows = tmp_path / "windows"
    shutil.copytree(place.template, windows)
    files = [windows / "cookiecutter.json", windows / "local_extensions.py"]
    files += [path for name in ("hooks", TEMPLATE.name) for path in (windows / name).rglob("*")]
    for path in filter(Path.is_file, files):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert b"\r\n" in (windows / TEMPLATE.name / "Dockerfile").read_bytes()
    place.generate(template=windows)
    assert tree(place.out / NAME) == place.good


# Windows, as far as it can be shown elsewhere

DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def paths(folder: Path) -> list[str]:
    """List all files and folders."""
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*")]


def test_windows_can_hold_every_path(template: Path, bake: Bake) -> None:
    longest = bake(project_slug="a" * 50)
    rendered = [f"{longest.path.name}/{path}" for path in paths(longest.path)]
    for path in [*paths(template), *rendered]:
        assert len(path) <= 120, path
        for part in path.split("/"):
            assert not DEVICE.fullmatch(part), path
            assert not re.search(r'[<>:"\\|?*\x00-\x1f]|[. ]$', part), path
    for every in (paths(template), rendered):
        assert len({path.lower() for path in every}) == len(every), "two names differ in case alone"


@pytest.mark.parametrize("answers", COMBINATIONS)
def test_no_script_is_emitted(answers: dict[str, str | int], bake: Bake) -> None:
    for path in bake(**answers).path.rglob("*"):
        assert path.suffix.lower() not in {".sh", ".bash", ".cmd", ".bat", ".ps1"}, path
        if path.is_file():
            assert not path.read_bytes().startswith(b"#!"), path
            assert not path.stat().st_mode & 0o111, path
