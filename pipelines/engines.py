"""Running a job's shards on an engine, and which of an engine's own options pass through."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..encoders.errors import ClipmillError
from ..encoders.storage.shards import Shard
from .options import renamed_flag

if TYPE_CHECKING:
    from ..encoders.storage.job import Job

_ERRORS_ONLY = """
rootLogger.level = error
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = spark: %m%n
"""
"""log4j for a local Spark whose user asked for a job and not for Spark's diary."""

ENGINES = ("beam", "spark")
LOCAL_RUNNER = "FnApiRunner"
"""Named wherever the runner is ours to choose: the default may download another one and ignores worker options."""


def split_engine_options(engine: str, tokens: Sequence[str], known_flags: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell inputs from options of the engine among what the command line did not know.

    Beam itself would drop a misspelt option with a warning and run; here it is an error.

    Args:
        engine: `beam` or `spark`.
        tokens: What is left of the command line.
        known_flags: The command's own flags, for the hint.

    Returns:
        Inputs, and options for the engine.

    Raises:
        click.UsageError: For an option that nobody knows, with the nearest that somebody does.
    """
    parser = _beam_parser() if engine == "beam" else argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _, rest = parser.parse_known_args(list(tokens))
    unknown = [token for token in rest if token.startswith("-") and token != "-"]
    if unknown:
        flags = [*known_flags, *(flag for action in parser._actions for flag in action.option_strings)]
        raise click.UsageError(_unknown_option(unknown[0], flags, engine))
    inputs = list(rest)
    options = list(tokens)
    for name in inputs:
        options.remove(name)
    return inputs, options


def _unknown_option(token: str, flags: Sequence[str], engine: str) -> str:
    name = token.partition("=")[0]
    if renamed := renamed_flag(name):
        return f"no such option: {name}; it is called {renamed} here"
    near = difflib.get_close_matches(name, [flag.split("/")[0] for flag in flags], n=1)
    hint = f"did you mean {near[0]}?" if near else f"options of {engine} that clipmill cannot check go after '--'"
    return f"no such option: {name}; {hint}"


def _beam_parser() -> argparse.ArgumentParser:
    """Return a parser of every option that this Beam knows, as Beam itself builds it."""
    from apache_beam.options.pipeline_options import PipelineOptions

    from ..transforms import shards as _  # noqa: F401 - fails with the command that installs Beam

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        with contextlib.suppress(argparse.ArgumentError):  # several subclasses may define one option
            options._add_argparse_args(parser)  # type: ignore[arg-type]  # Beam's own parser differs in messages
    return parser


def run_beam(shards: Sequence[Shard], job: Job, options: Sequence[str]) -> None:
    """Run shards as a Beam job and wait for its end.

    Raises:
        ClipmillError: If the job failed, with the first line that says why.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from ..transforms import EmbedShards

    flags = list(options)
    if not any(flag.partition("=")[0] == "--runner" for flag in flags):
        flags.append(f"--runner={LOCAL_RUNNER}")
        if not logging.getLogger("clipmill").isEnabledFor(logging.INFO):
            # its workers log every error with its stack before it reaches us, who say it in one line
            logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    with _failing_as("Beam"), beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
        # plain values travel: Beam would make a schema of a dataclass, and fails at its optional fields
        plain = pipeline | beam.Create([shard.as_dict() for shard in shards]) | beam.Reshuffle()
        _ = plain | beam.Map(Shard.from_dict).with_output_types(Any) | EmbedShards(job)


def run_spark(
    shards: Sequence[Shard], job: Job, *, master: str | None, remote: str | None, conf: Sequence[str]
) -> None:
    """Run shards as a Spark job and wait for its end.

    Raises:
        ClipmillError: If the job failed, with the first line that says why.
    """
    from ..udfs import embed_shards

    with _spark_session(master, remote, conf) as spark, _failing_as("Spark"):
        embed_shards(spark, shards, job)


@contextlib.contextmanager
def _spark_session(master: str | None, remote: str | None, conf: Sequence[str]) -> Iterator[Any]:
    from pyspark.sql import SparkSession

    from ..udfs import embed_shards as _  # noqa: F401 - fails with the command that installs Spark

    builder = SparkSession.builder.appName("clipmill embed")
    settings = dict(pair.split("=", 1) for pair in conf)
    with tempfile.TemporaryDirectory() as home:
        if remote:
            builder = builder.remote(remote)
        else:
            # local workers are started by name from PATH, which need not have this environment
            os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
            log4j = Path(home) / "log4j2.properties"
            log4j.write_text(_ERRORS_ONLY)
            builder = builder.master(master or "local[*]")
            settings = {
                "spark.ui.enabled": "false",
                "spark.ui.showConsoleProgress": "false",
                "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={log4j.as_uri()}",
            } | settings
        for name, value in settings.items():
            builder = builder.config(name, value)
        session = builder.getOrCreate()
        try:
            yield session
        finally:
            session.stop()


@contextlib.contextmanager
def _failing_as(engine: str) -> Iterator[None]:
    """Turn an engine's stack of wrapped errors into the one line that says why."""
    try:
        yield
    except ClipmillError:
        raise
    except Exception as err:
        raise ClipmillError(f"the {engine} job failed: {root_cause(err)}") from err


def root_cause(error: BaseException) -> str:
    """Return the last line of a worker's own traceback inside an engine's message, or the message's first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if _is_cause(line)]
    return (causes[-1] if causes else lines[0] if lines else type(error).__name__)[:1000]


def _is_cause(line: str) -> bool:
    name, colon, _ = line.partition(":")
    return bool(colon) and name.split(".")[-1].endswith(("Error", "Exception")) and " " not in name
