"""The commands `models`, `doctor` and `export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..models.spec import EncoderSpec
from .commands import Command
from .console import out, say


@click.command(cls=Command)
@click.argument("pattern", required=False)
@click.option("--download", metavar="NAME", help="Fetch all that this model needs onto this machine; list nothing.")
@click.option("--prepare", metavar="NAME", help="Also make, check and compile its graphs, as its first use would.")
@click.option("--runtime", metavar="NAME", help="What --prepare is for; as in embed. [default: auto]")
@click.option("--precision", metavar="NAME", help="What --prepare is for; as in embed. [default: auto]")
@click.option("--cache-dir", metavar="DIR", help="Where --download and --prepare keep it; as in embed.")
@click.option("--json", "as_json", is_flag=True, help="Print for programs.")
def models(
    pattern: str | None,
    download: str | None,
    prepare: str | None,
    runtime: str | None,
    precision: str | None,
    cache_dir: str | None,
    as_json: bool,
) -> None:
    """List model names (those that contain PATTERN), with modalities, dimension, image size, parameters, licence."""
    from rich.filesize import decimal

    from .models import describe, download_model, list_models, models_table, nearest

    if pattern and (download or prepare):
        flag = "--download" if download else "--prepare"
        raise click.UsageError(f"{flag} takes one name and no PATTERN, got {pattern!r}")
    if download and prepare:
        raise click.UsageError("--prepare downloads what is missing; give --download or --prepare")
    if prepare is not None:
        from .first_use import prepare_model, prepared_text

        spec = EncoderSpec(prepare, runtime=runtime or "auto", precision=precision or "auto", cache_dir=cache_dir)
        done = prepare_model(spec)
        click.echo(json.dumps(done, indent=1) if as_json else prepared_text(done))
        return
    if runtime is not None or precision is not None:
        raise click.UsageError("--runtime and --precision have no effect without --prepare")
    if download is not None:
        try:
            found = download_model(EncoderSpec(download, cache_dir=cache_dir))
        except KeyboardInterrupt:
            say("Note: the same command continues the download")
            raise
        lines = [f"{found['name']}: {decimal(found['bytes'])} of weights, SHA-256 {found['weights_sha256']}"]
        click.echo(json.dumps(found, indent=1) if as_json else "\n".join([*lines, *found["files"]]))
        return
    if cache_dir is not None:
        raise click.UsageError("--cache-dir has no effect without --download or --prepare")
    refs = list_models(pattern)
    if not refs:
        near = nearest(str(pattern))
        hint = f"nearest: {', '.join(near)}" if near else "without a pattern all are listed"
        raise click.UsageError(f"no model's name contains {pattern!r}; {hint}")
    if as_json:
        click.echo(json.dumps([describe(ref) for ref in refs], indent=1))
    else:
        out.print(models_table(refs), soft_wrap=True)


@click.command(cls=Command)
@click.option("--online", is_flag=True, help="Also ask whether the hub answers; nothing else uses the network.")
@click.option("--json", "as_json", is_flag=True, help="Print for programs.")
def doctor(online: bool, as_json: bool) -> int:
    """Examine this machine: what works, what is a problem, and what to do. Exit code 1 if something is a problem."""
    from .doctor import checks_json, checks_table, examine, exit_code, run_checks, verdict

    found = examine()
    checks = run_checks(found, online=online)
    if as_json:
        click.echo(json.dumps(checks_json(found, checks), indent=1))
    else:
        out.print(checks_table(checks), soft_wrap=True)
        out.print(verdict(checks))
    return exit_code(checks)


@click.command(cls=Command)
@click.argument("name")
@click.argument("directory")
@click.option("--runtime", type=click.Choice(["onnx", "openvino"]), help="What the directory is for. [default: either]")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16", "int8"]),
    help="What it is computed in. [default: left to whoever loads it]",
)
@click.option(
    "--calibrate",
    multiple=True,
    metavar="INPUT",
    help="With --runtime openvino --precision int8: calibrate on these images and captions (a folder, pattern, tar or "
    "table), and measure on others of them; may be repeated. [default: generated ones]",
)
@click.option("--text-column", metavar="NAME", help="Column of a table to calibrate on with texts.")
@click.option("--image-column", metavar="NAME", help="Column of a table to calibrate on with encoded images.")
@click.option("--cache-dir", help="Where downloaded weights and graphs are kept.")
@click.option("--overwrite", is_flag=True, help="Replace a directory that was exported earlier.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest, for programs.")
def export(
    name: str,
    directory: str,
    runtime: str | None,
    precision: str | None,
    cache_dir: str | None,
    overwrite: bool,
    as_json: bool,
    **calibrate: Any,
) -> None:
    """Write model NAME as graphs into DIRECTORY, to be run without torch and open_clip as onnx:DIRECTORY."""
    from .export import export as write
    from .export import export_table

    spec = EncoderSpec(name, runtime=runtime or "auto", precision=precision or "auto", cache_dir=cache_dir)
    manifest = write(spec, directory, overwrite, calibrate)
    if as_json:
        click.echo(json.dumps(manifest, indent=1))
    else:
        out.print(export_table(Path(directory), manifest), soft_wrap=True)
