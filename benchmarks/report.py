"""Results: summarized, compared with the goals, as Markdown tables and SVG plots."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

# The metrics: a label and a unit. Less is better, except for counts per second.
METRICS = {
    "image": ("Bytes added to the base image", "MB"),
    "build_first": ("First build: no layer, no wheel", "s"),
    "build_cold": ("Cold build: no layer, pip's cache if the build keeps one", "s"),
    "rebuild_app": ("Rebuild after a change in app/", "s"),
    "rebuild_dependency": ("Rebuild after a new dependency", "s"),
    "first_200": ("docker run to the first 200, 4 workers", "s"),
    "memory_idle": ("Memory, 4 workers, idle", "MiB"),
    "memory_loaded": ("Memory, 4 workers, after load", "MiB"),
    "throughput": ("Requests, one worker on one core", "/s"),
    "cpu": ("CPU time for a request", "µs"),
    "p50": ("Latency, median", "ms"),
    "p99": ("Latency, 99 %", "ms"),
    "p99.9": ("Latency, 99.9 %", "ms"),
    "workers": ("Requests by workers, on two cores", "/s"),
    "connections": ("Requests by connections", "/s"),
    "bodies": ("Requests by bytes in the body", "/s"),
    "database_read": ("Reads of an item, one worker on one core", "/s"),
    "database_read_cpu": ("CPU time for a read", "µs"),
    "database_read_p50": ("Latency of a read, median", "ms"),
    "database_read_p99": ("Latency of a read, 99 %", "ms"),
    "database_read_tail": ("Latency of a read, 99 % by median", "times"),
    "database_create": ("Writes of an item, one worker on one core", "/s"),
    "database_create_cpu": ("CPU time for a write", "µs"),
    "database_create_p50": ("Latency of a write, median", "ms"),
    "database_create_p99": ("Latency of a write, 99 %", "ms"),
    "database_create_tail": ("Latency of a write, 99 % by median", "times"),
    "database_memory": ("Memory, 4 workers, after load, with the database", "MiB"),
    "render": ("cookiecutter to a rendered project", "s"),
    "venv": ("cookiecutter to a ready virtual environment", "s"),
    "install": ("... of which the virtual environment", "s"),
    "healthy_cold": ("cookiecutter to a healthy container, cold", "s"),
    "healthy_warm": ("cookiecutter to a healthy container, warm", "s"),
}


@dataclass(frozen=True)
class Sample:
    """One value, measured in one round, of a metric, in one case such as an endpoint."""

    metric: str
    case: str
    candidate: str
    round: int
    value: float


@dataclass(frozen=True)
class Spread:
    """The median, least and greatest of some values."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarize `values`, of which there is at least one."""
        return cls(median(values), min(values), max(values))

    def __str__(self) -> str:
        if self.least == self.greatest:
            return short(self.median)
        return f"{short(self.median)} ({short(self.least)}-{short(self.greatest)})"


def short(value: float) -> str:
    """Write three significant digits, or more where there are more before the point."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


class Results:
    """All samples of one run."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self.samples = list(samples)

    def values(self, metric: str, case: str, candidate: str) -> dict[int, float]:
        """Return the values by round."""
        key = (metric, case, candidate)
        return {s.round: s.value for s in self.samples if (s.metric, s.case, s.candidate) == key}

    def cases(self, metric: str) -> list[str]:
        """List a metric's cases, in the order in which they were measured."""
        return list(dict.fromkeys(s.case for s in self.samples if s.metric == metric))

    def candidates(self, metric: str) -> list[str]:
        """List the candidates that a metric was measured for, in order."""
        return list(dict.fromkeys(s.candidate for s in self.samples if s.metric == metric))

    def spread(self, metric: str, case: str, candidate: str) -> Spread | None:
        """Summarize a metric's values, if there are any."""
        values = self.values(metric, case, candidate)
        return Spread.of(list(values.values())) if values else None

    def ratio(
        self, metric: str, case: str, one: str, other: str, beside: str | None = None
    ) -> Spread | None:
        """Compare two candidates by the rounds that both have; the other one in the case `beside`.

        The speed of a shared machine changes between rounds, less within one.
        """
        first = self.values(metric, case, one)
        second = self.values(metric, case if beside is None else beside, other)
        ratios = [first[number] / second[number] for number in first.keys() & second.keys()]
        return Spread.of(ratios) if ratios else None


@dataclass(frozen=True)
class Goal:
    """A goal for ours: at most `limit` times the other's value, or at least that with `least`.

    Without an `other`, the limit is an absolute value. It must hold in each case of the metric, or in
    `case` alone. With `cases`, the first case of ours is compared with the second.
    """

    metric: str
    limit: float
    other: str = ""
    least: bool = False
    cases: tuple[str, str] | None = None
    case: str = ""

    def check(self, results: Results) -> tuple[str, Spread] | None:
        """Return the worst case and its value or ratio, or nothing if it was not measured."""
        found = {}
        every = [self.case] if self.case else results.cases(self.metric)
        for case in self.cases[:1] if self.cases else every:
            if self.cases:
                spread = results.ratio(self.metric, case, "ours", "ours", self.cases[1])
            elif self.other:
                spread = results.ratio(self.metric, case, "ours", self.other)
            else:
                spread = results.spread(self.metric, case, "ours")
            if spread:
                found[case] = spread
        if not found:
            return None
        worst = (min if self.least else max)(found, key=lambda case: found[case].median)
        return worst, found[worst]

    def verdict(self, spread: Spread) -> str:
        """Say whether the goal holds: in all rounds, in none, or in some."""
        ends = [spread.least, spread.greatest]
        held = [end >= self.limit if self.least else end <= self.limit for end in ends]
        return "holds" if all(held) else "unclear" if any(held) else "**missed**"


GOALS = [
    Goal("image", 30.8),
    Goal("build_first", 0.5, "guide"),
    Goal("build_cold", 0.5, "guide"),
    Goal("rebuild_app", 1),
    Goal("rebuild_dependency", 0.5, "guide"),
    Goal("first_200", 0.78),
    Goal("memory_loaded", 92),
    Goal("throughput", 1.1, "guide, logs on", least=True),
    # Other work on the machine disturbs CPU time less.
    Goal("cpu", 1.4, "bare"),
    Goal("workers", 1.25, least=True, cases=("2", "1")),
    Goal("database_read", 0.7, "bare", least=True, case="sqlite"),
    Goal("database_read", 0.65, "bare", least=True, case="postgresql"),
    Goal("database_read", 1.8, "def, Session", least=True, case="sqlite"),
    Goal("database_read", 1.8, "AsyncSession", least=True, case="sqlite"),
    Goal("database_read", 1.3, "def, Session", least=True, case="postgresql"),
    Goal("database_read", 1.3, "AsyncSession", least=True, case="postgresql"),
    Goal("database_read_tail", 5),
    Goal("database_create", 0.6, "bare", least=True),
    Goal("database_memory", 120),
    Goal("render", 1.3, "cookiecutter alone"),
    Goal("install", 1.2, "uv or pip alone"),
]


def goals_table(results: Results) -> str:
    """Write the goals and the results as Markdown."""
    lines = ["| | ours | compared with | ratio | goal | |", "|---|--:|--:|--:|--:|---|"]
    for goal in GOALS:
        checked = goal.check(results)
        if not checked:
            continue
        case, spread = checked
        label, unit = METRICS[goal.metric]
        limit = f"{'≥' if goal.least else '≤'} {goal.limit:.3g}"
        ours = f"{results.spread(goal.metric, case, 'ours')} {unit}"
        other = ratio = "-"
        if goal.cases:
            other = f"{goal.cases[1]}: {results.spread(goal.metric, goal.cases[1], 'ours')} {unit}"
            ratio = str(spread)
        elif goal.other:
            other = f"{goal.other}: {results.spread(goal.metric, case, goal.other)} {unit}"
            ratio = str(spread)
        else:
            limit += f" {unit}"
        where = f"; worst: {case}" if len(results.cases(goal.metric)) > 1 else ""
        where = f": {case}" if goal.cases or goal.case else where
        cells = [label + where, ours, other, ratio, limit, goal.verdict(spread)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def full_table(results: Results, metrics: Iterable[str]) -> str:
    """Write the median and spread of every case of `metrics`, by candidate, as Markdown."""
    metrics = [metric for metric in metrics if results.cases(metric)]
    names = list(dict.fromkeys(name for metric in metrics for name in results.candidates(metric)))
    lines = [f"| | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}"]
    for metric in metrics:
        label, unit = METRICS[metric]
        for case in results.cases(metric):
            cells = [str(results.spread(metric, case, name) or "-") for name in names]
            lines.append(f"| {label}{case and f', {case}'} ({unit}) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def full_tables(results: Results) -> str:
    """Write a table for each set of candidates that was measured together."""
    sets: dict[tuple[str, ...], list[str]] = {}
    for metric in METRICS:
        sets.setdefault(tuple(sorted(results.candidates(metric))), []).append(metric)
    return "\n".join(full_table(results, metrics) for names, metrics in sets.items() if names)


# --- Plots --------------------------------------------------------------------------------------

# Ink, faint ink, and a fill for each candidate, told apart by lightness as well as by hue.
THEMES = {
    "light": {
        "ink": "#1f2328",
        "faint": "#59636e",
        "guide": "#8c959f",
        "guide, logs on": "#b6bec8",
        "ours": "#0969da",
        "ours, logs off": "#80b8f5",
        "bare": "#d4a72c",
        "raw": "#2da44e",
        "": "#a475f9",
    },
    "dark": {
        "ink": "#f0f6fc",
        "faint": "#9198a1",
        "guide": "#7d8590",
        "guide, logs on": "#565d66",
        "ours": "#4493f8",
        "ours, logs off": "#1f4f8f",
        "bare": "#d29922",
        "raw": "#3fb950",
        "": "#ab7df8",
    },
}

Groups = Mapping[str, Mapping[str, Spread]]


def plot(title: str, note: str, groups: Groups, units: Mapping[str, str], theme: str) -> str:
    """Draw bars, one for each group and candidate, with the least and greatest value, as SVG.

    Each group has a scale of its own if the groups' `units` differ, else all have the same.
    """
    colors = THEMES[theme]
    width, left, right, bar = 760, 230, 110, 16
    body: list[str] = []

    def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> None:
        body.append(
            f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(content)}</text>'
        )

    def rectangle(x: float, y: float, wide: float, high: float, fill: str) -> None:
        body.append(
            f'<rect x="{x:g}" y="{y:g}" width="{wide:.1f}" height="{high:g}" fill="{fill}"/>'
        )

    greatest = {group: max(s.greatest for s in bars.values()) for group, bars in groups.items()}
    if len(set(units.values())) == 1:
        greatest = dict.fromkeys(greatest, max(greatest.values()))

    text(16, 28, title, "title")
    text(16, 48, note, "note")
    x = 16.0
    for name in dict.fromkeys(name for bars in groups.values() for name in bars):
        rectangle(x, 62, 12, 12, colors.get(name, colors[""]))
        text(x + 18, 72, name)
        x += 34 + 7.2 * len(name)
    y = 92
    for group, bars in groups.items():
        scale = (width - left - right) / (greatest[group] or 1)
        text(left - 10, y + len(bars) * bar / 2 + 4, group, anchor="end")
        for name, spread in bars.items():
            middle = y + bar / 2
            rectangle(
                left, y + 1, max(1, spread.median * scale), bar - 2, colors.get(name, colors[""])
            )
            if spread.least != spread.greatest:
                start, stop = left + spread.least * scale, left + spread.greatest * scale
                body.append(
                    f'<path d="M{start:.1f} {middle:g}H{stop:.1f}" stroke="{colors["ink"]}"/>'
                )
            text(
                left + spread.greatest * scale + 6,
                middle + 4,
                f"{short(spread.median)} {units[group]}",
            )
            y += bar
        y += 14
    style = (
        f"text{{font:13px system-ui,sans-serif;fill:{colors['ink']}}}"
        f".title{{font-size:16px;font-weight:600}}.note{{fill:{colors['faint']}}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}"'
        f' height="{y}" role="img"><title>{escape(title)}</title><style>{style}</style>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


# Each plot: its title, and the metrics and candidates that it shows. No candidates: all.
PLOTS: dict[str, tuple[str, Sequence[str], Sequence[str]]] = {
    "overview": (
        "The generated service beside the guide's stack",
        ["image", "build_cold", "rebuild_dependency", "first_200", "memory_loaded"],
        ["guide", "ours"],
    ),
    "throughput": ("Requests a second by endpoint, one worker on one core", ["throughput"], []),
    "latency": ("Latency of 99 % of the requests, 64 connections", ["p99"], []),
    "workers": ("Requests a second by number of workers, two cores", ["workers"], []),
    "connections": ("Requests a second by number of connections", ["connections"], []),
    "bodies": ("Requests a second by bytes in the body", ["bodies"], []),
}


def plots(results: Results, note: str) -> dict[str, str]:
    """Draw every plot for which something was measured; return file names and their contents."""
    files = {}
    for name, (title, metrics, only) in PLOTS.items():
        groups: dict[str, dict[str, Spread]] = {}
        units = {}
        for metric in metrics:
            label, unit = METRICS[metric]
            for case in results.cases(metric):
                group = case or re.split("[:,]", label)[0].removesuffix(" image")
                shown = only or results.candidates(metric)
                bars = {c: results.spread(metric, case, c) for c in shown}
                groups[group] = {c: spread for c, spread in bars.items() if spread}
                units[group] = unit
        groups = {group: bars for group, bars in groups.items() if bars}
        if groups:
            less = "Less" if METRICS[metrics[0]][1] != "/s" else "More"
            for theme in THEMES:
                subtitle = f"{less} is better; bars are medians, lines the spread. {note}"
                files[f"{name}-{theme}.svg"] = plot(title, subtitle, groups, units, theme)
    return files
