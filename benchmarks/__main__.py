"""Measure what this template generates beside the guide's stack: `make benchmark ARGS=--help`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from benchmarks import measure, report
from benchmarks.measure import HERE, Candidate, Cores, run
from benchmarks.report import Sample

T = TypeVar("T")

OWN = ["guide", "ours", "bare", "raw"]


@dataclass(frozen=True)
class Size:
    """How often and how long something is measured."""

    rounds: int
    builds: int
    load: int
    """Seconds of load for one value."""
    settle: int
    """Seconds after which a service is idle."""
    connections: Sequence[int]
    bodies: Sequence[int]


QUICK = Size(3, 1, 2, 5, (1, 64, 1024), (1024, 1_048_576))
FULL = Size(5, 3, 4, 10, (1, 16, 64, 256, 1024), (1024, 32_768, 1_048_576))


class Benchmark:
    """One run: its candidates, its size, and the samples so far."""

    def __init__(
        self,
        candidates: list[Candidate],
        databases: list[Candidate],
        size: Size,
        cores: Cores,
        work: Path,
    ) -> None:
        self.candidates = candidates
        self.databases = databases
        self.size = size
        self.cores = cores
        self.work = work
        self.samples: list[Sample] = []

    def add(self, metric: str, candidate: str, round_: int, value: float, case: str = "") -> None:
        """Keep a value, and show it."""
        self.samples.append(Sample(metric, case, candidate, round_, value))
        label, unit = report.METRICS[metric]
        print(
            f"{round_ + 1:3} {candidate:20} {label} {case}: {report.short(value)} {unit}",
            flush=True,
        )

    def turns(self, rounds: int, candidates: list[T]) -> Iterator[tuple[int, T]]:
        """Yield rounds and candidates, another one first in each round."""
        for number in range(rounds):
            shift = number % len(candidates)
            for candidate in candidates[shift:] + candidates[:shift]:
                yield number, candidate

    def images(self) -> None:
        """Build every image, cold and again, and measure its size."""
        built = [candidate for candidate in self.candidates if not candidate.on]
        for number, candidate in self.turns(self.size.builds, built):
            self.add("build_first", candidate.name, number, measure.build_first(candidate))
        for candidate in built:
            measure.build(candidate)  # so that its caches are filled
        for number, candidate in self.turns(self.size.builds, built):
            self.add("build_cold", candidate.name, number, measure.build(candidate, "--no-cache"))
        for number, candidate in self.turns(self.size.rounds, built):
            took = measure.rebuild(candidate, candidate.changed, "")
            self.add("rebuild_app", candidate.name, number, took)
            took = measure.rebuild(candidate, candidate.requirements, measure.NEW_DEPENDENCY)
            self.add("rebuild_dependency", candidate.name, number, took)
        for candidate in self.candidates:
            measure.build(candidate)
        for candidate in built:
            base = candidate.base.format(python=candidate.python)
            added = measure.megabytes(candidate.image) - measure.megabytes(base)
            self.add("image", candidate.name, 0, added)

    def starts(self) -> None:
        """Start every service with four workers; measure its memory before and after load."""
        for number, candidate in self.turns(self.size.rounds, self.candidates):
            with measure.container(candidate, self.cores.two, workers=4) as (name, took):
                self.add("first_200", candidate.name, number, took)
                time.sleep(self.size.settle)
                self.add("memory_idle", candidate.name, number, measure.mebibytes(name))
                for endpoint in candidate.endpoints.values():
                    measure.load(candidate, name, self.cores.load, endpoint, self.size.load)
                self.add("memory_loaded", candidate.name, number, measure.mebibytes(name))

    def endpoints(self) -> None:
        """Ask each endpoint of one worker on one core.

        All services run, and are asked in turns of some seconds: other work on the machine changes
        within a minute.
        """
        with ExitStack() as stack:
            running: list[tuple[Candidate, str, str]] = []
            for candidate in self.candidates:
                for variant, environment in {candidate.name: {}, **candidate.variants}.items():
                    service = measure.container(candidate, self.cores.one, 1, environment)
                    running.append((candidate, variant, stack.enter_context(service)[0]))
            for case in dict.fromkeys(case for one in self.candidates for case in one.endpoints):
                asked = [service for service in running if case in service[0].endpoints]
                for number, (candidate, variant, name) in self.turns(self.size.rounds, asked):
                    if number == 0:  # to warm up
                        self.load(candidate, name, case)
                    for metric, value in self.load(candidate, name, case).items():
                        self.add(metric, variant, number, value, case)

    def load(self, candidate: Candidate, name: str, case: str, **options: int) -> dict[str, float]:
        """Ask an endpoint of the container `name`."""
        endpoint = candidate.endpoints[case]
        return measure.load(candidate, name, self.cores.load, endpoint, self.size.load, **options)

    def sizes(self) -> None:
        """Ask one worker on one core by number of connections and size of body."""
        for number, candidate in self.turns(self.size.rounds, self.candidates):
            with measure.container(candidate, self.cores.one, 1) as (name, _):
                self.load(candidate, name, "read item")  # to warm up
                for size in self.size.bodies:
                    value = self.load(candidate, name, "create item", size=size)["throughput"]
                    self.add("bodies", candidate.name, number, value, f"{size // 1024:,} KiB")
                # Last, because many connections leave memory that would change other measurements.
                for count in self.size.connections:
                    value = self.load(candidate, name, "read item", connections=count)["throughput"]
                    self.add("connections", candidate.name, number, value, str(count))

    def workers(self) -> None:
        """Ask one, two and four workers on two cores; all services run, and are asked in turns."""
        with ExitStack() as stack:
            running: list[tuple[Candidate, int, str]] = []
            for candidate in self.candidates:
                for count in (1, 2, 4):
                    service = measure.container(candidate, self.cores.two, count)
                    running.append((candidate, count, stack.enter_context(service)[0]))
            for number, (candidate, count, name) in self.turns(self.size.rounds, running):
                if number == 0:  # to warm up
                    self.load(candidate, name, "read item")
                found = self.load(candidate, name, "read item")
                self.add("workers", candidate.name, number, found["throughput"], str(count))

    def database(self) -> None:
        """Write and read items of ours, of FastAPI with the driver alone, and by the driver alone.

        All services run, and are asked in turns. Each reads the item that was written first.
        """
        with measure.postgresql(self.cores.database) as url, ExitStack() as stack:
            running: list[tuple[Candidate, str, str]] = []
            for candidate in self.databases:
                environment = {"DATABASE_URL": url} if kind_of(candidate) == "postgresql" else {}
                own = "bare" if candidate.on else "ours"
                for variant, more in {own: {}, **candidate.variants}.items():
                    service = measure.container(candidate, self.cores.one, 1, environment | more)
                    running.append((candidate, variant, stack.enter_context(service)[0]))
            for what, endpoint in (("create", "POST /items/"), ("read", "GET /items/1")):
                for number, (candidate, variant, name) in self.turns(self.size.rounds, running):
                    if number == 0:  # to warm up
                        measure.load(candidate, name, self.cores.load, endpoint, 1)
                    self.database_of(number, candidate, variant, name, what, endpoint)
        self.database_memory()

    def database_of(
        self, number: int, candidate: Candidate, variant: str, name: str, what: str, endpoint: str
    ) -> None:
        """Write or read items in the container `name`."""
        seconds = self.size.load
        found = {variant: measure.load(candidate, name, self.cores.load, endpoint, seconds)}
        if variant == "bare":
            found["driver alone"] = measure.driver(name, what, seconds)
        for who, values in found.items():
            if "p99" in values:
                values["tail"] = values["p99"] / values["p50"]
            for metric, value in values.items():
                name = f"database_{what}_{metric}".removesuffix("_throughput")
                if name in report.METRICS:
                    self.add(name, who, number, value, kind_of(candidate))

    def database_memory(self) -> None:
        """Measure the memory of four workers of ours with SQLite, after load."""
        candidate = next(one for one in self.databases if one.name == "sqlite")
        for number in range(self.size.rounds):
            with measure.container(candidate, self.cores.two, workers=4) as (name, _):
                for endpoint in ("POST /items/", "GET /items/1", "GET /items/"):
                    measure.load(candidate, name, self.cores.load, endpoint, self.size.load)
                self.add("database_memory", "ours", number, measure.mebibytes(name), "sqlite")

    def template(self) -> None:
        """Time a generated project: its files, its .venv, its first health; and the tools alone."""
        work = self.work / "generated"
        ours = measure.copy_template(work / "ours")
        plain = measure.plain_template(ours, work / "plain")
        project = work / "service"
        chosen = {"project_slug": project.name, "create_venv": "no"}
        # No interpreter has to be looked for or downloaded, by the hook or by the tool.
        local = {"project_slug": project.name, "python_version": "{}.{}".format(*sys.version_info)}
        for number in range(self.size.rounds):
            took = measure.render(plain, work / "alone", **chosen)
            self.add("render", "cookiecutter alone", number, took)
            rendered = measure.render(ours, work, **chosen)
            self.add("render", "ours", number, rendered)
            shutil.rmtree(project)
            whole = measure.render(ours, work, **local)
            self.add("venv", "ours", number, whole)
            self.add("install", "ours", number, whole - rendered)
            shutil.rmtree(project / ".venv")
            self.add("install", "uv or pip alone", number, measure.install(project))
            shutil.rmtree(project)
            for metric, options in (("healthy_cold", ["--no-cache"]), ("healthy_warm", [])):
                took = measure.render(ours, work, **chosen)
                python = re.findall(
                    "^ARG PYTHON_VERSION=(.*)", (project / "Dockerfile").read_text(), re.MULTILINE
                )
                service = Candidate(
                    "service", project, python[0], environment={"WORKERS": "{workers}"}
                )
                took += measure.build(service, *options)
                with measure.container(service, self.cores.two, workers=4) as (name, ready):
                    took += ready + measure.wait_healthy(name)
                self.add(metric, "ours", number, took)
                shutil.rmtree(project)


def kind_of(candidate: Candidate) -> str:
    """Return the database of a candidate."""
    return candidate.on or candidate.name


def about(arguments: Sequence[str], candidates: list[Candidate]) -> dict[str, object]:
    """Return the date, the machine and the versions of this run."""
    engine = json.loads(run("docker", "version", "--format", "{{json .Server}}"))
    count = run("docker", "info", "--format", "{{.NCPU}} {{.MemTotal}}").split()
    system = ".".join(platform.release().split(".")[:2])
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["python", "-m", "benchmarks", *arguments]),
        "machine": f"{processor()}, {count[0]} cores, {int(count[1]) / 2**30:.0f} GiB of memory",
        "system": f"{platform.system()} {system}, Docker {engine['Version']}",
        "packages": {c.name: measure.packages(c.image) for c in candidates if not c.on},
    }


def processor() -> str:
    """Return the processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def kept(output: Path, measured: list[Sample]) -> list[Sample]:
    """Return the samples of an earlier run whose metrics were not `measured` in this one."""
    if not (output / "results.json").exists():
        return []
    earlier = json.loads((output / "results.json").read_text(encoding="utf-8"))["samples"]
    metrics = {sample.metric for sample in measured}
    return [Sample(**sample) for sample in earlier if sample["metric"] not in metrics]


def write(folder: Path, facts: dict[str, object], samples: list[Sample]) -> None:
    """Write the samples as JSON, tables as Markdown, and plots as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(asdict(sample)) for sample in samples)
    text = f'{{"about": {json.dumps(facts)},\n"samples": [\n{lines}\n]}}\n'
    (folder / "results.json").write_text(text, encoding="utf-8")
    results = report.Results(samples)
    (folder / "results.md").write_text(
        f"{facts['date']}, {facts['machine']}, {facts['system']}. `{facts['command']}`\n\n"
        f"{report.goals_table(results)}\n{report.full_tables(results)}",
        encoding="utf-8",
    )
    for name, content in report.plots(results, f"{facts['date']}").items():
        (folder / name).write_text(content, encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--full",
        action="store_true",
        help="the numbers that are published: longer, and more often (or FULL=1)",
    )
    parser.add_argument(
        "--candidate",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="one more: a folder with a Dockerfile and a candidate.toml",
    )
    parser.add_argument("--python", metavar="3.12", help="the same Python for all of them")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PART",
        help=f"not everything: {', '.join(PARTS)}",
    )
    parser.add_argument(
        "--output", type=Path, default=HERE / "results", help="default: %(default)s"
    )
    if os.environ.get("FULL") == "1":
        arguments = ["--full", *arguments]  # so that the results show it, too
    options = parser.parse_args(arguments)

    folders = {name: HERE / "candidates" / name for name in OWN}
    folders |= {name: Path(path) for name, path in (c.split("=", 1) for c in options.candidate)}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        candidates = [
            measure.load_candidate(name, folder, work, options.python)
            for name, folder in folders.items()
        ]
        databases = measure.load_databases(work, options.python)
        run("docker", "build", "--quiet", "--tag", measure.LOAD, HERE / "load")
        for candidate in candidates + databases:
            measure.build(candidate)
        cores = Cores.of(int(run("docker", "info", "--format", "{{.NCPU}}")))
        size = FULL if options.full else QUICK
        benchmark = Benchmark(candidates, databases, size, cores, work)
        facts = about(arguments, candidates + databases)
        try:
            for name, part in PARTS.items():
                if not options.only or name in options.only:
                    part(benchmark)
        finally:  # a failed part must not lose the others
            before = kept(options.output, benchmark.samples) if options.only else []
            write(options.output, facts, before + benchmark.samples)
    print((options.output / "results.md").read_text(encoding="utf-8"))


PARTS: dict[str, Callable[[Benchmark], None]] = {
    "images": Benchmark.images,
    "starts": Benchmark.starts,
    "endpoints": Benchmark.endpoints,
    "sizes": Benchmark.sizes,
    "workers": Benchmark.workers,
    "database": Benchmark.database,
    "template": Benchmark.template,
}

if __name__ == "__main__":
    main(sys.argv[1:])
