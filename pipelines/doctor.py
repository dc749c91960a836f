"""`clipmill doctor`: examines this machine, with a verdict on each finding."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from ..files.cache import cache_root
from ..models.installed import version_of
from ..models.runtimes.store import is_writable
from ..threads import allowed_cpus
from .check import Check
from .machine_checks import java_version, machine_checks
from .network_checks import network_checks
from .package_checks import DISTRIBUTIONS, package_checks
from .runtime_checks import devices, examine_runtimes, runtime_checks

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "bold red", "absent": "dim"}


def examine() -> dict[str, Any]:
    """Return what this machine has, as plain values."""
    cache = cache_root()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version_of(name) for name in DISTRIBUTIONS},
        "cpus": os.cpu_count(),
        "allowed_cpus": allowed_cpus(),
        "devices": devices(),
        "runtimes": examine_runtimes(),
        "cache": {"directory": str(cache), "writable": is_writable(cache)},
        "java": java_version(),
    }


def run_checks(found: dict[str, Any], *, online: bool = False) -> list[Check]:
    """Return the verdicts on what `examine` found and on the environment, and ask the hub if `online`."""
    return [
        *machine_checks(
            found["cpus"], found["allowed_cpus"], found["java"], cache_root(), writable=found["cache"]["writable"]
        ),
        *network_checks(online=online),
        *package_checks(found["versions"]),
        *runtime_checks(found["runtimes"], found["devices"]),
    ]


def exit_code(checks: Sequence[Check]) -> int:
    """Return 1 if something is a problem, else 0."""
    return int(any(check.verdict == "problem" for check in checks))


def checks_json(found: dict[str, Any], checks: Sequence[Check]) -> dict[str, Any]:
    """Return what `clipmill doctor --json` prints."""
    return {**found, "checks": [dataclasses.asdict(check) for check in checks]}


def checks_table(checks: Sequence[Check]) -> Table:
    """Return the checks as a table for the terminal, each hint in a line below its finding."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for check in checks:
        of_absent = check.verdict == "absent"
        finding = ": ".join(filter(None, (check.finding, check.hint if of_absent else None)))
        table.add_row(check.verdict, check.name, finding, style=_COLOURS[check.verdict])
        if check.hint and not of_absent:
            table.add_row("", "", f"-> {check.hint}")
    return table


def verdict(checks: Sequence[Check]) -> str:
    """Return the last line: how many problems and warnings there are."""
    counts = Counter(check.verdict for check in checks)
    told = [f"{counts[one]} {one}{'s' * (counts[one] != 1)}" for one in ("problem", "warning") if counts[one]]
    return ", ".join(told) or "no problems"
