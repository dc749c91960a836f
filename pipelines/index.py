"""`clipmill index`: plans an index, builds it here or on an engine, and prints the result."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, Self

import click
from rich.filesize import decimal
from rich.table import Table

from ..errors import DatasetError
from ..indexes.add import Added, add_to_index, preview_add
from ..indexes.build import IndexOptions, RunShards, build_index, plan_of, run_locally
from ..indexes.manifest import IndexManifest
from ..indexes.plan import IndexPlan
from ..indexes.shard import IndexJob, IndexShard
from ..indexes.sizes import bytes_of
from ..indexes.source import open_source
from ..reports.words import many
from . import console
from .cli_messages import Refused
from .engines import beam_shards, spark_session, split_engine_options
from .options import check_engine, refuse_unknown

_AGAIN = "begins it anew"


@dataclasses.dataclass(frozen=True)
class IndexArguments:
    """A checked command line."""

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
        """Check a command line; `tokens` mixes datasets with options that clipmill does not know."""
        engine = values["engine"]
        check_engine(values, unchecked)
        if engine == "local":
            refuse_unknown(tuple(tokens))
        datasets, options = (list(tokens), []) if engine == "local" else split_engine_options(engine, tokens, flags)
        if not datasets:
            raise click.UsageError("nothing to index: give a DATASET, which embed wrote")
        if (values["output"] is None) == (values["add_to"] is None):
            raise click.UsageError("give --output DIR for a new index, or --add-to DIR for one that is there")
        runs: dict[str, RunShards] = {
            "local": run_locally,
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
                column=values["column"],
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
    """Print which index would be built and why, or what would be added; raise `Refused` if that is impossible."""
    options = arguments.options
    try:
        if arguments.add_to is not None:
            found = preview_add(arguments.datasets, arguments.add_to, options, skip_existing=arguments.skip_existing)
            said, lines = (
                {**_counts(found), "index_rows": found.manifest.rows},
                _lines_of_adding(found, arguments.add_to),
            )
        else:
            source = open_source(arguments.datasets, column=options.column, partial=options.partial)
            plan = plan_of(source, options)
            said, lines = plan.as_dict(), plan.lines()
    except DatasetError as err:
        raise Refused(err) from err
    click.echo(json.dumps(said, indent=1) if arguments.as_json else "\n".join(lines))
    return 0


def _lines_of_adding(found: Added, index: str) -> list[str]:
    lines = [f"{many(found.rows, 'row')} would be added to the {many(found.manifest.rows, 'row')} of {index}"]
    if found.rows:
        lines[0] += "; those without a vector that can be searched are not, which only reading them tells"
    if found.nulls:
        lines.append(f"{many(found.nulls, 'row')} would be left out: no vector")
    if found.skipped:
        lines.append(f"{many(found.skipped, 'row')} would be left out: their ids are there already")
    if found.unnamed:
        lines.append(f"{many(found.unnamed, 'row')} without an id would be added, there already or not")
    return lines


def run(arguments: IndexArguments) -> int:
    """Build an index, or add rows to one, and print its properties; return 0."""
    started = time.perf_counter()
    added = None
    with _refused_before(arguments.run) as run_shards:
        if arguments.add_to is not None:
            added = add_to_index(
                arguments.datasets,
                arguments.add_to,
                arguments.options,
                skip_existing=arguments.skip_existing,
                run=run_shards,
            )
            found, place = added.manifest, arguments.add_to
        else:
            assert arguments.output is not None
            place = arguments.output
            found = build_index(
                arguments.datasets,
                place,
                arguments.options,
                overwrite=arguments.overwrite,
                run=run_shards,
                on_plan=_tell,
            )
    return _judge(arguments, found, added, place, time.perf_counter() - started)


@contextlib.contextmanager
def _refused_before(run: RunShards) -> Iterator[RunShards]:
    """Yield the function that builds shards. A `DatasetError` before its call becomes `Refused`: nothing was run."""
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
        raise Refused(err) from err
    except KeyboardInterrupt:
        if begun:
            console.say(f"Note: nothing was finished; the same command {_AGAIN}")
        raise


def _tell(plan: IndexPlan) -> None:
    first, *others = plan.lines()
    console.say("\n".join([f"Plan: {first}", *(f"  - {line}" for line in others)]))


def _judge(arguments: IndexArguments, found: IndexManifest, added: Added | None, place: str, seconds: float) -> int:
    if arguments.as_json:
        counts = {} if added is None else {"added": _counts(added)}
        click.echo(json.dumps({**found.as_dict(), **counts, "wall_seconds": round(seconds, 3)}, indent=1))
    else:
        console.out.print(index_table(found, place, seconds, added))
    if added is not None and not added.rows:
        return 0
    recall = found.recall
    if recall is not None and not recall.reached:
        console.say(
            f"Warning: recall@{recall.k} is {recall.recall:.4f}, and --target-recall {recall.target} was not reached "
            "with any parameters; the index holds the best of them"
        )
    return 0


def _counts(added: Added) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(added).items() if name != "manifest"}


def index_table(found: IndexManifest, place: str, seconds: float | None = None, added: Added | None = None) -> Table:
    """Return an index as a table for the terminal; `added` replaces the total count of rows left out."""
    table = Table(box=None, show_header=False, pad_edge=False)
    if added is not None:
        table.add_row("added", many(added.rows, "row") if added.rows else "nothing: the index is as it was")
    told = found if added is None else added
    if told.skipped:
        table.add_row("left out, there already", f"{told.skipped:,}")
    if told.nulls:
        table.add_row("without a vector", f"{told.nulls:,}")
    for reason, count in sorted(told.failed.items()):
        table.add_row(f"failed: {reason}", f"{count:,}")
    if added is not None and added.rows and added.unnamed:
        table.add_row("without an id", f"{added.unnamed:,}, added whether there already or not")
    if added is None or added.rows:
        _describe(table, found)
    table.add_row("rows now" if added is not None else "rows", f"{found.rows:,} of {found.dim} values")
    if seconds is not None:
        table.add_row("time", f"{seconds:.1f} s")
    table.add_row("written to" if added is None or added.rows else "index", place)
    return table


def _describe(table: Table, found: IndexManifest) -> None:
    """Add the properties of an index."""
    table.add_row("kind", f"{found.kind} ({found.factory})")
    if found.ids is not None:
        counts = {"without one": found.ids.missing, "with that of another": found.ids.repeated}
        if said := ", ".join(f"{many(count, 'row')} {what}" for what, count in counts.items() if count):
            table.add_row("ids", said)
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
    table.add_row("size", decimal(sum(found.files.values())))
