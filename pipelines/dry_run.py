"""`--dry-run`, which prints what a job would do; and the note of `--resume`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from rich.filesize import decimal
from rich.table import Table

from ..datasets.inputs.shards import Shard
from ..errors import DatasetError, StoreError
from ..jobs.input_use import InputUse
from ..jobs.job import Job
from ..jobs.resume import Progress
from ..reports.words import many
from . import console
from .cli_messages import in_flags
from .input_notes import as_dicts, lines_of_job


def resumed_text(progress: Progress) -> str:
    """Return a sentence with the number of finished shards, and of those to do."""
    shards = len(progress.shards)
    said = f"{progress.done} of {shards} shards were done"
    if progress.is_complete:
        return f"{said}; the job is complete, and there is nothing to do"
    if progress.reasons:
        said += "; to do: " + ", ".join(f"{count} ({reason})" for reason, count in sorted(progress.reasons.items()))
    if progress.gone:
        said += f"; {progress.gone} whose input is gone left the dataset"
    return said


def show_plan(
    job: Job,
    shards: Sequence[Shard],
    uses: Sequence[InputUse],
    start: Callable[[], Progress],
    *,
    resumes: bool,
    engine: str,
    as_json: bool,
) -> int:
    """Print what a job would do; `start` checks its start and writes nothing. Return 0, or 2 if it would be refused.

    A job may run elsewhere, so an output that cannot be reached from here is no reason to refuse it.
    """
    refused = unread = None
    progress = Progress(shards, shards)
    try:
        progress = start()
    except StoreError as err:
        unread = str(err)
    except DatasetError as err:
        refused = in_flags(err)
    found = {
        "model": job.spec.model,
        "dim": job.spec.dim,
        "engine": engine,
        "output": job.directory,
        "format": job.format,
        **sizes_of(shards),
        "inputs": as_dicts(uses),
        "resumes": resumes,
        "shards_there": progress.done,
        "rows_there": progress.rows,
        "to_do": {**sizes_of(progress.to_do), "reasons": dict(progress.reasons)},
        "shards_gone": progress.gone,
        "files_deleted": len(progress.leftovers),
        "skip_existing": job.skip_existing.datasets if job.skip_existing else (),
        "skip_by": job.skip_existing.by if job.skip_existing else None,
        "refused": refused,
        "output_unread": unread,
    }
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        console.out.print(_table(found, progress, lines_of_job(uses, job)), soft_wrap=True)
    if unread is not None and not as_json:
        console.say(f"Note: the output was not looked at, so the job may be refused where it runs: {unread}")
    if refused is not None and not as_json:
        console.say(f"Error: it would be refused: {refused}")
    return 0 if refused is None else 2


def sizes_of(shards: Sequence[Shard]) -> dict[str, Any]:
    """Return the sizes of shards; row counts that are only known after reading are counted as unknown."""
    found = {"shards": len(shards), "rows": 0, "shards_of_unknown_rows": 0, "files": 0, "bytes": 0, "bytes_known": True}
    tables: set[tuple[tuple[str, ...], int | None]] = set()
    for shard in shards:
        rows = shard.rows
        found["rows"] += rows or 0
        found["shards_of_unknown_rows"] += rows is None
        if shard.kind != "files":  # a table is that of several shards
            if (table := (shard.paths, shard.nbytes)) in tables:
                continue
            tables.add(table)
        found["files"] += len(shard.paths)
        found["bytes"] += shard.nbytes or 0
        found["bytes_known"] &= shard.nbytes is not None
    return found


def _table(found: Mapping[str, Any], progress: Progress, taken: Sequence[str]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("model", f"{found['model']}, {found['dim']} values in a vector")
    table.add_row("input", sizes_text(found))
    for line in taken:
        table.add_row("", line)
    if found["resumes"]:
        table.add_row(
            "there already", f"{found['shards_there']} of {found['shards']} shards, {found['rows_there']:,} rows"
        )
        table.add_row("to do", sizes_text(found["to_do"]))
        for reason, count in sorted(progress.reasons.items()):
            table.add_row("", f"{many(count, 'shard')}: {reason}")
        if found["shards_gone"]:
            table.add_row("leave the dataset", f"{many(found['shards_gone'], 'shard')}, whose input is gone")
    if found["files_deleted"]:
        table.add_row(
            "files to replace", f"{found['files_deleted']:,} of an earlier job; a dataset, once the new one is whole"
        )
    for dataset in found["skip_existing"]:
        table.add_row("skipped", f"rows that {dataset} has by {found['skip_by']}; how many, only a join tells")
    table.add_row("written to", f"{found['output']} ({found['format']})")
    table.add_row("engine", str(found["engine"]))
    return table


def sizes_text(sizes: Mapping[str, Any]) -> str:
    """Return what `sizes_of` found as text."""
    rows = many(sizes["rows"], "row")
    if unknown := sizes["shards_of_unknown_rows"]:
        rows = f"{rows} and those of {many(unknown, 'shard')} that only reading counts"
    nbytes = decimal(sizes["bytes"]) if sizes["bytes_known"] else f"at least {decimal(sizes['bytes'])}"
    return f"{many(sizes['shards'], 'shard')} of {many(sizes['files'], 'file')}, {nbytes}: {rows}"
