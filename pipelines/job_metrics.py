"""`--metrics` and `--metrics-port`: the metrics of a job for Prometheus, while it runs and at its end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from ..datasets.inputs.listing import is_matched
from ..datasets.inputs.shards import Shard
from ..errors import DatasetError
from ..files.file_systems import check_local_path, is_local, open_location
from ..jobs.job_counts import JobCounts
from ..metrics.prometheus_text import MetricsFile, check_installed, serve_metrics

_START = b"# HELP clipmill_"
"""The first characters of a metrics file."""


def check_metrics_file(given: str | None) -> None:
    """Raise `click.UsageError` for a value that is not a local file."""
    if given is not None and "://" in given:
        raise click.UsageError(f"--metrics {given!r} is no file of this machine; give a path, such as clipmill.prom")
    if given is not None:
        check_local_path(given)


@contextlib.contextmanager
def exported(
    counts: JobCounts,
    directory: str,
    *,
    file: str | None,
    port: int | None,
    address: str,
    inputs: Sequence[str],
    shards: Sequence[Shard],
) -> Iterator[Callable[[], None]]:
    """Write and serve the metrics of a job during the block. At its end, the file has all numbers, also after an error.

    `file` and `port` are None for nowhere. The file must be none of `shards`, and must not lie in `inputs`.

    Yields:
        A function to be called when the directory is the job's: counting starts, and the file is written for the first
        time. Without that call a file of an earlier job stays as it was.

    Raises:
        DatasetError: If the file cannot be written there, or the port is taken.
    """
    labels = {"dataset": directory}
    with contextlib.ExitStack() as stack:
        if port is not None:
            check_installed("--metrics-port")
            try:
                stack.enter_context(serve_metrics(port, address=address, source=counts.counts, labels=labels))
            except OSError as err:
                what = f"--metrics-port {port} of {address} cannot be had"
                raise DatasetError(f"{what}: {err.strerror}; choose another port or address") from err
        kept = None
        if file is not None:
            check_installed("--metrics")
            with _file_errors(file):
                place = _place_of(file, directory, inputs, shards)
                kept = MetricsFile(place, source=counts.counts, labels=labels)
                kept.check()

        def start() -> None:
            counts.start()
            if file is not None and kept is not None:
                with _file_errors(file):
                    stack.enter_context(kept)
                stack.callback(_look_again, counts)  # before the last write of the file

        yield start


@contextlib.contextmanager
def _file_errors(file: str) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeError) as err:
        raise DatasetError(f"--metrics {file} cannot be written: {getattr(err, 'strerror', None) or err}") from err


def _place_of(file: str, directory: str, inputs: Sequence[str], shards: Sequence[Shard]) -> str:
    """Return the path of a metrics file with links resolved, so that a link is not replaced by a file.

    Raises:
        DatasetError: If something of the user's would be lost, or the file would be read as input.
        OSError: If what stands there cannot be read.
    """
    place = os.path.realpath(file)
    if os.path.exists(file) and not os.path.isfile(file):
        raise DatasetError(f"--metrics {file} is no regular file; give the path of a file, such as clipmill.prom")
    if _holds(directory, place):
        raise DatasetError(f"--metrics {file} lies in the output {directory}, which holds nothing else")
    if _is_input(place, shards):
        raise DatasetError(f"--metrics {file} is a file of the input, which would be lost; choose another path")
    if folder := next((given for given in inputs if _holds(given, place)), None):
        raise DatasetError(
            f"--metrics {file} lies in the input folder {folder}; the next job would read it as input; choose another "
            "path"
        )
    paths = (place, os.path.abspath(file))
    if glob := next((given for given in inputs for path in paths if is_matched(given, path)), None):
        raise DatasetError(
            f"--metrics {file} matches the input {glob!r}; the next job would read it as input; choose another path"
        )
    if os.path.exists(place) and not _may_be_replaced(place):
        raise DatasetError(
            f"--metrics {file} is there and holds no metrics of clipmill, so it is not overwritten; choose another path"
        )
    return place


def _holds(location: str, place: str) -> bool:
    """Return whether a path is a local folder, existing or not, that contains a place."""
    file_system, path = open_location(location)
    return is_local(file_system) and Path(place).is_relative_to(os.path.realpath(path))


def _is_input(place: str, shards: Sequence[Shard]) -> bool:
    """Return whether a path is an input file. Links are resolved for tables only, because there are few."""
    return any(
        path == place or (shard.kind != "files" and os.path.realpath(path) == place)
        for shard in shards
        for path in shard.paths
    )


def _may_be_replaced(place: str) -> bool:
    """Return whether a file is empty or a metrics file, and not this command's output (`/dev/stdout` may be a file)."""
    for stream in (1, 2):
        with contextlib.suppress(OSError):  # closed
            if os.path.samestat(os.stat(place), os.fstat(stream)):
                return False
    with open(place, "rb") as file:
        start = file.read(len(_START))
    return start in (b"", _START)


def _look_again(counts: JobCounts) -> None:
    with contextlib.suppress(DatasetError):  # the file is written anyway
        counts.counts(now=True)
