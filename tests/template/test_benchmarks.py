"""What the benchmarks compute from what they measured; timings themselves are never asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import measure, report
from benchmarks.report import Goal, Results, Sample, Spread


def samples(metric: str, case: str = "", **values: list[float]) -> list[Sample]:
    return [
        Sample(metric, case, candidate, number, value)
        for candidate, listed in values.items()
        for number, value in enumerate(listed)
    ]


def test_a_spread_is_the_median_the_least_and_the_greatest() -> None:
    spread = Spread.of([3, 1, 2, 20])
    assert spread == Spread(2.5, 1, 20)
    assert str(spread) == "2.50 (1.00-20.0)"
    assert str(Spread.of([7])) == "7.00"


def test_ratios_are_taken_within_rounds() -> None:
    # The machine was three times slower in the last round, for both.
    results = Results(samples("image", ours=[1, 1, 3], guide=[2, 2, 6, 100]))
    assert results.ratio("image", "", "ours", "guide") == Spread(0.5, 0.5, 0.5)


def test_a_goal_is_judged_by_its_worst_case() -> None:
    measured = samples("cpu", "a", ours=[130], bare=[100])
    measured += samples("cpu", "b", ours=[150], bare=[100])
    goal = Goal("cpu", 1.4, "bare")
    assert goal.check(Results(measured)) == ("b", Spread(1.5, 1.5, 1.5))
    row = "b | 150 µs | bare: 100 µs | 1.50 | ≤ 1.4 | **missed** |"
    assert row in report.goals_table(Results(measured))


def test_a_goal_may_compare_two_cases_of_ours() -> None:
    measured = samples("workers", "1", ours=[10, 30])
    measured += samples("workers", "2", ours=[13, 39]) + samples("workers", "4", ours=[1, 1])
    goal = Goal("workers", 1.25, least=True, cases=("2", "1"))
    assert goal.check(Results(measured)) == ("2", Spread(1.3, 1.3, 1.3))
    row = "on two cores: 2 | 26.0 (13.0-39.0) /s | 1: 20.0 (10.0-30.0) /s | 1.30 | ≥ 1.25 | holds |"
    assert row in report.goals_table(Results(measured))


def test_a_goal_may_judge_one_case_alone() -> None:
    measured = samples("database_read", "sqlite", ours=[80], bare=[100])
    measured += samples("database_read", "postgresql", ours=[10], bare=[100])
    goal = Goal("database_read", 0.7, "bare", least=True, case="sqlite")
    assert goal.check(Results(measured)) == ("sqlite", Spread(0.8, 0.8, 0.8))


@pytest.mark.parametrize(
    ("ours", "verdict"), [([1, 2], "holds"), ([1, 6], "unclear"), ([6, 7], "**missed**")]
)
def test_a_goal_holds_where_it_holds_in_every_round(ours: list[float], verdict: str) -> None:
    goal = Goal("image", 0.5, "guide")
    checked = goal.check(Results(samples("image", ours=ours, guide=[10, 10])))
    assert checked
    assert goal.verdict(checked[1]) == verdict


def test_published_results_can_be_read_again() -> None:
    published = json.loads((measure.HERE / "results" / "results.json").read_text(encoding="utf-8"))
    found = Results(Sample(**sample) for sample in published["samples"])
    table = (measure.HERE / "results" / "results.md").read_text(encoding="utf-8")
    assert report.goals_table(found) in table
    assert {"date", "command", "machine", "system", "packages"} <= published["about"].keys()


def test_every_candidate_of_ours_is_complete(tmp_path: Path) -> None:
    for folder in sorted((measure.HERE / "candidates").iterdir()):
        candidate = measure.load_candidate(folder.name, folder, tmp_path, "3.13")
        assert (candidate.folder / "Dockerfile").is_file()
        assert candidate.python == "3.13"
        assert candidate.on or (candidate.folder / candidate.changed).is_file()


def test_cookiecutter_alone_renders_the_same_files(tmp_path: Path) -> None:
    template = measure.copy_template(tmp_path / "template")
    plain = measure.plain_template(template, tmp_path / "plain")
    for source, into in ((template, "ours"), (plain, "alone")):
        measure.render(source, tmp_path / into, project_slug="svc", create_venv="no")
    ours, alone = (
        {path.relative_to(tmp_path / into) for path in (tmp_path / into).rglob("*")}
        for into in ("ours", "alone")
    )
    assert ours == alone
