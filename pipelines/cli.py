"""The command line: `clipmill embed | rank | score | classify | index | search | report | summary`, and more.

Exit codes: 0 when all went well, 2 when what was asked for cannot work (nothing was run), 1 when a job failed,
128 plus the number of the signal that ended it: 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

import click

from ..errors import ClipmillError, SpecError
from ..models.spec import EncoderSpec
from .cli_messages import in_flags
from .index_command import index
from .interrupts import Interrupted, interruptible
from .limits import memory_error
from .options import (
    PASSED_UNCHECKED,
    CommandGroup,
    job_options,
    own_flags,
    reading_options,
    refuse_others,
    refuse_unknown,
    spec_from,
    spec_options,
    unchecked_of,
)
from .push_command import push
from .report_command import report
from .score_commands import classify, rank, score
from .search_command import search
from .skip_existing import skip_existing_options

_PRINTED = "--text, --image and --audio"


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="clipmill")
@click.option("--verbose", "-v", is_flag=True, help="Log what is loaded and where.")
def cli(verbose: bool) -> None:
    """CLIP embeddings for data pipelines, on Beam and on Spark."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("clipmill").setLevel(logging.INFO if verbose else logging.WARNING)


@cli.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True})
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
    from .jobs import CommandLine, JobArguments, run

    spec = spec_from(values)
    if values["texts"] or values["images"] or values["audios"]:
        refuse_unknown(tokens)
        if tokens:
            raise click.UsageError(f"{_PRINTED} print vectors and take no INPUT")
        refuse_others(context, {"texts", "images", "audios"}, f"with {_PRINTED}, which run no job")
        print_vectors(spec, values["texts"], values["images"], values["audios"])
        return
    line = CommandLine("embed", tokens, own_flags(context), unchecked_of(context), values, "--text, --image or --audio")
    context.exit(run(JobArguments.of(line, spec, lambda: embed_options(spec, values))))


cli.add_command(rank)
cli.add_command(score)
cli.add_command(classify)
cli.add_command(search)
cli.add_command(report)
cli.add_command(index)
cli.add_command(push)


@cli.command()
@click.argument("dataset")
def summary(dataset: str) -> None:
    """Print the kinds of documents and the attributes of a dataset."""
    from ..errors import DatasetError
    from .console import out
    from .jobs import Refused
    from .summary import missing_of, summarise_dataset, vectors_elsewhere

    try:
        found = summarise_dataset(dataset)
    except DatasetError as err:
        raise Refused(err) from err
    out.print(found)
    if vectors := vectors_elsewhere(dataset):
        _say(f"Note: this is the metadata of clip-retrieval's layout; the vectors are in {vectors}")
    if missing := missing_of(dataset):
        _say(f"Warning: {dataset} is not complete: {missing}")


@cli.command()
@click.argument("pattern", required=False)
@click.option("--download", metavar="NAME", help="Fetch all that this model needs onto this machine; list nothing.")
@click.option("--cache-dir", metavar="DIR", help="Where --download keeps it; as in embed.")
@click.option("--json", "as_json", is_flag=True, help="Print for programs.")
def models(pattern: str | None, download: str | None, cache_dir: str | None, as_json: bool) -> None:
    """List model names (those that contain PATTERN), with modalities, dimension, image size, parameters, licence."""
    from rich.filesize import decimal

    from .console import out
    from .models import describe, download_model, list_models, models_table, nearest

    if download is not None:
        if pattern:
            raise click.UsageError(f"--download takes one name and no PATTERN, got {pattern!r}")
        try:
            found = download_model(EncoderSpec(download, cache_dir=cache_dir))
        except KeyboardInterrupt:
            _say("Note: the same command continues the download")
            raise
        lines = [f"{found['name']}: {decimal(found['bytes'])} of weights, SHA-256 {found['weights_sha256']}"]
        click.echo(json.dumps(found, indent=1) if as_json else "\n".join([*lines, *found["files"]]))
        return
    if cache_dir is not None:
        raise click.UsageError("--cache-dir has no effect without --download")
    refs = list_models(pattern)
    if not refs:
        near = nearest(str(pattern))
        hint = f"nearest: {', '.join(near)}" if near else "without a pattern all are listed"
        raise click.UsageError(f"no model's name contains {pattern!r}; {hint}")
    if as_json:
        click.echo(json.dumps([describe(ref) for ref in refs], indent=1))
    else:
        out.print(models_table(refs), soft_wrap=True)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print for programs.")
def doctor(as_json: bool) -> None:
    """Print versions, devices, threads, and the runtimes that work on this machine."""
    from .console import out
    from .doctor import doctor_table, examine

    found = examine()
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        out.print(doctor_table(found), soft_wrap=True)


@cli.command()
@click.argument("name")
@click.argument("directory")
@click.option("--runtime", type=click.Choice(["onnx", "openvino"]), help="What the directory is for. [default: either]")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16", "int8"]),
    help="What it is computed in. [default: left to whoever loads it]",
)
@click.option("--cache-dir", help="Where downloaded weights and graphs are kept.")
@click.option("--overwrite", is_flag=True, help="Replace a directory that was exported earlier.")
def export(
    name: str, directory: str, runtime: str | None, precision: str | None, cache_dir: str | None, overwrite: bool
) -> None:
    """Write model NAME as graphs into DIRECTORY, to be run without torch and open_clip as onnx:DIRECTORY."""
    from .console import out
    from .export import export as write

    spec = EncoderSpec(name, runtime=runtime or "auto", precision=precision or "auto", cache_dir=cache_dir)
    out.print(write(spec, directory, overwrite), soft_wrap=True)


def _say(text: str) -> None:
    from .console import say  # late: rich takes longer to import than the rest of the command line

    say(text)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line (`sys.argv` by default) and exit."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    split = given.index("--") if "--" in given else len(given)
    try:
        with interruptible(), cli.make_context("clipmill", given[:split]) as context:
            context.meta[PASSED_UNCHECKED] = tuple(given[split + 1 :])
            code = cli.invoke(context)
    except click.exceptions.Exit as err:
        code = err.exit_code
    except click.ClickException as err:
        err.show()
        code = err.exit_code
    except Interrupted as err:
        _say(f"clipmill: interrupted ({err})")
        code = 128 + err.number
    except (click.Abort, KeyboardInterrupt):
        _say("clipmill: interrupted")
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # a closed pipe is no error
        code = 1
    except Exception as err:
        if (of_memory := memory_error(err)) is not None and not isinstance(err, ClipmillError):
            click.echo(f"Error: {in_flags(of_memory)}", err=True)  # `_say` would import more
        elif isinstance(err, ClipmillError | OSError):
            _say(f"Error: {in_flags(err)}")
        else:
            raise
        code = 2 if isinstance(err, SpecError) else 1
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
