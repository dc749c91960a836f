"""The command `embed`: prints the vectors of what is given, or runs a job."""

from __future__ import annotations

from typing import Any

import click

from .commands import Command
from .options import (
    job_options,
    own_flags,
    reading_options,
    refuse_others,
    refuse_unknown,
    spec_from,
    spec_options,
    unchecked_of,
)
from .skip_existing import skip_existing_options

_PRINTED = "--text, --image and --audio"


@click.command(cls=Command, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True})
@click.argument("tokens", metavar="INPUT...", nargs=-1, type=click.UNPROCESSED)
@job_options
@reading_options
@skip_existing_options
@click.option(
    "--format",
    type=click.Choice(["parquet", "jsonl", "clip-retrieval", "lance", "webdataset"]),
    default="parquet",
    show_default=True,
    help="Format of the output; clip-retrieval is its layout of .npy and Parquet files, and needs --normalize; "
    "webdataset is tars with a .npy file beside each sample.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    help="Type of the vectors' values. [default: float32; float16 with --format clip-retrieval]",
)
@click.option(
    "--fuse",
    multiple=True,
    metavar="NAME=COLUMN:WEIGHT,…",
    help="Add a column of one vector of several columns, such as embedding=photo:0.7,caption:0.3; may be repeated.",
)
@click.option(
    "--keep-parts/--no-keep-parts",
    default=True,
    show_default=True,
    help="Whether columns that are fused have a column of their own vectors, too.",
)
@click.option(
    "--head",
    "heads",
    multiple=True,
    metavar="NAME=FILE",
    help="Add a column of scores of a linear head, such as aesthetic=weights.pth, or aesthetic:photo=weights.pth if "
    "there are several vectors; may be repeated.",
)
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="Print this text's vector, and run no job.")
@click.option("--image", "images", multiple=True, metavar="FILE", help="Print this image's vector, and run no job.")
@click.option(
    "--audio", "audios", multiple=True, metavar="FILE", help="Print this audio file's vector, and run no job."
)
@spec_options
@click.pass_context
def embed(context: click.Context, /, tokens: tuple[str, ...], **values: Any) -> None:
    """Embed images, audio, texts and tables into a dataset.

    INPUT is a folder, a pattern, an image or audio file, a tar of them, or a JSON lines, CSV or Parquet file; several
    may be given. Options that are not listed here go to the engine (--runner=DataflowRunner --project=…); what follows
    '--' goes there unchecked.
    """
    from .embed import embed_options, print_vectors

    spec = spec_from(values)
    if values["texts"] or values["images"] or values["audios"]:
        refuse_unknown(tokens)
        if tokens:
            raise click.UsageError(f"{_PRINTED} print vectors and take no INPUT")
        refuse_others(context, {"texts", "images", "audios"}, f"with {_PRINTED}, which run no job")
        print_vectors(spec, values["texts"], values["images"], values["audios"])
        return
    from .jobs import CommandLine, JobArguments, run  # late, since printing needs none of it

    line = CommandLine("embed", tokens, own_flags(context), unchecked_of(context), values, "--text, --image or --audio")
    context.exit(run(JobArguments.of(line, spec, lambda: embed_options(spec, values))))
