"""Decides how many threads this worker may use."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path


def allowed_cpus() -> int:
    """Return how many cores this process may use, given its CPU affinity and its cgroup's quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cpus, math.ceil(quota)) if quota else cpus)


@dataclasses.dataclass(frozen=True)
class Cores:
    """The cores of each process of an engine. It travels to workers, which alone know their machines.

    Attributes:
        processes: How many processes share the cores of a machine; None for as many as it has cores.
    """

    processes: int | None = 1

    def here(self) -> int:
        """Return how many cores this process may use, which runs on such a machine, or in its container."""
        return 1 if self.processes is None else max(1, allowed_cpus() // self.processes)


def _cgroup_quota() -> float | None:
    """Return how many cores the cgroup (version 2, else 1) allows, or None if it sets no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text())
        period_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text())
        return quota_us / period_us if quota_us > 0 and period_us > 0 else None
    except (OSError, ValueError):
        return None
