"""How many workers `auto` is."""

import os
from pathlib import Path

import pytest

from server import cpus


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder for cgroup files, on a machine with four CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", {0: range(4)}.__getitem__, raising=False)
    (tmp_path / "cpu").mkdir()
    return tmp_path


QUOTAS = [(25_000, 1), (50_000, 1), (100_000, 1), (150_000, 2), (200_000, 2), (900_000, 4)]


@pytest.mark.parametrize(("granted", "workers"), QUOTAS)
def test_a_quota_of_cgroup_v2_counts(granted: int, workers: int, cgroups: Path) -> None:
    (cgroups / "cpu.max").write_text(f"{granted} 100000\n")
    assert cpus.available(cgroups) == workers


@pytest.mark.parametrize(("granted", "workers"), QUOTAS)
def test_a_quota_of_cgroup_v1_counts(granted: int, workers: int, cgroups: Path) -> None:
    (cgroups / "cpu/cpu.cfs_quota_us").write_text(f"{granted}\n")
    (cgroups / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cpus.available(cgroups) == workers


def test_without_a_quota_the_affinity_counts(cgroups: Path) -> None:
    assert cpus.available(cgroups) == 4
    (cgroups / "cpu.max").write_text("max 100000\n")
    assert cpus.available(cgroups) == 4
    (cgroups / "cpu.max").unlink()
    (cgroups / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    (cgroups / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cpus.available(cgroups) == 4


@pytest.mark.parametrize(("count", "workers"), [(3, 3), (None, 1)])
def test_without_an_affinity_the_machine_counts(
    count: int | None, workers: int, cgroups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert cpus.available(cgroups) == workers


def test_this_machine_has_at_least_one_cpu() -> None:
    assert cpus.available() >= 1
