"""Runs the shards of a job on an engine, and selects the options that are passed to it."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..datasets.inputs.shards import Shard
from ..errors import ClipmillError, noted_message
from ..files.processes import meaning_of_exit
from ..messages import Message, parts_of
from . import console
from .interrupts import end_at_once, interrupt_behind
from .limits import memory_error
from .options import renamed_flag
from .spark_session import open_session

if TYPE_CHECKING:
    from ..jobs.job import Job

_log = logging.getLogger("clipmill")

LOCAL_RUNNER = "FnApiRunner"
"""The runner if none is given: Beam's default may download another one, and ignores worker options.

Older versions of Beam don't know this short name, and so they are never asked to.
"""

_WORKER_DIED = "Worker subprocess exited with return code"
"""The start of the message of Beam's local runner about a worker process that ended with an error."""
_MISSING_MODULE = {
    "Beam": "the workers' Python does not have it: install it there, or send it with --setup_file or a container",
    "Spark": "the workers' Python does not have it: install it there, name an interpreter that has it with --conf "
    "spark.pyspark.python=…, or send an environment with --conf spark.archives=…",
}
_SECONDS_TO_END = 5.0
_READER = "wait_until_finish_read"
"""Beam's thread that reads the messages of a portable runner."""


def split_engine_options(engine: str, tokens: Sequence[str], known_flags: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate inputs from options of the engine; `known_flags` are the command's own, for the hint.

    Beam itself would drop a misspelt option with a warning and run; here it is an error.
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
    """Return a parser of all of Beam's options, as Beam itself builds it."""
    from apache_beam.options.pipeline_options import PipelineOptions

    from ..transforms import shards as _  # noqa: F401 - fails with the command that installs Beam

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        with contextlib.suppress(argparse.ArgumentError):  # several subclasses may define one option
            options._add_argparse_args(parser)  # type: ignore[arg-type]  # Beam's own parser differs in messages
    return parser


def run_beam(shards: Sequence[Shard], job: Job, options: Sequence[str]) -> None:
    """Run shards as a Beam job; raise `ClipmillError` with the reason of a failure."""
    from ..transforms import EmbedShards

    with beam_shards(shards, options) as each:
        _ = each | EmbedShards(job)


@contextlib.contextmanager
def beam_shards(
    shards: Sequence[Any], options: Sequence[str], *, again: str = "with --resume does what is missing"
) -> Iterator[Any]:
    """Yield the shards of a job as a PCollection; the pipeline runs at the end of the block.

    `shards` is a list that pickles to its address, as `start_job` returns it: the graph has no shard.
    `again` says, for the message, what the same command does after a worker died.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

    from ..transforms.stored_items import StoredItems

    flags = list(options)
    runner = None
    given = PipelineOptions(flags).view_as(StandardOptions).runner
    if given in (None, LOCAL_RUNNER):
        flags.append(f"--runner={LOCAL_RUNNER}")
        runner = _local_runner()
        if not logging.getLogger("clipmill").isEnabledFor(logging.INFO):
            # its workers log every error with its stack; clipmill prints it in one line
            logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    with (
        _failing_as("Beam"),
        _ending_with_workers(again),
        beam.Pipeline(runner=runner, options=PipelineOptions(flags)) as pipeline,
    ):
        yield pipeline | "Shards" >> StoredItems(shards)


def _local_runner() -> Any:
    """Return Beam's local runner, with worker processes that ignore Ctrl-C: the command ends them itself.

    A terminal sends it to all processes of the command, and each worker would print a traceback.
    """
    from apache_beam.portability import python_urns
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

    class LocalRunner(FnApiRunner):
        def run_via_runner_api(self, pipeline_proto: Any, options: Any) -> Any:
            for environment in pipeline_proto.components.environments.values():
                if environment.urn == python_urns.SUBPROCESS_SDK:
                    environment.payload = b"trap '' INT; exec " + environment.payload
            return super().run_via_runner_api(pipeline_proto, options)

    return LocalRunner()


def run_spark(
    shards: Sequence[Shard], job: Job, *, master: str | None, remote: str | None, conf: Sequence[str]
) -> None:
    """Run shards as a Spark job; raise `ClipmillError` with the reason of a failure."""
    from ..udfs import embed_shards

    with spark_session(master, remote, conf) as spark:
        embed_shards(spark, shards, job)


@contextlib.contextmanager
def spark_session(master: str | None, remote: str | None, conf: Sequence[str]) -> Iterator[Any]:
    """Yield a Spark session, and stop it unless it existed before; raise `ClipmillError` if the block fails."""
    with _failing_as("Spark"), open_session(master, remote, conf) as spark:
        yield spark


@contextlib.contextmanager
def _ending_with_workers(again: str) -> Iterator[None]:
    """End this process if a worker process of Beam's local runner dies, because the runner would wait forever.

    The runner has a thread for each of its workers that raises when the worker ended with an error, and nobody but
    this looks at what it raised. A job that ends by itself soon after is left alone: its workers were told to go.
    """
    ended = threading.Event()
    usual = threading.excepthook

    def look(raised: threading.ExceptHookArgs) -> None:
        said = str(raised.exc_value)
        if raised.exc_type is RuntimeError and said.startswith(_WORKER_DIED):
            code = said.removeprefix(_WORKER_DIED).strip()
            threading.Thread(target=_end_unless, args=(ended, code, again), daemon=True).start()
        elif _is_of_grpc(raised.exc_type):  # the other side is dead: pages without information
            _log.info("thread %s of Beam ended: %r", raised.thread and raised.thread.name, raised.exc_value)
        else:
            usual(raised)

    threading.excepthook = look
    try:
        yield
    finally:
        ended.set()
        for thread in threading.enumerate():
            if thread.name == _READER:  # it ends with an error of gRPC, a moment after the job
                thread.join(_SECONDS_TO_END)
        threading.excepthook = usual


def _end_unless(ended: threading.Event, code: str, again: str) -> None:
    if ended.wait(_SECONDS_TO_END):
        return
    console.err.show_cursor(True)  # a progress bar has hidden it
    console.say(
        f"Error: a worker process died ({_meaning(code)}), and this runner cannot continue without it; the same "
        f"command {again}"
    )
    end_at_once(1)  # the main thread waits for that worker, and nothing wakes it


def _meaning(code: str) -> str:
    """Return what an exit code means, as Beam prints it."""
    return meaning_of_exit(int(code)) if code.lstrip("-").isdigit() else f"exit code {code}"


@contextlib.contextmanager
def _failing_as(engine: str) -> Iterator[None]:
    """Return the line of an engine's stack of errors that has the reason."""
    try:
        yield
    except ClipmillError as err:
        err.args = tuple(_own_words(said) if isinstance(said, str) else said for said in err.args)
        raise
    except Exception as err:
        if (interrupt := interrupt_behind(err)) is not None:
            raise interrupt from None
        cause = _spark_death(err) or _beam_death(err) or noted_message(str(err)) or root_cause(err)
        if (of_memory := memory_error(Exception(_own_words(cause)), f"the {engine} job failed: ")) is not None:
            raise of_memory from err
        if "KeyboardInterrupt" in cause:
            raise KeyboardInterrupt from err
        said = f"the {engine} job failed: " + _own_words(cause)
        raise ClipmillError(
            said, hint=_MISSING_MODULE[engine] if cause.startswith("ModuleNotFoundError") else None
        ) from err


def _own_words(said: str) -> Message:
    """Return a message without the step that Beam appends, and without clipmill's own class in front."""
    ours = re.compile(r"^clipmill\.[\w.]+: | \[while running '.*?'\]")
    return Message(*(ours.sub("", one) if isinstance(one, str) else one for one in parts_of(said)))


def _spark_death(error: BaseException) -> str | None:
    """Return which process of Spark died, if any; Spark itself prints a stack, or a refused connection."""
    if "Python worker exited unexpectedly" in str(error):
        return "a worker process died: perhaps the machine ran out of memory"
    if isinstance(error, ConnectionError) or type(error).__name__ == "Py4JNetworkError":
        return f"Spark's own process died, or cannot be reached ({error})"
    return None


def _beam_death(error: BaseException) -> str | None:
    """Return that the server of a portable runner died, if it did; gRPC itself says little on many lines."""
    if type(error).__name__ == "FutureTimeoutError":
        return "no server of the runner answered in time: is it there, at the address of --job_endpoint?"
    if not _is_of_grpc(type(error)):
        return None
    lines = [line.strip() for line in str(error).splitlines()]
    details = next((line.removeprefix("details = ").strip('"') for line in lines if line.startswith("details = ")), "")
    return f"the server of the runner ended, or cannot be reached ({details or type(error).__name__})"


def _is_of_grpc(kind: type[BaseException]) -> bool:
    """Return whether an error is one of gRPC, which Spark Connect uses too, and which need not be installed."""
    return any(one.__name__ == "RpcError" for one in kind.__mro__)


def root_cause(error: BaseException) -> str:
    """Return the last line of a worker's own traceback inside an engine's message, or the message's first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if _is_cause(line)]
    return (causes[-1] if causes else lines[0] if lines else type(error).__name__)[:1000]


def _is_cause(line: str) -> bool:
    name, colon, _ = line.partition(":")
    return line == MemoryError.__name__ or (
        bool(colon) and name.split(".")[-1].endswith(("Error", "Exception")) and " " not in name
    )
