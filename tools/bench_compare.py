"""Compare two runs of `make bench` by their ratios, and fail if one has become worse.

    python tools/bench_compare.py OLD/benchmarks.json NEW/benchmarks.json [--tolerance 0.05]

Rates of two runs say little: machines differ, and are busy. Ratios between contenders of one run, which took turns, are
comparable. A ratio has become worse if its median fell by more than the tolerance, and if no round of the new run
reached the old median. Ends with code 1 if one has, with 2 if nothing can be compared.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))


class Change(NamedTuple):
    """A ratio in both runs.

    Attributes:
        what: The two contenders, and the part of the benchmark.
        old: The median of the ratio's rounds.
        new: The same of the new run.
        is_worse: Whether it has become worse by more than the tolerance, and more than its rounds differ.
    """

    what: str
    old: float
    new: float
    is_worse: bool


def compare(old: dict[str, Any], new: dict[str, Any], tolerance: float) -> list[Change]:
    """Return the ratios that both runs have, in the order of the goals."""
    from goals import GOALS

    changes = []
    for goal in GOALS:
        before, after = (_rounds(run.get(goal.part, {}), goal.own, goal.base) for run in (old, new))
        if before and after:
            was, is_now = statistics.median(before), statistics.median(after)
            is_worse = is_now < was * (1 - tolerance) and max(after) < was
            changes.append(Change(goal.what, was, is_now, is_worse))
    return changes


def _rounds(rates: dict[str, list[float]], own: str, base: str) -> list[float]:
    if not rates.get(own) or not rates.get(base):
        return []
    return [mine / theirs for mine, theirs in zip(rates[own], rates[base], strict=True)]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise click.UsageError(f"{path}: {err}; give a benchmarks.json that `make bench` wrote") from err
    if not isinstance(found, dict) or "described" not in found:
        raise click.UsageError(f"{path} is not a benchmarks.json that `make bench` wrote")
    return found


@click.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--tolerance", type=click.FloatRange(0, 1), default=0.05, show_default=True, help="Fall that is no loss.")
def main(old: Path, new: Path, tolerance: float) -> None:
    """Print the ratios of two runs, and fail if one has become worse."""
    before, after = _read(old), _read(new)
    if before["described"] != after["described"]:
        click.echo(f"the machines differ: {before['described']}; {after['described']}", err=True)
    changes = compare(before, after, tolerance)
    if not changes:
        raise click.UsageError("the two runs have no ratio in common: run the same parts of the benchmark")
    click.echo("| ratio | old | new | change | |\n|---|---|---|---|---|")
    for one in changes:
        said = "**worse**" if one.is_worse else ""
        click.echo(f"| {one.what} | {one.old:.2f} | {one.new:.2f} | {one.new / one.old - 1:+.0%} | {said} |")
    sys.exit(any(one.is_worse for one in changes))


if __name__ == "__main__":
    main()
