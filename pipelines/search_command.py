"""The command `search`."""

from __future__ import annotations

import functools
from typing import Any

import click

from ..datasets.tables.provenance import TAKEN_OVER
from .commands import Command
from .options import refuse_unknown, spec_fields, spec_options, unchecked_of

_DEFAULTS = {
    **dict.fromkeys(TAKEN_OVER, "as the vectors that are searched were made"),
    "allow_local_files": "those of datasets whose job listed them, or was allowed them",
}


@click.command(cls=Command, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True})
@click.argument("tokens", metavar="INDEX|DATASET [TEXT]...", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--image", "images", multiple=True, metavar="FILE", help="Search for what is like this image; repeatable."
)
@click.option(
    "--audio", "audios", multiple=True, metavar="FILE", help="Search for what is like this sound; repeatable."
)
@click.option(
    "--top-k", "-k", type=click.IntRange(min=1), help="Hits of each query. [default: 10, or all if there are fewer]"
)
@click.option("--columns", multiple=True, metavar="A,B,…", help="Columns of what was found to tell too; repeatable.")
@click.option("--prompt", metavar="TEXT", help="What texts are put into, where its {} is: 'a photo of {}'.")
@click.option("--rerank", is_flag=True, help="Score the hits with the full vectors: cosine and clip_score.")
@click.option("--scale", metavar="N|model", help="What cosines are multiplied by for clip_scores. [default: 100]")
@click.option("--nprobe", type=click.IntRange(min=1), help="Inverted lists to look into. [default: as the index says]")
@click.option("--ef-search", type=click.IntRange(min=1), help="Rows of a graph in view. [default: as the index says]")
@click.option("--column", metavar="NAME", help="Column of vectors of a dataset that has several.")
@click.option("--json", "as_json", is_flag=True, help="Print for programs.")
@click.option("--html", metavar="FILE", help="Write a contact sheet, such as page.html.")
@click.option(
    "--fetch-remote", is_flag=True, help="Fetch pictures that are not on this machine, for the contact sheet."
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is no contact sheet.")
@functools.partial(spec_options, defaults=_DEFAULTS)
@click.pass_context
def search(context: click.Context, /, tokens: tuple[str, ...], **values: Any) -> None:
    """Find what is nearest to texts, images and sounds, in an index or among the vectors of a dataset.

    Queries are embedded with the model that made the vectors, which is known; another one is refused. Texts that begin
    with '-' go after '--'. --allow-local-files opens pictures for the contact sheet that rows name, whoever wrote them.
    """
    from .rank import Query
    from .search import print_found

    refuse_unknown(tokens)
    if not tokens:
        raise click.UsageError("missing INDEX: the directory of an index or of a dataset")
    location, *texts = (*tokens, *unchecked_of(context))
    queries = [Query("text", text) for text in texts]
    queries += [Query("image", path) for path in values["images"]]
    queries += [Query("audio", path) for path in values["audios"]]
    if not queries:
        raise click.UsageError(f"nothing to search {location} for: give a TEXT, --image FILE or --audio FILE")
    options = spec_fields(values)
    for name in ("fetch_remote", "overwrite"):
        if values[name] and not values["html"]:
            raise click.UsageError(f"--{name.replace('_', '-')} has no effect without --html")
    context.exit(print_found(location, queries, options, values))
