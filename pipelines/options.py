"""Command line flags: those of the fields of `EncoderSpec`, the same for all commands, and those of all jobs."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import click
from click.core import ParameterSource

from ..datasets.if_exists import IfExists
from ..encoders.plans.scores import Score
from ..models.spec import RENAMED, EncoderSpec
from ..models.spec_help import descriptions
from .commands import PASSED_UNCHECKED

ENGINES = ("beam", "spark")
_LISTS = {field.name for field in dataclasses.fields(EncoderSpec) if isinstance(field.default, tuple)}
"""Fields whose flags take several values, separated by commas."""

_RUNNING = (
    click.option("--master", help="Spark master, such as local[4]. [default: local[*]]"),
    click.option("--remote", help="Spark Connect server, such as sc://host:15002."),
    click.option("--conf", multiple=True, metavar="KEY=VALUE", help="Spark setting; may be repeated."),
    click.option("--json", "as_json", is_flag=True, help="Print for programs."),
)
_ROWS = (
    click.option("--id-column", help="Column or field that names a document or row."),
    click.option("--tag-column", "tags", multiple=True, metavar="NAME", help="Carry this column along; repeatable."),
    click.option("--drop", multiple=True, metavar="NAME", help="Leave this column out of the output; repeatable."),
    click.option("--keep-content", is_flag=True, help="Write the content of images and audio too."),
    click.option(
        "--rows-per-shard",
        type=click.IntRange(min=1),
        default=1024,
        show_default=True,
        help="Rows of a shard: the unit of work that is written completely or not at all.",
    ),
)
_JOB = (
    click.option("--output", "-o", metavar="DIR", help="Directory or URL of the dataset to write."),
    click.option("--engine", type=click.Choice(ENGINES), default="beam", show_default=True),
    click.option(
        "--if-exists",
        type=click.Choice(get_args(IfExists)),
        help="If there is a dataset: refuse it; replace it when the new one is complete; resume its job; or replace "
        "only one that is unfinished. [default: fail]",
    ),
    click.option("--overwrite", is_flag=True, help="The same as --if-exists replace."),
    click.option("--resume", is_flag=True, help="The same as --if-exists resume: do only what is missing."),
    click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing."),
    click.option(
        "--id",
        "ids",
        type=click.Choice(["absolute", "relative"]),
        default="absolute",
        show_default=True,
        help="Ids of files, and of rows without one: paths, or relative to the input, which may move.",
    ),
    *_ROWS,
    click.option("--fail-fast", is_flag=True, help="End the job at the first failure."),
    click.option("--max-failures", default=None, metavar="N|N%", help="End with code 1 if more rows than this failed."),
    *_RUNNING,
    click.option("--metrics", metavar="FILE", help="Keep this file up to date with the job's numbers, for Prometheus."),
    click.option("--metrics-port", type=click.IntRange(1, 65535), help="Serve them on this port while the job runs."),
    click.option(
        "--metrics-address",
        default="127.0.0.1",
        show_default=True,
        help="Interface to serve them on; 0.0.0.0 is all, for a Prometheus on another machine.",
    ),
)
_READING = (
    click.option(
        "--column",
        "columns",
        multiple=True,
        metavar="NAME=KIND",
        help="Work on this column (text, image or audio) of rows; may be repeated.",
    ),
    click.option("--text-column", help="Column or field with a document's text."),
    click.option("--uri-column", help="Column or field with a document's URI."),
    click.option("--image-column", help="Column with a document's encoded image."),
    click.option("--audio-column", help="Column with a document's audio: encoded, or samples and their rate."),
    click.option(
        "--access-paths", default="@r", show_default=True, help="Which documents of a tree: @r, @m, @c, @r,m …"
    ),
)
_FORMAT = click.option("--format", type=click.Choice(["parquet", "jsonl"]), default="parquet", show_default=True)
_EMBEDDING = (
    click.option(
        "--format",
        type=click.Choice(["parquet", "jsonl", "clip-retrieval", "lance", "webdataset"]),
        default="parquet",
        show_default=True,
        help="Format of the output; clip-retrieval is its layout of .npy and Parquet files, and needs --normalize; "
        "webdataset is tars with a .npy file beside each sample.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "float16"]),
        help="Type of the vectors' values. [default: float32; float16 with --format clip-retrieval]",
    ),
    click.option(
        "--fuse",
        multiple=True,
        metavar="NAME=COLUMN:WEIGHT,…",
        help="Add a column of one vector of several columns, such as embedding=photo:0.7,caption:0.3; may be repeated.",
    ),
    click.option(
        "--keep-parts/--no-keep-parts",
        default=True,
        show_default=True,
        help="Whether columns that are fused have a column of their own vectors, too.",
    ),
    click.option(
        "--head",
        "heads",
        multiple=True,
        metavar="NAME=FILE",
        help="Add a column of scores of a linear head, such as aesthetic=weights.pth, or aesthetic:photo=weights.pth "
        "if there are several vectors; may be repeated.",
    ),
)
_SCORING = (
    click.option("--top-k", type=click.IntRange(min=1), help="How many of the best are kept."),
    click.option("--scale", metavar="N|model", help="What cosines are multiplied by for the softmax. [default: 100]"),
    click.option(
        "--score",
        type=click.Choice(get_args(Score)),
        default="softmax",
        show_default=True,
        help="What clip_score is: the softmax over all, or the sigmoid of each alone, as SigLIP's models learnt it.",
    ),
    _FORMAT,
)


def running_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of Spark, and of what is printed."""
    return with_options(_RUNNING, command)


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every job: output, engine, failures."""
    return with_options(_JOB, command)


def row_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of jobs that say what is kept of a row, and how many make a shard."""
    return with_options(_ROWS, command)


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name columns."""
    return with_options(_READING, command)


def embedding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which vectors and scores `embed` writes, and in which format."""
    return with_options(_EMBEDDING, command)


def scoring_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of scores."""
    return with_options(_SCORING, command)


def format_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option of the format of rows."""
    return _FORMAT(command)


class FiniteRange(click.FloatRange):
    """A range of numbers, without NaN and infinities, which are in every open range of click."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def with_options(options: tuple[Callable[..., Any], ...], command: Callable[..., Any]) -> Callable[..., Any]:
    """Add options to a command, in this order."""
    for option in reversed(options):
        command = option(command)
    return command


def own_flags(context: click.Context) -> list[str]:
    """Return the flags of a command, for hints."""
    return [flag for parameter in context.command.params for flag in parameter.opts if flag.startswith("--")]


def unchecked_of(context: click.Context) -> tuple[str, ...]:
    """Return the arguments after `--`."""
    return tuple(context.find_root().meta.get(PASSED_UNCHECKED, ()))


def check_engine(values: Mapping[str, Any], unchecked: Sequence[str]) -> None:
    """Refuse options of another engine than the chosen one, and settings of Spark that are none.

    Args:
        values: The command's options.
        unchecked: What followed `--`.

    Raises:
        click.UsageError: Naming the first one.
    """
    for name in ("master", "remote", "conf"):
        if values[name] and values["engine"] != "spark":
            raise click.UsageError(f"--{name} is an option of --engine spark")
    if unchecked and values["engine"] != "beam":
        raise click.UsageError("options after '--' go to Beam; Spark's are --master, --remote and --conf KEY=VALUE")
    for pair in values["conf"]:
        if "=" not in pair:
            raise click.UsageError(f"--conf {pair!r} is not of the form KEY=VALUE")


def refuse_others(context: click.Context, allowed: set[str], why: str, *, but_spec: bool = True) -> None:
    """Refuse options that would have no effect: those outside `allowed`, and unless `but_spec` those of the spec."""
    fields = [field.name for field in dataclasses.fields(EncoderSpec)] if but_spec else []
    allowed = {*allowed, "tokens", *fields}
    for parameter in context.command.params:
        given = context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
        if given and parameter.name not in allowed:
            raise click.UsageError(f"{parameter.opts[0]} has no effect {why}")


def refuse_unknown(tokens: tuple[str, ...]) -> None:
    """Raise `click.UsageError` for an unknown option if no engine can use it."""
    if unknown := next((token for token in tokens if token.startswith("-")), None):
        hint = renamed_flag(unknown)
        raise click.UsageError(f"no such option: {unknown}" + (f"; it is called {hint} here" if hint else ""))


def spec_options(command: Callable[..., Any], *, defaults: Mapping[str, str] | None = None) -> Callable[..., Any]:
    """Add a flag for every field of the spec; only given flags arrive as keywords.

    `defaults` has what the help says of fields for which the command has another default than the spec.
    """
    defaults = defaults or {}
    hints = typing.get_type_hints(EncoderSpec)
    for field in reversed(dataclasses.fields(EncoderSpec)):
        flag = "--" + field.name.replace("_", "-")
        described = _help(field.name, defaults.get(field.name, field.default))
        settings: dict[str, Any] = {"default": None, "help": described, "show_default": False}
        if hints[field.name] is bool:
            flag = f"{flag}/--no-{flag[2:]}"
        elif field.name in _LISTS:
            settings["metavar"] = "A,B,…"
        elif int in typing.get_args(hints[field.name]) or hints[field.name] is int:
            settings["type"] = int
        elif hints[field.name] is float:
            settings["type"] = float
        command = click.option(flag, field.name, **settings)(command)
    return command


def spec_from(values: dict[str, Any]) -> EncoderSpec:
    """Remove the spec's fields from a command's values, and return the spec."""
    return EncoderSpec(**spec_fields(values))


def spec_fields(values: dict[str, Any]) -> dict[str, Any]:
    """Remove the spec's fields from a command's values, and return those that were given."""
    names = [field.name for field in dataclasses.fields(EncoderSpec)]
    given = {name: values.pop(name) for name in names if name in values}
    given = {name: value for name, value in given.items() if value is not None}
    return {name: tuple(value.split(",")) if name in _LISTS else value for name, value in given.items()}


def renamed_flag(token: str) -> str | None:
    """Return the flag to use instead of one that clip-as-service's option would suggest, or None."""
    name = token.lstrip("-").partition("=")[0].replace("-", "_")
    return "--" + RENAMED[name].replace("_", "-") if name in RENAMED else None


def _help(name: str, default: Any) -> str:
    text = descriptions()[name]
    return f"{text} [default: {','.join(default) or 'none' if isinstance(default, tuple) else default}]"
