"""The commands `report` and `summary`, of a dataset."""

from __future__ import annotations

from typing import Any

import click

from ..reports.projection import METHODS
from ..reports.vectors import MAX_SAMPLE, SampleOptions
from .commands import Command
from .options import FiniteRange

_COUNT = click.IntRange(1, MAX_SAMPLE)


@click.command(cls=Command)
@click.argument("source", metavar="DATASET|INDEX")
@click.option("--output", "-o", required=True, metavar="FILE", help="The page to write, such as report.html.")
@click.option("--column", "columns", multiple=True, metavar="NAME", help="Column of vectors. [default: all]")
@click.option(
    "--sample", "rows", type=_COUNT, default=2000, show_default=True, help="Rows of which vectors are drawn, at most."
)
@click.option(
    "--thumbnails",
    type=click.IntRange(0, MAX_SAMPLE),
    default=1000,
    show_default=True,
    help="Of how many of them, at most.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Equal seeds draw equal rows.")
@click.option(
    "--duplicates-above",
    type=FiniteRange(-1, 1),
    default=0.95,
    show_default=True,
    help="Cosine of near-duplicates.",
)
@click.option("--projection", type=click.Choice(METHODS), default="auto", show_default=True, help="What draws the map.")
@click.option("--id-column", metavar="NAME", help="Column that names a row. [default: as the job says, or id]")
@click.option("--text-column", metavar="NAME", help="Column with the texts that were embedded.")
@click.option("--uri-column", metavar="NAME", help="Column with the URIs of the pictures that were embedded.")
@click.option("--fetch-remote", is_flag=True, help="Fetch pictures that are not on this machine, for thumbnails.")
@click.option(
    "--allow-local-files", is_flag=True, help="Open local files that rows name, whoever wrote the rows, for thumbnails."
)
@click.option("--allow-private-addresses", is_flag=True, help="Let http(s) go to private addresses.")
@click.option("--allow-buckets", metavar="A,B,…", help="Buckets (gs://photos) from which --fetch-remote may fetch.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is no report.")
def report(source: str, output: str, overwrite: bool, allow_buckets: str | None, **values: Any) -> None:
    """Write one page about a dataset, an index, or Parquet files with vectors of any origin.

    It shows failures, provenance, throughput, a map of a sample with thumbnails, near-duplicates, and of an index its
    recall against its speed. The page is one file, which opens offline and asks nothing of any network.
    """
    from ..errors import DatasetError
    from ..files.json_text import clean_text
    from ..reports.columns import Content
    from ..reports.overview import Looked, overview
    from ..reports.page import MARK, render, said
    from ..reports.page_file import page_file
    from .cli_messages import Refused

    names = ("rows", "thumbnails", "seed", "duplicates_above", "projection")
    sample = SampleOptions(**{name: values.pop(name) for name in names})
    given = [values.pop(name) for name in ("id_column", "text_column", "uri_column")]
    try:
        folder, name = page_file(output, "report", MARK, overwrite=overwrite)
        folder.make()  # before the work, which would be lost
        content = Content(*given) if any(given) else None
        found = overview(source, Looked(sample, content=content, allow_buckets=allow_buckets or (), **values))
    except DatasetError as err:
        raise Refused(err) from err
    page = clean_text(render(found)).encode()  # a path may contain bytes that are not UTF-8
    folder.write(name, page)
    click.echo(said(found, output, len(page)))


@click.command(cls=Command)
@click.argument("dataset")
def summary(dataset: str) -> None:
    """Print the kinds of documents and the attributes of a dataset."""
    from ..errors import DatasetError
    from .cli_messages import Refused
    from .console import out, say
    from .summary import missing_of, summarise_dataset, vectors_elsewhere

    try:
        found = summarise_dataset(dataset)
    except DatasetError as err:
        raise Refused(err) from err
    out.print(found)
    if vectors := vectors_elsewhere(dataset):
        say(f"Note: this is the metadata of clip-retrieval's layout; the vectors are in {vectors}")
    if missing := missing_of(dataset):
        say(f"Warning: {dataset} is not complete: {missing}")
