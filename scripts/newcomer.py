"""Run the README's two commands on a newcomer's machine: a container with Python, git and make.

    python scripts/newcomer.py                             debian as root, two python images as a user
    python scripts/newcomer.py debian:trixie-slim          only this image
    python scripts/newcomer.py -- --env=PIP_INDEX_URL=...  more options of `docker run`

Clones the last commit into each image, and takes the commands out of its README.md. Needs Docker and
an index of packages. Ends with status 1 if a command fails, and prints how long each took.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
QUESTIONS = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
VERSIONS = sorted(QUESTIONS["python_version"], key=lambda version: int(version.split(".")[1]))
IMAGES = [
    "debian:trixie-slim",
    *(f"python:{version}-slim-trixie" for version in (VERSIONS[0], VERSIONS[-1])),
]
# Time limits of the commands, in seconds, on a machine with two cores of its own.
GOALS = {"generate": 60, "test": 120}
# The README names these; a python image brings its own Python.
PROGRAMS = {"debian": "git make python3 python3-venv", "python": "git make"}
DOCKERFILE = """
FROM {image}
RUN apt-get -qq update && apt-get -qq install --no-install-recommends {programs} >/dev/null
RUN [ {user} = root ] || useradd --create-home {user}
USER {user}
WORKDIR /tmp/home/clone
COPY --chown={user} . .
"""


def commands(readme: str) -> dict[str, str]:
    """Return the README's commands for people who have only Python: `generate` and `test`."""
    lines = re.findall("^python3 .*", readme, re.MULTILINE)
    (generate,) = (line for line in lines if "/cookiecutter " in line)
    (test,) = (line for line in lines if "/pytest" in line)
    return {"generate": generate, "test": test}


def prepare(image: str, folder: Path) -> str:
    """Build `image` with the programs, a user and a clone, which is in `folder`; return its name."""
    base = image.partition(":")[0]
    user = "root" if base == "debian" else "newcomer"
    recipe = DOCKERFILE.format(image=image, programs=PROGRAMS[base], user=user)
    (folder.parent / "Dockerfile").write_text(recipe, encoding="utf-8")
    tag = f"newcomer-{re.sub('[:.]', '-', image)}"
    file = ("--file", str(folder.parent / "Dockerfile"))
    subprocess.run(["docker", "build", "--quiet", "--tag", tag, *file, str(folder)], check=True)
    return tag


def try_commands(image: str, folder: Path, options: list[str]) -> bool:
    """Run each command in a fresh container, print the results, and return whether both worked."""
    tag = prepare(image, folder)
    works = True
    try:
        for name, command in commands((folder / "README.md").read_text("utf-8")).items():
            begin = time.monotonic()
            done = subprocess.run(
                ["docker", "run", "--rm", "--interactive", *options, tag, "sh", "-c", command],
                input="\n" * len(QUESTIONS),  # every default
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
            )
            took = time.monotonic() - begin
            verdict = "failed" if done.returncode else "works"
            print(f"{image}: {name} {verdict} in {took:.0f} s (goal: {GOALS[name]})", flush=True)
            if done.returncode:
                works = False
                print(done.stdout, flush=True)
    finally:
        subprocess.run(["docker", "rmi", "--force", tag], stdout=subprocess.DEVNULL)
    return works


def main() -> int:
    """Return 0 if both commands work in every image, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="*", help=f"default: {' '.join(IMAGES)}")
    given, _, options = " ".join(sys.argv[1:]).partition("-- ")
    images = parser.parse_args(given.split()).images or IMAGES
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        results = [try_commands(image, folder, options.split()) for image in images]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
