"""Decides how many threads this worker may use."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Self


def allowed_cpus() -> int:
    """Return how many cores this process may use, given its CPU affinity and its cgroup's quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cpus, math.ceil(quota)) if quota else cpus)


class CpuShare(int):
    """The cores that one of several workers of an engine may use on a host: a number that knows how many they are.

    Attributes:
        processes: Workers on this host, this one included.
    """

    processes: int

    def __new__(cls, cpus: int, processes: int) -> Self:
        """Take the cores of each worker, and the number of workers."""
        share = super().__new__(cls, cpus)
        share.processes = processes
        return share

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        return int(self), self.processes


@dataclasses.dataclass(frozen=True)
class Cores:
    """The cores of each process of an engine. It travels to workers, which alone know their machines.

    Attributes:
        processes: How many processes share the cores of a machine; None for as many as it has cores.
        on_one_host: Whether they see each other, and are not in containers of their own.
    """

    processes: int | None = 1
    on_one_host: bool = False

    def here(self) -> int:
        """Return how many cores this process may use, which runs on such a machine, or in its container.

        It is a `CpuShare` if the processes may share more than cores.
        """
        if self.processes is None:
            return 1
        cpus = max(1, allowed_cpus() // self.processes)
        return CpuShare(cpus, self.processes) if self.on_one_host else cpus


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


def cpus_of_host(cpus: int | None) -> int:
    """Return how many cores a process may use that computes for all workers of a host.

    Those of all workers together, and of this host: while it computes, workers decode on the same cores, as they do
    beside a model of their own.

    Args:
        cpus: Cores of each worker, if its engine knows them.
    """
    allowed = allowed_cpus()
    return min(allowed, cpus * cpus.processes) if isinstance(cpus, CpuShare) else allowed


def streams_of_host(cpus: int | None) -> int:
    """Return how many calls a process should execute at once that computes for all workers of a host.

    Calls on one core each don't wait for one another's threads, as those of workers with a model of their own don't.
    1 if the number of workers is not known, since one alone would have a single core.
    """
    return min(cpus_of_host(cpus), cpus.processes) if isinstance(cpus, CpuShare) else 1
