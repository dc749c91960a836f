"""`clipmill embed`: plan the shards, run them on an engine, say what came of it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from ..encoders import EncoderSpec, load_encoder
from ..encoders.columns import Column, ColumnPlan
from ..encoders.errors import DatasetError
from ..encoders.item import Item, Uri
from ..encoders.outcome import Vector
from ..encoders.storage.dataset import DatasetSummary, count_finished, finish_job
from ..encoders.storage.job import Job, begin_job
from ..encoders.storage.shards import Shard, plan_shards
from . import console
from .engines import is_local, run_beam, run_spark, split_engine_options

if TYPE_CHECKING:
    from ..encoders.failure import Failure


class Refused(click.ClickException):
    """What was asked for cannot work; nothing was run."""

    exit_code = 2


@dataclasses.dataclass(frozen=True)
class EmbedArguments:
    """A checked command line of `clipmill embed`.

    Attributes:
        spec: The encoder.
        inputs: Folders, globs and files.
        output: Directory or URL of the dataset.
        engine: `beam` or `spark`.
        engine_options: Options for the engine.
        columns: Columns of rows to embed; None for documents.
        reader: Columns that documents are made of.
        settings: Keywords of `Job.of` that stand under the same name on the command line.
        rows_per_shard: Rows in one unit of work and one output file.
        overwrite: Whether a dataset that is there may be replaced.
        max_failures: Most rows that may fail, as given.
        master: Spark master.
        remote: Spark Connect server.
        conf: Spark settings.
        as_json: Whether the summary is for programs.
    """

    spec: EncoderSpec
    inputs: tuple[str, ...]
    output: str
    engine: str = "beam"
    engine_options: tuple[str, ...] = ()
    columns: ColumnPlan | None = None
    reader: dict[str, Any] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    rows_per_shard: int = 1024
    overwrite: bool = False
    max_failures: str | None = None
    master: str | None = None
    remote: str | None = None
    conf: tuple[str, ...] = ()
    as_json: bool = False

    @classmethod
    def of(
        cls,
        tokens: Sequence[str],
        flags: Sequence[str],
        unchecked: Sequence[str],
        spec: EncoderSpec,
        values: dict[str, Any],
    ) -> EmbedArguments:
        """Check a command line.

        Args:
            tokens: Inputs and options that clipmill does not know, mixed.
            flags: The command's own flags, for hints.
            unchecked: What followed `--`.
            spec: The encoder.
            values: The command's own options.

        Raises:
            click.UsageError, SpecError: If something of it cannot work.
        """
        inputs, options = split_engine_options(values["engine"], tokens, flags)
        _check_usage(inputs, unchecked, values)
        return cls(
            spec=spec,
            inputs=tuple(inputs),
            engine_options=(*options, *unchecked),
            columns=_column_plan(spec, values),
            reader={name: values[f"{name}_column"] for name in _READER if values[f"{name}_column"]},
            settings={name: values[name] for name in _SETTINGS},
            **{name: values[name] for name in _COPIED},
        )

    def job(self, shards: Sequence[Shard]) -> Job:
        """Return what every worker needs."""
        tags = self.settings.get("tags", ())
        reader = {} if self.columns else {**self.reader, "tags": tuple(tags)}
        return Job.of(
            self.spec, self.output, shards, columns=self.columns, reader=reader, **{**self.settings, "tags": tags}
        )


_READER = ("text", "uri", "image", "audio", "id")
_SETTINGS = ("access_paths", "keep_content", "tags", "drop", "dtype", "fail_fast")
_COPIED = ("output", "engine", "rows_per_shard", "overwrite", "max_failures", "master", "remote", "conf", "as_json")


def _check_usage(inputs: Sequence[str], unchecked: Sequence[str], values: dict[str, Any]) -> None:
    if not inputs:
        raise click.UsageError("nothing to embed: give an INPUT (a folder, a glob, a file), --text, --image or --audio")
    if not values["output"]:
        raise click.UsageError("missing option --output: where the dataset goes")
    for name in ("master", "remote", "conf"):
        if values[name] and values["engine"] != "spark":
            raise click.UsageError(f"--{name} is an option of --engine spark")
    if unchecked and values["engine"] != "beam":
        raise click.UsageError("options after '--' go to Beam; Spark's are --master, --remote and --conf KEY=VALUE")
    for pair in values["conf"]:
        if "=" not in pair:
            raise click.UsageError(f"--conf {pair!r} is not of the form KEY=VALUE")
    if values["max_failures"] is not None:
        allowed_failures(values["max_failures"], 0)
    for name in ("text_column", "uri_column", "image_column", "audio_column"):
        if values["columns"] and values[name]:
            raise click.UsageError(f"--{name.replace('_', '-')} is for documents; beside --column it says nothing")


def _column_plan(spec: EncoderSpec, values: dict[str, Any]) -> ColumnPlan | None:
    columns: dict[str, Column] = {}
    for pair in values["columns"]:
        name, equals, kind = pair.partition("=")
        if not equals:
            raise click.UsageError(f"--column {pair!r} is not of the form NAME=KIND, such as photo=image")
        columns[name] = Column(kind)  # type: ignore[arg-type]  # ColumnPlan checks the kind
    return ColumnPlan.of(columns, spec=spec, key=values["id_column"] or "id") if columns else None


def run(arguments: EmbedArguments) -> int:
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
            load_encoder(arguments.spec)  # no old dataset is deleted for a job that cannot start
        begin_job(job, shards, inputs=arguments.inputs, overwrite=arguments.overwrite)
    except DatasetError as err:
        raise Refused(str(err)) from err
    started = time.perf_counter()
    with console.progress(len(shards), lambda: count_finished(job.directory)):
        if arguments.engine == "beam":
            run_beam(shards, job, arguments.engine_options)
        else:
            run_spark(shards, job, master=arguments.master, remote=arguments.remote, conf=arguments.conf)
    found = finish_job(job.directory)
    seconds = time.perf_counter() - started
    if arguments.as_json:
        click.echo(json.dumps({**dataclasses.asdict(found), "wall_seconds": seconds}, indent=1))
    else:
        console.out.print(summary_table(found, seconds, job.directory))
    return _judge(found, arguments.max_failures)


def _refuse_output_inside(inputs: Sequence[str], output: str) -> None:
    for folder in inputs:
        if "://" not in folder and os.path.isdir(folder) and Path(output).is_relative_to(os.path.abspath(folder)):
            raise DatasetError(
                f"the output {output} lies in the input folder {folder}; the next job would read it as input"
            )


def summary_table(found: DatasetSummary, seconds: float, output: str) -> Table:
    """Return what came of a job as a table for the terminal."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("rows in", f"{found.input_rows:,}")
    table.add_row("embedded", f"{found.embedded:,}")
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


def _judge(found: DatasetSummary, max_failures: str | None) -> int:
    failed, rows = found.failed_rows, found.input_rows
    if max_failures is None and 0 < rows == failed and not found.embedded:
        click.echo(f"Error: all {rows} rows failed; --max-failures 100% takes that for a success", err=True)
        return 1
    if max_failures is None or failed <= allowed_failures(max_failures, rows):
        return 0
    click.echo(f"Error: {failed} of {rows} rows failed, more than --max-failures {max_failures}", err=True)
    return 1


def print_vectors(spec: EncoderSpec, texts: Sequence[str], images: Sequence[str], audios: Sequence[str] = ()) -> None:
    """Print the vectors of texts, images and sounds given on the command line, one JSON array a line.

    Raises:
        Refused: If one of them cannot be embedded.
    """
    items = [Item("text", text) for text in texts]
    items += [Item("image", Uri(path, trusted=True)) for path in images]
    items += [Item("audio", Uri(path, trusted=True)) for path in audios]
    outcomes = load_encoder(spec).embed_items(items)
    for given, outcome in zip((*texts, *images, *audios), outcomes, strict=True):
        if not isinstance(outcome, Vector):
            failure: Failure | None = outcome
            raise Refused(f"{given!r}: {failure}")
    for outcome in outcomes:
        assert isinstance(outcome, Vector)
        click.echo(json.dumps([float(f"{value:.7g}") for value in outcome.values]))
