"""The command `index`."""

from __future__ import annotations

from typing import Any

import click

from .commands import Command
from .options import own_flags, refuse_others, running_options, unchecked_of

_ENGINES = ("local", "beam", "spark")
_ADDING = {
    *("add_to", "column", "target_recall", "queries", "seed", "rows_per_shard", "partial", "skip_existing"),
    *("dry_run", "engine", "master", "remote", "conf", "as_json"),
}


@click.command(cls=Command, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True})
@click.argument("tokens", metavar="DATASET...", nargs=-1, type=click.UNPROCESSED)
@click.option("--output", "-o", metavar="DIR", help="Directory or URL of the index to write.")
@click.option("--add-to", metavar="DIR", help="Add the rows to this index, and write no new one.")
@click.option("--skip-existing", is_flag=True, help="With --add-to: leave out rows whose id is in the index.")
@click.option("--column", metavar="NAME", help="Column of vectors. [default: the one there is, or embedding]")
@click.option(
    "--max-memory",
    default="4GB",
    show_default=True,
    metavar="SIZE",
    help="What each process that builds or searches may hold; decides the kind of index.",
)
@click.option("--factory", metavar="TEXT", help="A factory string of Faiss, such as IVF1024,SQ8. [default: planned]")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Of the full vectors on disk.",
)
@click.option("--target-recall", default=0.95, show_default=True, help="Share of the true 10 nearest to be found.")
@click.option("--queries", type=click.IntRange(min=1), default=1000, show_default=True, help="Rows to measure it with.")
@click.option(
    "--seed", default=0, show_default=True, help="Equal seeds draw equal rows to train on and to measure with."
)
@click.option("--partial", is_flag=True, help="Take datasets whose jobs have not ended as they are.")
@click.option("--overwrite", is_flag=True, help="Replace an index that is there already.")
@click.option("--dry-run", is_flag=True, help="Print the plan, and do nothing.")
@click.option(
    "--engine", type=click.Choice(_ENGINES), default="local", show_default=True, help="Where shards are built."
)
@click.option(
    "--rows-per-shard",
    type=click.IntRange(min=1),
    default=65_536,
    show_default=True,
    help="Rows of a shard, which one worker processes at a time.",
)
@running_options
@click.pass_context
def index(context: click.Context, /, tokens: tuple[str, ...], **values: Any) -> None:
    """Make datasets of vectors searchable.

    DATASET is a directory that embed wrote, or a Parquet file or directory with a column of vectors; several make one
    index. The kind of index is planned from rows, dimension and --max-memory, and printed with the reasons. Recall is
    measured against exact search and stands in the index. Options that are not listed here go to the engine, as in
    embed.
    """
    from .index import IndexArguments, run, show_plan

    if values["add_to"] is not None:
        refuse_others(context, _ADDING, "with --add-to: it was decided when the index was built")
    elif values["skip_existing"]:
        raise click.UsageError("--skip-existing has no effect without --add-to")
    arguments = IndexArguments.of(tokens, own_flags(context), unchecked_of(context), values)
    context.exit(show_plan(arguments) if values["dry_run"] else run(arguments))
