"""Print the worst that the tests of the promises measured."""

from __future__ import annotations

import pytest

from tests.support.containers import MEASURED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a line for each promise, by its number."""
    if MEASURED:
        terminalreporter.section("measured for each promise")
    for number, figures in sorted(MEASURED.items()):
        text = "; ".join(f"{what} {value:.3g}{unit}" for what, (value, unit) in figures.items())
        terminalreporter.write_line(f"{number}: {text}")
