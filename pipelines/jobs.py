"""The common part of `clipmill embed`, `rank`, `classify` and `score`: plans and runs shards, and prints the result."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import click

from ..datasets.dataset import count_finished, finish_job, summarise
from ..datasets.directory import ATTEMPTS, check_is_no_file
from ..datasets.if_exists import IfExists, if_exists_of
from ..datasets.inputs.planning import cut_inputs, input_files
from ..datasets.inputs.readers import CONTENT_AND_ID, DEFAULT_READER, ReaderOptions
from ..datasets.inputs.shards import Shard
from ..datasets.replacing import folder_written
from ..datasets.summary import DatasetSummary
from ..encoders import EncoderSpec
from ..encoders.plans.embed_plan import Column, ColumnPlan
from ..encoders.plans.plan import Plan
from ..errors import ClipmillError, DatasetError
from ..files.folder import Folder
from ..files.lock import DirectoryLock, refuse_if_held
from ..jobs.input_use import InputTally, InputUse, uses_of
from ..jobs.job import Job
from ..jobs.job_counts import JobCounts, pause_before_look
from ..jobs.options import JobOptions
from ..jobs.planning import plan_job
from ..jobs.resume import PreviousRun, Progress, read_previous_run
from ..jobs.start import start_job
from ..messages import setting
from ..metrics.prometheus_text import LOOPBACK
from . import console
from .cli_messages import Refused, in_flags
from .dry_run import resumed_text, show_plan
from .engines import run_beam, run_spark, split_engine_options
from .input_notes import lines_of_job
from .job_metrics import check_metrics_file, exported
from .options import check_engine
from .outcome import allowed_failures, judge, summary_table


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """A command line as click parsed it.

    Attributes:
        tokens: Inputs and options that clipmill does not know, mixed.
        otherwise: What else could be given if there is no input, for the message.
    """

    verb: str
    tokens: Sequence[str]
    flags: Sequence[str]
    unchecked: Sequence[str]
    values: dict[str, Any]
    otherwise: str = ""


@dataclasses.dataclass(frozen=True)
class JobArguments:
    """A checked command line of a job; a shard has `rows_per_shard` rows and makes one output file."""

    spec: EncoderSpec
    inputs: tuple[str, ...]
    options: JobOptions
    output: str
    engine: str = "beam"
    engine_options: tuple[str, ...] = ()
    rows_per_shard: int = 1024
    if_exists: IfExists = "fail"
    dry_run: bool = False
    max_failures: str | None = None
    master: str | None = None
    remote: str | None = None
    conf: tuple[str, ...] = ()
    as_json: bool = False
    metrics: str | None = None
    metrics_port: int | None = None
    metrics_address: str = LOOPBACK

    @classmethod
    def of(cls, line: CommandLine, spec: EncoderSpec, options: Callable[[], JobOptions]) -> Self:
        """Check a command line; `options` is called if inputs and output are valid."""
        values = line.values
        inputs, engine_options = split_engine_options(values["engine"], line.tokens, line.flags)
        _check_usage(inputs, line)
        own = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}
        own["if_exists"] = if_exists_of(values["if_exists"], overwrite=values["overwrite"], resume=values["resume"])
        return cls(
            spec=spec,
            inputs=tuple(inputs),
            engine_options=(*engine_options, *line.unchecked),
            options=dataclasses.replace(options(), relative_to=tuple(inputs) if values["ids"] == "relative" else ()),
            **own,
        )

    def start(
        self, job: Job, shards: Sequence[Shard], previous: PreviousRun | None, *, dry_run: bool = False
    ) -> Progress:
        """Start or resume the job; see `start_job`."""
        return start_job(
            job,
            shards,
            inputs=self.inputs,
            arguments={"rows_per_shard": self.rows_per_shard},
            if_exists=self.if_exists,
            previous=previous,
            dry_run=dry_run,
        )


_FOR_DOCUMENTS = ("text_column", "uri_column", "image_column", "audio_column", "access_paths", "keep_content", "tags")


def job_options_of(values: dict[str, Any], plan: Plan, **more: Any) -> JobOptions:
    """Return the options of a job for a command line; `more` are fields of `JobOptions` that only this command has."""
    reader = DEFAULT_READER
    if not plan.of_rows:
        columns = {name: values.get(f"{name}_column") for name in CONTENT_AND_ID}
        reader = ReaderOptions(**columns, tags=tuple(values["tags"]))
    shared = {name: values[name] for name in ("drop", "format", "dtype", "fail_fast") if name in values}
    return JobOptions(plan=plan, reader=reader, **shared, **more)


def column_plan(spec: EncoderSpec, values: dict[str, Any], **more: Any) -> ColumnPlan | None:
    """Return the columns that `--column` names, None without it; `more` are keywords of `ColumnPlan.of`."""
    columns: dict[str, Column] = {}
    for pair in values["columns"]:
        name, equals, kind = pair.partition("=")
        if not name or not equals:
            raise click.UsageError(f"--column {pair!r} is not of the form NAME=KIND, such as photo=image")
        columns[name] = Column(kind)  # type: ignore[arg-type]  # ColumnPlan checks the kind
    if not columns:
        return None
    for name in _FOR_DOCUMENTS:
        if values[name] and values[name] != "@r":
            raise click.UsageError(in_flags(setting(name) + " is for documents; it has no effect with --column"))
    return ColumnPlan.of(columns, spec=spec, key=values["id_column"] or "id", **more)


def _check_usage(inputs: Sequence[str], line: CommandLine) -> None:
    values = line.values
    if not inputs:
        otherwise = f", {line.otherwise}" if line.otherwise else ""
        raise click.UsageError(f"nothing to {line.verb}: give an INPUT (a folder, a pattern, a file){otherwise}")
    if not values["output"]:
        raise click.UsageError("missing option --output: the directory or URL of the dataset")
    check_engine(values, line.unchecked)
    check_metrics_file(values["metrics"])
    if values["max_failures"] is not None:
        allowed_failures(values["max_failures"], 0)


def run(arguments: JobArguments) -> int:
    """Run a job to its end and print its summary; return 0, or 1 if more rows failed than `max_failures` allows.

    Raises:
        Refused: If inputs or output cannot be used; nothing was run.
    """
    try:
        previous = _previous_run(arguments)
        job, shards, uses, _ = plan_input(
            arguments.inputs,
            arguments.spec,
            arguments.options,
            arguments.output,
            rows_per_shard=arguments.rows_per_shard,
            previous=previous.plan if previous else (),
        )
        _refuse_output_inside(arguments.inputs, job.directory)
        if arguments.dry_run:
            return show_plan(
                job,
                shards,
                uses,
                lambda: arguments.start(job, shards, previous, dry_run=True),
                resumes=previous is not None,
                engine=arguments.engine,
                as_json=arguments.as_json,
            )
    except DatasetError as err:
        raise Refused(err) from err
    found, seconds, rows = _run_shards(arguments, job, shards, previous, lines_of_job(uses, job))
    if arguments.as_json:
        click.echo(json.dumps({**dataclasses.asdict(found), "wall_seconds": seconds}, indent=1))
    else:
        skipped_in = job.skip_existing.datasets if job.skip_existing else ()
        console.out.print(summary_table(found, seconds, job.directory, rows=rows, skipped_in=skipped_in))
    if not found.input_rows:
        console.say("Note: the input has no rows")
    elif job.plan.needs_matches and not found.scored and not found.failed:
        console.say("Note: nothing was ranked: no document has matches")
    return judge(found, arguments.max_failures, scores=not job.plan.makes_vectors)


class Planned(NamedTuple):
    """A job, its shards, what it makes of its input, and the seconds to list and cut it."""

    job: Job
    shards: Sequence[Shard]
    uses: Sequence[InputUse]
    listing_s: float


def plan_input(
    inputs: Sequence[str],
    spec: EncoderSpec,
    options: JobOptions,
    output: str,
    *,
    rows_per_shard: int,
    previous: Sequence[Shard] = (),
) -> Planned:
    """List the inputs of a job, cut them into shards and plan it; raise `DatasetError` or `SpecError` as these do."""
    tally = InputTally()
    started = time.perf_counter()
    shards = cut_inputs(tally.counted(input_files(inputs)), rows_per_shard=rows_per_shard, previous=previous)
    listing_s = time.perf_counter() - started
    return Planned(plan_job(spec, output, shards, options), shards, uses_of(tally, options), listing_s)


def _previous_run(arguments: JobArguments) -> PreviousRun | None:
    """Return the previous run if the job resumes one; raise `DatasetError` if another job is writing there."""
    if arguments.dry_run and arguments.if_exists != "resume":
        return None  # the plan is shown even if the output would be refused, or cannot be reached from here
    folder = Folder.of(arguments.output)
    check_is_no_file(folder)
    refuse_if_held(folder, may_write=not arguments.dry_run)
    return read_previous_run(arguments.output) if arguments.if_exists == "resume" else None


def _run_shards(
    arguments: JobArguments, job: Job, shards: Sequence[Shard], previous: PreviousRun | None, taken: Sequence[str]
) -> tuple[DatasetSummary, float, int]:
    """Start or resume a job, say what is taken of its input, run it and finish it.

    Returns:
        Its summary, the seconds that this run took, and the rows that it read.

    Raises:
        Refused: If the output cannot be used, or the metrics cannot be written or served; nothing was run.
    """
    counts = JobCounts(job.directory, shards=len(shards))
    with contextlib.ExitStack() as stack:
        try:
            start_counting = stack.enter_context(
                exported(
                    counts,
                    job.directory,
                    file=arguments.metrics,
                    port=arguments.metrics_port,
                    address=arguments.metrics_address,
                    inputs=arguments.inputs,
                    shards=shards,
                )
            )
            stack.enter_context(DirectoryLock(job.directory))
            progress = arguments.start(job, shards, previous)
            start_counting()
        except DatasetError as err:
            raise Refused(err) from err
        if previous is not None:
            console.say(f"Note: {resumed_text(progress)}")
        if progress.is_complete:
            return summarise(job.directory), 0.0, 0
        for line in taken:
            console.say(f"Input: {line}")
        started = time.perf_counter()
        with _hint_to_resume(job.directory, len(shards)):
            if progress.to_do:
                _run_on_engine(arguments, dataclasses.replace(job, weights_sha256=progress.weights), progress)
            found = finish_job(job.directory)
        return found, time.perf_counter() - started, found.input_rows - progress.rows


def _run_on_engine(arguments: JobArguments, job: Job, progress: Progress) -> None:
    with console.progress(
        len(progress.shards),
        lambda: count_finished(job.directory),
        lambda took_s: pause_before_look(job.directory, took_s),
    ):
        if arguments.engine == "beam":
            run_beam(progress.to_do, job, arguments.engine_options)
        else:
            run_spark(progress.to_do, job, master=arguments.master, remote=arguments.remote, conf=arguments.conf)


@contextlib.contextmanager
def _hint_to_resume(directory: str, shards: int) -> Iterator[None]:
    try:
        yield
    except (ClipmillError, KeyboardInterrupt):
        with contextlib.suppress(DatasetError):  # the other error says what went wrong
            done = count_finished(directory)
            if done or folder_written(directory).list(ATTEMPTS):
                console.say(f"Note: {done} of {shards} shards are done; the same command with --resume does the rest")
        raise


def _refuse_output_inside(inputs: Sequence[str], output: str) -> None:
    for folder in inputs:
        if "://" not in folder and os.path.isdir(folder) and Path(output).is_relative_to(os.path.abspath(folder)):
            raise DatasetError(
                f"the output {output} is inside the input folder {folder}; the next job would read it as input"
            )
