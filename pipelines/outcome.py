"""The result of a job: its table and its exit code."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click
from rich.table import Table

from ..datasets.summary import DatasetSummary
from . import console


def summary_table(
    found: DatasetSummary, seconds: float, output: str, *, rows: int, skipped_in: Sequence[str] = ()
) -> Table:
    """Return the summary of a job as a table for the terminal; `rows` are those of the measured seconds."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, count in (
        ("rows in", found.input_rows),
        ("rows written", found.rows),
        ("rows failed", found.failed_rows),
    ):
        table.add_row(name, f"{count:,}")
    if found.rejected:
        table.add_row("rows rejected", f"{found.rejected:,}")
    if skipped_in:
        table.add_row("skipped", f"{found.skipped:,} (in {', '.join(skipped_in)})")
    table.add_row("embedded", f"{found.embedded:,}")
    for name, count in (("scored", found.scored), ("vectors given", found.given), ("reused", found.cache_hits)):
        if count:
            table.add_row(name, f"{count:,}")
    for code, count in sorted(found.failed.items()):
        table.add_row(f"failed: {code}", f"{count:,}")
    if found.truncated_texts:
        table.add_row("texts cut", f"{found.truncated_texts:,}")
    if rate := found.rows_per_second:
        table.add_row("rows per second", f"{rate:,.1f} from the first to the last")
    if seconds:
        table.add_row("whole job", f"{seconds:.1f} s, {rows / seconds:,.1f} rows per second")
    table.add_row("models loaded", str(found.loads))
    for resolved in found.resolved:
        table.add_row("ran as", ", ".join(f"{name} {value}" for name, value in resolved.items() if value))
    table.add_row("written to", output)
    if found.failed:
        table.add_row("failures in", f"{output.rstrip('/')}/_failures/")
    if found.rejected:
        table.add_row("rejected in", f"{output.rstrip('/')}/_rejected/")
    return table


def allowed_failures(given: str, rows: int) -> float:
    """Return how many of the rows in may fail, given a number or a percentage."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", given.strip())
    if match is None or (not match.group(2) and "." in match.group(1)):
        raise click.UsageError(f"--max-failures {given!r} is neither a number of rows nor a percentage such as 1%")
    number = float(match.group(1))
    return rows * number / 100 if match.group(2) else number


def judge(found: DatasetSummary, max_failures: str | None, *, scores: bool) -> int:
    """Return the exit code of a job that makes scores or vectors; print the reason if it is not 0."""
    failed, rows = found.failed_rows, found.input_rows
    made = found.scored if scores else found.embedded
    if max_failures is None and not made:
        if 0 < rows == failed:
            console.say(f"Error: all {rows} rows failed; --max-failures 100% takes that for a success")
            return 1
        if found.failed and not found.skipped:
            what = "has a score" if scores else "was embedded"
            console.say(
                f"Error: nothing {what}, and {sum(found.failed.values())} values failed; --max-failures 100% "
                "takes that for a success"
            )
            return 1
    if max_failures is None or failed <= allowed_failures(max_failures, rows):
        return 0
    console.say(f"Error: {failed} of {rows} rows failed, more than --max-failures {max_failures}")
    return 1
