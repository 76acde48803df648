"""docs/scaling.md: its figures follow from its inputs."""

from __future__ import annotations

import math
import re

from tests.support.repository import ROOT

PAGE = (ROOT / "docs/scaling.md").read_text("utf-8")


def rows(marker: str) -> list[list[str]]:
    """Return the cells of the table after a marker."""
    (table,) = re.findall(rf"<!-- {marker} -->\n\|.*\n\|.*\n((?:\|.*\n)+)", PAGE)
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]


def number(text: str) -> float:
    """Read the number at the beginning of a cell."""
    return float(text.split()[0].replace(",", ""))


def test_the_simulation_follows_from_its_inputs() -> None:
    read, write, alone, memory, connections, line, step = [
        number(value) for _, value, _ in rows("inputs")
    ]
    request = round(0.9 * read + 0.1 * write)
    for row in rows("simulation"):
        rate = number(row[0])
        pods = max(2, math.ceil(rate * request / 600_000))
        expected = [
            f"{rate:,.0f}",
            f"{pods:,}",
            f"{max(2, math.ceil(rate * alone / 600_000)):,}",
            f"{math.ceil(pods * memory / 1024 * 10) / 10} GiB",
            f"{pods * connections:,.0f}",
            f"{rate / 10:,.0f}",
            f"{rate * line * 86_400 / 1e9:,.0f} GB",
            f"{math.ceil(pods * step / 60)} min",
        ]
        assert row == expected
    each = re.search(r"<!-- each -->([\d,]+) requests .*, and ([\d,]+) without", PAGE)
    assert each
    assert [*map(number, each.groups())] == [round(600_000 / request), round(600_000 / alone)]
