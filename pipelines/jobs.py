"""What `clipmill embed`, `rank` and `classify` share: plan the shards, run them on an engine, say what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import click
from rich.table import Table

from ..encoders import EncoderSpec, load_encoder
from ..encoders.columns import Column, ColumnPlan
from ..encoders.document_plan import DocumentPlan
from ..encoders.errors import DatasetError
from ..encoders.rank_plan import DocumentRankPlan
from ..encoders.storage.dataset import DatasetSummary, count_finished, finish_job
from ..encoders.storage.job import Job, begin_job
from ..encoders.storage.job_counts import JobCounts
from ..encoders.storage.shards import Shard, plan_shards
from . import console
from .engines import is_local, run_beam, run_spark, split_engine_options
from .job_metrics import check_metrics_file, exported
from .wording import in_flags


class Refused(click.ClickException):
    """What was asked for cannot work; nothing was run."""

    exit_code = 2

    def format_message(self) -> str:
        """Return the message as the command line says it."""
        return in_flags(self.message)


@dataclasses.dataclass(frozen=True)
class JobArguments:
    """A checked command line of a job.

    Attributes:
        spec: The encoder.
        inputs: Folders, globs and files.
        settings: Keywords of `Job.of`: what is done, and how rows are read and written.
        output: Directory or URL of the dataset.
        engine: `beam` or `spark`.
        engine_options: Options for the engine.
        rows_per_shard: Rows in one unit of work and one output file.
        overwrite: Whether a dataset that is there may be replaced.
        max_failures: Most rows that may fail, as given.
        master: Spark master.
        remote: Spark Connect server.
        conf: Spark settings.
        as_json: Whether the summary is for programs.
        metrics: File that is kept up to date with the job's numbers.
        metrics_port: Port on which they are served.
    """

    spec: EncoderSpec
    inputs: tuple[str, ...]
    settings: dict[str, Any]
    output: str
    engine: str = "beam"
    engine_options: tuple[str, ...] = ()
    rows_per_shard: int = 1024
    overwrite: bool = False
    max_failures: str | None = None
    master: str | None = None
    remote: str | None = None
    conf: tuple[str, ...] = ()
    as_json: bool = False
    metrics: str | None = None
    metrics_port: int | None = None

    @classmethod
    def of(
        cls,
        given: Given,
        spec: EncoderSpec,
        settings: Callable[[], dict[str, Any]],
    ) -> Self:
        """Check a command line.

        Args:
            given: The command line.
            spec: The encoder.
            settings: Returns what is done, as keywords of `Job.of`; `fail_fast` and `drop` are added.

        Raises:
            click.UsageError, SpecError: If something of it cannot work.
        """
        values = given.values
        inputs, options = split_engine_options(values["engine"], given.tokens, given.flags)
        _check_usage(inputs, given)
        return cls(
            spec=spec,
            inputs=tuple(inputs),
            engine_options=(*options, *given.unchecked),
            settings={"fail_fast": values["fail_fast"], "drop": values["drop"], **settings()},
            **{name: values[name] for name in _COPIED},
        )

    def job(self, shards: Sequence[Shard]) -> Job:
        """Return what every worker needs."""
        return Job.of(self.spec, self.output, shards, **self.settings)


@dataclasses.dataclass(frozen=True)
class Given:
    """A command line as click took it apart.

    Attributes:
        verb: The command's name.
        tokens: Inputs and options that clipmill does not know, mixed.
        flags: The command's own flags, for hints.
        unchecked: What followed `--`.
        values: The command's own options, those of the spec taken out.
        otherwise: What else could have been given where there is no input, for the message.
    """

    verb: str
    tokens: Sequence[str]
    flags: Sequence[str]
    unchecked: Sequence[str]
    values: dict[str, Any]
    otherwise: str = ""


_READER = ("text", "uri", "image", "audio", "id")
_COPIED = (
    *("output", "engine", "rows_per_shard", "overwrite", "max_failures", "master", "remote", "conf", "as_json"),
    *("metrics", "metrics_port"),
)


def reader_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `read_documents` that a command line has."""
    named = {name: values.get(f"{name}_column") for name in _READER}
    return {**{name: column for name, column in named.items() if column}, "tags": tuple(values["tags"])}


def column_plan(spec: EncoderSpec, values: dict[str, Any], **more: str) -> ColumnPlan | None:
    """Return the columns that `--column` names; None without it.

    Args:
        spec: The encoder.
        values: The command's options.
        **more: Keywords of `ColumnPlan.of`.

    Raises:
        click.UsageError, SpecError: If they cannot work, or stand beside columns of documents.
    """
    columns: dict[str, Column] = {}
    for pair in values["columns"]:
        name, equals, kind = pair.partition("=")
        if not name or not equals:
            raise click.UsageError(f"--column {pair!r} is not of the form NAME=KIND, such as photo=image")
        columns[name] = Column(kind)  # type: ignore[arg-type]  # ColumnPlan checks the kind
    if not columns:
        return None
    for name in ("text_column", "uri_column", "image_column", "audio_column"):
        if values[name]:
            raise click.UsageError(f"--{name.replace('_', '-')} is for documents; beside --column it says nothing")
    return ColumnPlan.of(columns, spec=spec, key=values["id_column"] or "id", **more)


def _check_usage(inputs: Sequence[str], given: Given) -> None:
    values = given.values
    if not inputs:
        otherwise = f", {given.otherwise}" if given.otherwise else ""
        raise click.UsageError(f"nothing to {given.verb}: give an INPUT (a folder, a glob, a file){otherwise}")
    if not values["output"]:
        raise click.UsageError("missing option --output: where the dataset goes")
    for name in ("master", "remote", "conf"):
        if values[name] and values["engine"] != "spark":
            raise click.UsageError(f"--{name} is an option of --engine spark")
    if given.unchecked and values["engine"] != "beam":
        raise click.UsageError("options after '--' go to Beam; Spark's are --master, --remote and --conf KEY=VALUE")
    for pair in values["conf"]:
        if "=" not in pair:
            raise click.UsageError(f"--conf {pair!r} is not of the form KEY=VALUE")
    check_metrics_file(values["metrics"])
    if values["max_failures"] is not None:
        allowed_failures(values["max_failures"], 0)


def run(arguments: JobArguments) -> int:
    """Run a job to its end and print its summary.

    Returns:
        0, or 1 if more rows failed than `max_failures` allows.

    Raises:
        Refused: If inputs or output cannot be used; nothing was run.
        ClipmillError: If the job failed.
    """
    try:
        shards = plan_shards(arguments.inputs, rows_per_shard=arguments.rows_per_shard)
        job = arguments.job(shards)
        _refuse_output_inside(arguments.inputs, job.directory)
        if arguments.overwrite and is_local(
            arguments.engine, arguments.engine_options, arguments.master, arguments.remote
        ):
            job.plan.bound(load_encoder(arguments.spec))  # no old dataset is deleted for a job that cannot start
    except DatasetError as err:
        raise Refused(str(err)) from err
    found, seconds = _run_shards(arguments, job, shards)
    if arguments.as_json:
        click.echo(json.dumps({**dataclasses.asdict(found), "wall_seconds": seconds}, indent=1))
    else:
        console.out.print(summary_table(found, seconds, job.directory))
    if not found.input_rows:
        click.echo("Note: the input has no rows", err=True)
    elif isinstance(job.plan, DocumentRankPlan) and not found.scored and not found.failed:
        click.echo("Note: nothing was ranked: no document has matches", err=True)
    return _judge(found, arguments.max_failures, scores=not isinstance(job.plan, ColumnPlan | DocumentPlan))


def _run_shards(arguments: JobArguments, job: Job, shards: Sequence[Shard]) -> tuple[DatasetSummary, float]:
    """Begin a job, run it and finish it; return its summary and the seconds that it took.

    Raises:
        Refused: If the output cannot be used, or the metrics cannot be written or served; nothing was run.
        ClipmillError: If the job failed.
    """
    counts = JobCounts(job.directory, shards=len(shards))
    with contextlib.ExitStack() as stack:
        try:
            begin_counting = stack.enter_context(
                exported(
                    counts,
                    job.directory,
                    file=arguments.metrics,
                    port=arguments.metrics_port,
                    inputs=arguments.inputs,
                    shards=shards,
                )
            )
            begin_job(job, shards, inputs=arguments.inputs, overwrite=arguments.overwrite)
            begin_counting()
        except DatasetError as err:
            raise Refused(str(err)) from err
        started = time.perf_counter()
        with console.progress(len(shards), lambda: count_finished(job.directory)):
            if arguments.engine == "beam":
                run_beam(shards, job, arguments.engine_options)
            else:
                run_spark(shards, job, master=arguments.master, remote=arguments.remote, conf=arguments.conf)
        return finish_job(job.directory), time.perf_counter() - started


def _refuse_output_inside(inputs: Sequence[str], output: str) -> None:
    for folder in inputs:
        if "://" not in folder and os.path.isdir(folder) and Path(output).is_relative_to(os.path.abspath(folder)):
            raise DatasetError(
                f"the output {output} lies in the input folder {folder}; the next job would read it as input"
            )


def summary_table(found: DatasetSummary, seconds: float, output: str) -> Table:
    """Return what came of a job as a table for the terminal."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, count in (
        ("rows in", found.input_rows),
        ("rows written", found.rows),
        ("rows failed", found.failed_rows),
    ):
        table.add_row(name, f"{count:,}")
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
    table.add_row("whole job", f"{seconds:.1f} s, {found.input_rows / seconds:,.1f} rows per second")
    table.add_row("models loaded", str(found.loads))
    for resolved in found.resolved:
        table.add_row("ran as", ", ".join(f"{name} {value}" for name, value in resolved.items() if value))
    table.add_row("written to", output)
    if found.failed:
        table.add_row("failures in", f"{output.rstrip('/')}/_failures/")
    return table


def allowed_failures(given: str, rows: int) -> float:
    """Return how many rows may fail.

    Args:
        given: A number, or a percentage of the rows in.
        rows: Rows in.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", given.strip())
    if match is None or (not match.group(2) and "." in match.group(1)):
        raise click.UsageError(f"--max-failures {given!r} is neither a number of rows nor a percentage such as 1%")
    number = float(match.group(1))
    return rows * number / 100 if match.group(2) else number


def _judge(found: DatasetSummary, max_failures: str | None, *, scores: bool) -> int:
    failed, rows = found.failed_rows, found.input_rows
    made = found.scored if scores else found.embedded
    if max_failures is None and not made:
        if 0 < rows == failed:
            click.echo(f"Error: all {rows} rows failed; --max-failures 100% takes that for a success", err=True)
            return 1
        if scores and found.failed:
            click.echo(
                f"Error: nothing has a score, and {sum(found.failed.values())} values failed; --max-failures 100% "
                "takes that for a success",
                err=True,
            )
            return 1
    if max_failures is None or failed <= allowed_failures(max_failures, rows):
        return 0
    click.echo(f"Error: {failed} of {rows} rows failed, more than --max-failures {max_failures}", err=True)
    return 1
