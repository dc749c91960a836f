"""`clipmill index`: plan an index, build it here or on an engine, say what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, Self

import click
from rich.table import Table

from ..encoders.errors import DatasetError
from ..encoders.index.add import add_to_index, outgrown
from ..encoders.index.build import IndexOptions, RunShards, build_index, plan_of, run_here
from ..encoders.index.manifest import IndexManifest
from ..encoders.index.plan import IndexPlan
from ..encoders.index.shard import IndexJob, IndexShard
from ..encoders.index.sizes import as_size, bytes_of
from ..encoders.index.source import open_source
from . import console
from .engines import beam_shards, spark_session, split_engine_options
from .jobs import Refused
from .options import refuse_unknown

_AGAIN = "begins it anew"


@dataclasses.dataclass(frozen=True)
class IndexArguments:
    """A checked command line.

    Attributes:
        datasets: What is indexed.
        output: Directory or URL of a new index.
        add_to: Directory or URL of one that gets rows.
        options: What the index is to be.
        run: Does the shards.
        overwrite: Whether an index that is there is replaced.
        skip_existing: Whether rows whose ids are there are left out.
        as_json: Whether the summary is for programs.
    """

    datasets: tuple[str, ...]
    output: str | None
    add_to: str | None
    options: IndexOptions
    run: RunShards
    overwrite: bool
    skip_existing: bool
    as_json: bool

    @classmethod
    def of(cls, tokens: Sequence[str], flags: Sequence[str], unchecked: Sequence[str], values: dict[str, Any]) -> Self:
        """Check a command line.

        Args:
            tokens: Datasets and options that clipmill does not know, mixed.
            flags: The command's own flags, for hints.
            unchecked: What followed `--`.
            values: The command's options.

        Raises:
            click.UsageError, SpecError: If something of it cannot work.
        """
        engine = values["engine"]
        for name in ("master", "remote", "conf"):
            if values[name] and engine != "spark":
                raise click.UsageError(f"--{name} is an option of --engine spark")
        if unchecked and engine != "beam":
            raise click.UsageError("options after '--' go to Beam, with --engine beam")
        if engine == "local":
            refuse_unknown(tuple(tokens))
        datasets, options = (list(tokens), []) if engine == "local" else split_engine_options(engine, tokens, flags)
        if not datasets:
            raise click.UsageError("nothing to index: give a DATASET, which embed wrote")
        if (values["output"] is None) == (values["add_to"] is None):
            raise click.UsageError("give --output DIR for a new index, or --add-to DIR for one that is there")
        runs: dict[str, RunShards] = {
            "local": run_here,
            "beam": functools.partial(_run_beam, options=(*options, *unchecked)),
            "spark": functools.partial(
                _run_spark, master=values["master"], remote=values["remote"], conf=values["conf"]
            ),
        }
        names = ("factory", "dtype", "target_recall", "queries", "rows_per_shard", "partial", "seed")
        return cls(
            datasets=tuple(datasets),
            output=values["output"],
            add_to=values["add_to"],
            options=IndexOptions(
                column=values["column_name"],
                max_memory_bytes=bytes_of(values["max_memory"]),
                **{name: values[name] for name in names},
            ),
            run=runs[engine],
            overwrite=values["overwrite"],
            skip_existing=values["skip_existing"],
            as_json=values["as_json"],
        )


def _run_beam(shards: Sequence[IndexShard], job: IndexJob, *, options: Sequence[str]) -> None:
    from ..transforms import IndexShards

    with beam_shards(shards, options, again=_AGAIN) as each:
        _ = each | IndexShards(job)


def _run_spark(
    shards: Sequence[IndexShard], job: IndexJob, *, master: str | None, remote: str | None, conf: Sequence[str]
) -> None:
    from ..udfs import index_shards

    with spark_session(master, remote, conf) as spark:
        index_shards(spark, shards, job)


def show_plan(arguments: IndexArguments) -> int:
    """Print which index would be built, and why.

    Returns:
        0.

    Raises:
        Refused: If it cannot be built.
    """
    try:
        options = arguments.options
        source = open_source(arguments.datasets, column=options.column, partial=options.partial)
        plan = plan_of(source, options)
    except DatasetError as err:
        raise Refused(str(err)) from err
    if arguments.as_json:
        click.echo(json.dumps(plan.as_dict(), indent=1))
    else:
        click.echo("\n".join(plan.lines()))
    return 0


def build(arguments: IndexArguments) -> int:
    """Build an index and print what it is.

    Returns:
        0.

    Raises:
        ClipmillError: If it cannot be built.
    """
    started = time.perf_counter()
    assert arguments.output is not None
    with _refused_before(arguments.run) as run:
        found = build_index(
            arguments.datasets,
            arguments.output,
            arguments.options,
            overwrite=arguments.overwrite,
            run=run,
            told=_tell,
        )
    return _judge(arguments, found, arguments.output, time.perf_counter() - started)


def add(arguments: IndexArguments) -> int:
    """Add rows to an index and print what it is then.

    Returns:
        0.

    Raises:
        ClipmillError: If they cannot be added.
    """
    started = time.perf_counter()
    assert arguments.add_to is not None
    with _refused_before(arguments.run) as run:
        found = add_to_index(
            arguments.datasets,
            arguments.add_to,
            arguments.options,
            skip_existing=arguments.skip_existing,
            run=run,
        )
    return _judge(arguments, found, arguments.add_to, time.perf_counter() - started)


@contextlib.contextmanager
def _refused_before(run: RunShards) -> Iterator[RunShards]:
    """Yield what does the shards; what goes wrong before it is called was asked for in vain, and nothing was run.

    Raises:
        Refused: In place of a DatasetError from before.
    """
    begun = False

    def run_and_note(shards: Sequence[IndexShard], job: IndexJob) -> None:
        nonlocal begun
        begun = True
        run(shards, job)

    try:
        yield run_and_note
    except DatasetError as err:
        if begun:
            raise
        raise Refused(str(err)) from err


def _tell(plan: IndexPlan) -> None:
    first, *others = plan.lines()
    click.echo("\n".join([f"Plan: {first}", *(f"  - {line}" for line in others)]), err=True)


def _judge(arguments: IndexArguments, found: IndexManifest, output: str, seconds: float) -> int:
    if arguments.as_json:
        click.echo(json.dumps({**found.as_dict(), "wall_seconds": round(seconds, 3)}, indent=1))
    else:
        console.out.print(index_table(found, output, seconds))
    recall = found.recall
    if recall is not None and not recall.reached:
        click.echo(
            f"Warning: recall@{recall.k} is {recall.recall:.4f}, and --target-recall {recall.target} was not reached "
            "with any parameters; the index holds the best of them",
            err=True,
        )
    if hint := outgrown(found):
        click.echo(f"Warning: {hint}", err=True)
    return 0


def index_table(found: IndexManifest, output: str, seconds: float | None = None) -> Table:
    """Return what an index is as a table for the terminal."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("kind", f"{found.kind} ({found.factory})")
    table.add_row("rows", f"{found.rows:,} of {found.dim} values")
    if found.nulls:
        table.add_row("without a vector", f"{found.nulls:,}")
    for reason, count in sorted(found.failed.items()):
        table.add_row(f"failed: {reason}", f"{count:,}")
    if found.skipped:
        table.add_row("left out, there already", f"{found.skipped:,}")
    table.add_row("model", str((found.provenance or {}).get("model") or "unknown: the datasets do not say"))
    set_to = {name: value for name, value in dataclasses.asdict(found.search).items() if value is not None}
    if set_to:
        table.add_row("search", ", ".join(f"{name} {value}" for name, value in set_to.items()))
    if (recall := found.recall) is not None:
        table.add_row(
            f"recall@{recall.k}",
            f"{recall.recall:.4f} of exact search, {recall.queries:,} queries (target {recall.target})",
        )
        table.add_row("queries per second", f"{recall.queries_per_second:,.0f}, all of them in one call")
    table.add_row("size", as_size(sum(found.files.values())))
    if seconds is not None:
        table.add_row("time", f"{seconds:.1f} s")
    table.add_row("written to", output)
    return table
