"""The command `embed`: prints the vectors of what is given, or runs a job."""

from __future__ import annotations

from typing import Any

import click

from .commands import Command
from .options import (
    embedding_options,
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
@embedding_options
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
