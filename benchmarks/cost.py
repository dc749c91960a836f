"""What `clipmill plan` predicts, and what the commands take that it predicts.

    python benchmarks/cost.py [--rows N] [--rounds N] [--engine NAME]…

In each round, for each engine in turn: a plan, a command with hardly any rows, and the whole command. The median of
the second, without the start of workers that the plan measured, is the engine's own start (`ENGINE_START_S`); the whole
of it is what the prediction begins with (`--start`), since the start of an engine depends on what else a machine does.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
from jobs import WORKERS, Job, Jobs
from memory import watch
from workplace import machine

from clipmill.pipelines.plan import Machines, forecast
from clipmill.pipelines.survey import Survey

_FEW = 16
"""Rows of the command that shows the start: enough that every worker loads the model."""


class Round(NamedTuple):
    """What one round found on an engine, in seconds.

    Attributes:
        row: For a row on all cores, as the plan measured it.
        ready: For the start of the workers, as the plan measured it.
        few: Of the command with hardly any rows.
        predicted: For the whole command, with `few` as its start.
        took: Of the whole command.
        load: Processes that wanted a core in the last minute, at the end of the round.
    """

    row: float
    ready: float
    few: float
    predicted: float
    took: float
    load: float


def run_round(jobs: Jobs, engine: str, rows: int) -> Round:
    """Plan a job and run it."""
    few = jobs.run_again(Job(engine, WORKERS[engine], _FEW))
    whole = jobs.run_again(Job(engine, WORKERS[engine], rows))
    watched = watch([*jobs.command("plan", rows), "--json", "--engine", engine])
    survey = Survey.from_json("the plan", watched.printed.encode())
    predicted = forecast(survey, engine, Machines(start_s=few.seconds)).seconds
    row, ready = survey.measured[engine].seconds_per_row, survey.measured[engine].ready_s
    found = Round(row, ready, few.seconds, predicted, whole.seconds, os.getloadavg()[0])
    click.echo(f"{engine}: {found}", err=True)
    return found


def table(rows: int, found: dict[str, list[Round]]) -> list[str]:
    """Return the lines of the table: medians of all rounds, and the rounds' own errors."""
    lines = [
        f"| engine, {rows:,} rows | engine's start, s | row, ms | predicted, s | took, s | off by | rounds |",
        "|---|---|---|---|---|---|---|",
    ]
    for engine, rounds in found.items():
        start = statistics.median(one.few - one.ready for one in rounds)
        row, predicted, took = (statistics.median(values) for values in zip(*map(_shown, rounds), strict=True))
        errors = ", ".join(f"{one.predicted / one.took - 1:+.0%}" for one in rounds)
        lines.append(
            f"| {engine} | {start:.1f} | {row * 1e3:.2f} | {predicted:.1f} | {took:.1f} | {predicted / took - 1:+.0%}"
            f" | {errors} |"
        )
    return lines


def _shown(one: Round) -> tuple[float, float, float]:
    return one.row, one.predicted, one.took


@click.command()
@click.option("--rows", default=6_000, show_default=True)
@click.option("--engine", "engines", multiple=True, type=click.Choice(list(WORKERS)), default=tuple(WORKERS))
@click.option("--rounds", default=3, show_default=True)
def main(rows: int, engines: Sequence[str], rounds: int) -> None:
    """Predict, measure and compare."""
    with tempfile.TemporaryDirectory() as temporary:
        jobs = Jobs(Path(temporary))
        found: dict[str, list[Round]] = {engine: [] for engine in engines}
        for _ in range(rounds):
            for engine in engines:
                found[engine].append(run_round(jobs, engine, rows))
    click.echo("\n".join([f"On {machine()}.", "", *table(rows, found)]))


if __name__ == "__main__":
    main()
