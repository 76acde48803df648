"""The number of CPUs that this container may use, which Python itself does not know."""

import math
import os
from pathlib import Path


def available(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Count the CPUs that this process may use: its affinity, or less by its cgroup's quota.

    Half a CPU counts as one, one and a half as two. `cgroups` is where the cgroup file systems are.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return math.ceil(min(quota(cgroups), usable or 1))


def quota(cgroups: Path) -> float:
    """Return the CPUs that cgroup v2 or v1 grants, infinity if they grant any number."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            granted, period = " ".join((cgroups / file).read_text() for file in files).split()
        except (OSError, ValueError):
            continue
        # No limit is "max" in v2 and -1 in v1.
        if granted.isdecimal():
            return int(granted) / int(period)
    return math.inf
