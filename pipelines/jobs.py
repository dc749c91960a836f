"""What `clipmill embed`, `rank` and `classify` share: plan the shards, run them on an engine, say what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import click

from ..datasets.dataset import DatasetSummary, count_finished, finish_job, summarise
from ..datasets.directory import ATTEMPTS
from ..datasets.inputs.planning import plan_shards
from ..datasets.inputs.shards import Shard
from ..encoders import EncoderSpec, load_encoder
from ..encoders.plans.columns import Column, ColumnPlan
from ..errors import ClipmillError, DatasetError
from ..files.file_systems import Folder
from ..files.lock import DirectoryLock, refuse_if_held
from ..jobs.begin import begin_job
from ..jobs.job import Job
from ..jobs.job_counts import JobCounts
from ..jobs.planning import plan_job
from ..jobs.resume import Earlier, Progress, read_earlier
from . import console
from .dry_run import resumed_text, show_plan
from .engines import is_local, run_beam, run_spark, split_engine_options
from .job_metrics import check_metrics_file, exported
from .outcome import allowed_failures, judge, summary_table
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
        settings: Keywords of `plan_job`: what is done, and how rows are read and written.
        output: Directory or URL of the dataset.
        engine: `beam` or `spark`.
        engine_options: Options for the engine.
        rows_per_shard: Rows in one unit of work and one output file.
        overwrite: Whether a dataset that is there may be replaced.
        resume: Whether to go on with one that is there.
        dry_run: Whether to say what would be done, and do nothing.
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
    resume: bool = False
    dry_run: bool = False
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
            settings: Returns what is done, as keywords of `plan_job`; `fail_fast` and `drop` are added.

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
        return plan_job(self.spec, self.output, shards, **self.settings)

    def begin(self, shards: Sequence[Shard], earlier: Earlier | None) -> dict[str, Any]:
        """Return the keywords of `begin_job`."""
        return {
            "shards": shards,
            "inputs": self.inputs,
            "arguments": {"rows_per_shard": self.rows_per_shard},
            "overwrite": self.overwrite,
            "earlier": earlier,
        }


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
    *(
        "output",
        "engine",
        "rows_per_shard",
        "overwrite",
        "resume",
        "dry_run",
        "max_failures",
        "master",
        "remote",
        "conf",
        "as_json",
    ),
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
    if values["resume"] and values["overwrite"]:
        raise click.UsageError("--resume goes on with what is there, and --overwrite deletes it; give one of them")
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
        earlier = _earlier(arguments)
        planned = earlier.plan if earlier else ()
        shards = plan_shards(arguments.inputs, rows_per_shard=arguments.rows_per_shard, earlier=planned)
        job = arguments.job(shards)
        _refuse_output_inside(arguments.inputs, job.directory)
        if arguments.dry_run:
            return show_plan(job, arguments.begin(shards, earlier), engine=arguments.engine, as_json=arguments.as_json)
        if arguments.overwrite and is_local(
            arguments.engine, arguments.engine_options, arguments.master, arguments.remote
        ):
            job.plan.tool(load_encoder(arguments.spec))  # no old dataset is deleted for a job that cannot start
    except DatasetError as err:
        raise Refused(str(err)) from err
    found, seconds, rows = _run_shards(arguments, job, shards, earlier)
    if arguments.as_json:
        click.echo(json.dumps({**dataclasses.asdict(found), "wall_seconds": seconds}, indent=1))
    else:
        skipped_in = job.existing.datasets if job.existing else ()
        console.out.print(summary_table(found, seconds, job.directory, rows=rows, skipped_in=skipped_in))
    if not found.input_rows:
        click.echo("Note: the input has no rows", err=True)
    elif job.plan.needs_matches and not found.scored and not found.failed:
        click.echo("Note: nothing was ranked: no document has matches", err=True)
    return judge(found, arguments.max_failures, scores=not job.plan.makes_vectors)


def _earlier(arguments: JobArguments) -> Earlier | None:
    """Return what an earlier start left, if the job goes on with it.

    Raises:
        DatasetError: If another job is at work there now: it is said before minutes go into planning.
    """
    refuse_if_held(Folder.of(arguments.output))
    return read_earlier(arguments.output) if arguments.resume else None


def _run_shards(
    arguments: JobArguments, job: Job, shards: Sequence[Shard], earlier: Earlier | None
) -> tuple[DatasetSummary, float, int]:
    """Begin a job, or go on with it, run it and finish it.

    Returns:
        Its summary, the seconds that it took now, and the rows that it took in meanwhile.

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
            stack.enter_context(DirectoryLock(job.directory))
            progress = begin_job(job, **arguments.begin(shards, earlier))
            begin_counting()
        except DatasetError as err:
            raise Refused(str(err)) from err
        if earlier is not None:
            click.echo(f"Note: {resumed_text(progress)}", err=True)
        if progress.is_complete:
            return summarise(job.directory), 0.0, 0
        started = time.perf_counter()
        with _saying_how_to_go_on(job.directory, len(shards)):
            if progress.to_do:
                _run_on_engine(arguments, dataclasses.replace(job, weights_sha256=progress.weights), progress)
            found = finish_job(job.directory)
        return found, time.perf_counter() - started, found.input_rows - progress.rows


def _run_on_engine(arguments: JobArguments, job: Job, progress: Progress) -> None:
    with console.progress(len(progress.shards), lambda: count_finished(job.directory)):
        if arguments.engine == "beam":
            run_beam(progress.to_do, job, arguments.engine_options)
        else:
            run_spark(progress.to_do, job, master=arguments.master, remote=arguments.remote, conf=arguments.conf)


@contextlib.contextmanager
def _saying_how_to_go_on(directory: str, shards: int) -> Iterator[None]:
    try:
        yield
    except (ClipmillError, KeyboardInterrupt):
        with contextlib.suppress(DatasetError):  # what went wrong is said by the other error
            done = count_finished(directory)
            if done or Folder.of(directory).list(ATTEMPTS):
                click.echo(
                    f"Note: {done} of {shards} shards are there; the same command with --resume goes on", err=True
                )
        raise


def _refuse_output_inside(inputs: Sequence[str], output: str) -> None:
    for folder in inputs:
        if "://" not in folder and os.path.isdir(folder) and Path(output).is_relative_to(os.path.abspath(folder)):
            raise DatasetError(
                f"the output {output} lies in the input folder {folder}; the next job would read it as input"
            )
