"""The command `push`."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import click

from .commands import Command


@click.command(cls=Command)
@click.argument("dataset")
@click.option(
    "--to",
    required=True,
    metavar="URL",
    help="The database: postgresql://user@host/database, qdrant://host, milvus://host, lancedb:///folder. Passwords "
    "and keys may be in PGPASSWORD, QDRANT_API_KEY, MILVUS_TOKEN.",
)
@click.option("--collection", metavar="NAME", help="Collection or table. [default: the name of the dataset]")
@click.option("--column", metavar="NAME", help="Column of vectors. [default: the one there is, or embedding]")
@click.option(
    "--id-column", default="id", show_default=True, metavar="NAME", help="Column of texts or integers that names a row."
)
@click.option("--drop", multiple=True, metavar="NAME", help="Leave this column out; repeatable.")
@click.option(
    "--metric",
    type=click.Choice(["cosine", "dot", "l2"]),
    help="Of a new collection of Qdrant or Milvus; the others are told it by an index or a search. [default: cosine]",
)
@click.option(
    "--batch-rows",
    type=click.IntRange(min=1),
    help="Rows that are written at a time. [default: 500 to 20,000, as suits the database]",
)
@click.option("--partial", is_flag=True, help="Take a dataset whose job has not ended as it is.")
@click.option("--again", is_flag=True, help="Write also what an earlier push has written.")
@click.option("--json", "as_json", is_flag=True, help="Print for programs.")
def push(dataset: str, to: str, as_json: bool, **values: Any) -> None:
    """Write the vectors of a dataset into a vector database.

    DATASET is a directory that embed wrote, or a Parquet file or directory with a column of vectors. Each row takes
    the place of the one with its id. The database remembers what was pushed: the same command again writes what is
    missing.
    """
    from ..errors import DatasetError
    from ..indexes.stores import push_dataset
    from . import console
    from .cli_messages import Refused

    started, begun = time.perf_counter(), False

    def tell(place: str, rows: int, there: int) -> None:
        nonlocal begun
        begun = True
        console.say(f"Pushing {rows:,} rows into {place}" + (f"; {there:,} are there already" if there else ""))

    try:
        found = push_dataset(dataset, to, on_start=tell, **values)
    except (DatasetError, KeyboardInterrupt) as err:
        if begun:
            console.say("Note: the same command writes what is missing")
        elif isinstance(err, DatasetError):
            raise Refused(err) from err
        raise
    seconds = time.perf_counter() - started
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(found), "wall_seconds": round(seconds, 3)}, indent=1))
        return
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("collection", found.collection + (" (new)" if found.created else ""))
    counts = {
        "rows written": found.rows,
        "there already": found.there,
        "without a vector": found.nulls,
        "not finite": found.not_finite,
    }
    for name, count in counts.items():
        if count or name == "rows written":
            table.add_row(name, f"{count:,}")
    table.add_row("time", f"{seconds:.1f} s")
    console.out.print(table)
