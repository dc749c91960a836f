"""`clipmill plan`: how long a job takes, on how many machines, and at what cost, from a survey of its input."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any

import click
from rich.filesize import decimal
from rich.table import Table

from .. import __version__
from ..indexes.plan import IndexPlan, plan_index
from ..reports.words import duration, many, number, share
from . import console
from .survey import Survey, workers

ENGINE_START_S = {"beam": 3.3, "spark": 15.1}
"""Seconds that an engine takes to start and end on one machine, without the start of its workers, which is measured:
whole commands with hardly any rows on two idle cores of an AMD EPYC (6.1 and 17.9) without 2.8 seconds for a worker."""
_WIDE = 0.3
"""Spread of the rounds, as a share of their median, that is worth a warning."""
_SHOWN = ("runtime", "precision", "device")
_UNITS_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """The machines of a job.

    Attributes:
        count: How many; None if a deadline decides.
        cores: Cores of each; None for as many as the machine of the survey has.
        price_per_hour: Of each; None if money does not matter.
        deadline_s: Seconds in which the job has to end.
        start_s: Seconds until the first row; None for those of the measured workers and of an engine on one machine.
    """

    count: int | None = None
    cores: int | None = None
    price_per_hour: float | None = None
    deadline_s: float | None = None
    start_s: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a job takes on an engine.

    Attributes:
        machines: How many; None if no number of them meets the deadline.
        processes: Workers on each.
        start_s: Seconds until the first row: interpreter, engine, model.
        listing_s: Seconds to list the input, on the driver.
        row_s: Seconds for a row on all cores of a machine.
        process_rows: Rows of the process that has most of them; shards are not divided.
        seconds: From the start of the command to its end.
        cost: Of all machines; None without a price.
        machine_bytes: Memory of the workers of a machine.
    """

    machines: int | None
    processes: int
    start_s: float
    listing_s: float
    row_s: float
    process_rows: float = math.nan
    seconds: float = math.nan
    cost: float | None = None
    machine_bytes: int = 0


def forecast(survey: Survey, engine: str, machines: Machines) -> Forecast:
    """Compute what the job takes on an engine."""
    measured = survey.measured[engine]
    cores = machines.cores or measured.cores
    processes = workers(engine, cores)
    found = Forecast(
        machines=machines.count or 1,
        processes=processes,
        start_s=ENGINE_START_S[engine] + measured.ready_s if machines.start_s is None else machines.start_s,
        listing_s=survey.listing_s,
        row_s=measured.seconds_per_row * measured.cores / cores,
        machine_bytes=measured.peak_bytes * processes,
    )
    shard_rows = survey.rows / survey.shards
    shard_s = shard_rows * found.row_s * processes
    if machines.deadline_s is not None:
        left = machines.deadline_s - found.start_s - found.listing_s
        in_turn = math.floor(left / shard_s)
        if in_turn < 1:
            return dataclasses.replace(found, machines=None)
        found = dataclasses.replace(found, machines=math.ceil(math.ceil(survey.shards / in_turn) / processes))
    assert found.machines is not None
    in_turn = math.ceil(survey.shards / (found.machines * processes))
    seconds = found.start_s + found.listing_s + in_turn * shard_s
    price = machines.price_per_hour
    return dataclasses.replace(
        found,
        process_rows=in_turn * shard_rows,
        seconds=seconds,
        cost=None if price is None else found.machines * seconds / 3600 * price,
    )


def show(survey: Survey, machines: Machines, *, as_json: bool) -> int:
    """Print the plan; return 0, or 1 if no number of machines meets the deadline on any engine."""
    found = {engine: forecast(survey, engine, machines) for engine in survey.measured}
    index = plan_index(survey.rows, survey.dim, dtype=survey.dtype)
    written = {name: round(one.written_bytes * survey.rows / one.rows) for name, one in survey.measured.items()}
    if as_json:
        plan = {engine: _plain(one) for engine, one in found.items()}
        said = {**dataclasses.asdict(survey), "plan": plan, "written_bytes": written, "index": index.as_dict()}
        click.echo(json.dumps({"clipmill": __version__, **said}, indent=1))
    else:
        console.out.print(_survey_table(survey), soft_wrap=True)
        for engine, one in found.items():
            console.out.print(f"\n{engine}")
            console.out.print(_table(survey, engine, one, machines, written[engine], index), soft_wrap=True)
        console.out.print(f"\n{_LEFT_OUT}", soft_wrap=True)
    _warn(survey, found, machines)
    return 0 if any(one.machines for one in found.values()) else 1


_LEFT_OUT = (
    "Not included: machines that start one after another (autoscaling), a network or store that is slower than this "
    "machine's, the memory of Spark's Java processes, the building of the index."
)


def _plain(one: Forecast) -> dict[str, Any]:
    fields = dataclasses.asdict(one)
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in fields.items()}


def _survey_table(survey: Survey) -> Table:
    table = _empty_table()
    nbytes = "of unknown size" if survey.nbytes is None else decimal(survey.nbytes)
    sizes = f"{many(survey.rows, 'row')} in {many(survey.shards, 'shard')} of {many(survey.files, 'file')}, {nbytes}"
    if survey.nbytes is not None:
        sizes += f" ({decimal(round(survey.nbytes / survey.rows))} a row)"
    table.add_row("model", f"{survey.model}, {survey.dim} values in a vector")
    table.add_row("input", sizes)
    cores = next(iter(survey.measured.values())).cores
    table.add_row("measured on", f"{survey.processor}, {many(cores, 'core')}")
    return table


def _table(survey: Survey, engine: str, one: Forecast, machines: Machines, written: int, index: IndexPlan) -> Table:
    measured = survey.measured[engine]
    table = _empty_table()
    fastest, slowest = (1000 * seconds for seconds in (min(measured.row_s), max(measured.row_s)))
    rate = f"{number(1000 * measured.seconds_per_row)} ms a row ({number(fastest)} to {number(slowest)} in rounds)"
    table.add_row(
        "measured", f"{rate}, {many(measured.rows, 'row')} in {_processes(measured.processes, measured.cores)}"
    )
    if measured.resolved:
        table.add_row(
            "ran as", ", ".join(f"{name} {value}" for name, value in measured.resolved.items() if name in _SHOWN)
        )
    table.add_row("rows that fail", share(measured.failed_rows, measured.rows))
    if one.machines is None:
        assert machines.deadline_s is not None
        table.add_row("machines", f"no number of them ends in {duration(machines.deadline_s)}")
        return table
    cores = machines.cores or measured.cores
    table.add_row("machines", f"{one.machines:,} with {_processes(one.processes, cores)}")
    table.add_row("time", duration(one.seconds))
    if one.cost is not None:
        table.add_row("cost", f"{one.cost:,.2f}")
    table.add_row("memory", f"{decimal(one.machine_bytes)} on each machine, {decimal(measured.peak_bytes)} a process")
    table.add_row("output", decimal(written))
    table.add_row("index", f"{index.kind}, {decimal(index.index_bytes)} and {decimal(index.vectors_bytes)} of vectors")
    table.add_row("formula", "seconds = start + listing + rows of a process × processes of a machine × row")
    rows = f"{one.process_rows:,.0f} × {one.processes} × {one.row_s:.6f}"
    table.add_row("", f"{one.seconds:,.1f} = {one.start_s:.1f} + {one.listing_s:.1f} + {rows}")
    return table


def _empty_table() -> Table:
    return Table(box=None, show_header=False, pad_edge=False)


def _processes(processes: int, cores: int) -> str:
    if processes == 1:
        return f"1 process on {many(cores, 'core')}"
    return f"{processes} processes on {many(cores, 'core')}"


def _warn(survey: Survey, found: dict[str, Forecast], machines: Machines) -> None:
    for engine, one in found.items():
        measured = survey.measured[engine]
        if measured.spread > _WIDE:
            console.say(
                f"Warning: {engine}: the rounds differ by {share(measured.spread, 1)} of their median; measure at a "
                "calm moment, or on more rows (--sample, of an input that has them)"
            )
        if measured.failed_rows:
            codes = ", ".join(f"{code} {count:,}" for code, count in measured.failed.items())
            console.say(f"Note: {engine}: {measured.failed_rows:,} of {measured.rows:,} rows failed ({codes})")
        workers = (one.machines or 0) * one.processes
        if one.machines is None:
            console.say(
                f"Error: {engine}: a shard of {survey.rows / survey.shards:,.0f} rows ends after the deadline of "
                f"{duration(machines.deadline_s)} on any number of machines; allow more, or lower --rows-per-shard"
            )
        elif workers > survey.shards:
            console.say(
                f"Note: {engine}: {many(survey.shards, 'shard')} cannot keep {workers:,} processes busy; lower "
                "--rows-per-shard to use them all"
            )


def seconds_of(text: str) -> float:
    """Return the seconds of a time such as `8h` or `1h30m`; raise `click.UsageError` for other texts."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    if not parts or "".join(map("".join, parts)) != text:
        raise click.UsageError(f"--deadline {text!r} is not a time such as 8h, 90m or 1h30m")
    seconds = sum(float(count) * _UNITS_S[unit] for count, unit in parts)
    if not 0 < seconds < math.inf:
        raise click.UsageError(
            f"--deadline {text!r} leaves no time" if not seconds else f"--deadline {text!r} never ends"
        )
    return seconds
