"""`--metrics` and `--metrics-port`: a job's numbers for Prometheus, while it runs and as it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from ..encoders.errors import DatasetError
from ..encoders.exposition import MetricsFile, check_installed, serve_metrics
from ..encoders.storage.job_counts import JobCounts


def check_metrics_file(given: str | None) -> None:
    """Refuse what names no file of this machine.

    Raises:
        click.UsageError: With what is allowed.
    """
    if given is not None and "://" in given:
        raise click.UsageError(f"--metrics {given!r} is no file of this machine; give a path, such as clipmill.prom")


@contextlib.contextmanager
def exported(counts: JobCounts, directory: str, file: str | None, port: int | None) -> Iterator[None]:
    """Write and serve a job's numbers while the block runs; the file holds all of them when it ends, however it ends.

    Args:
        counts: The job's numbers.
        directory: Path or URL of the dataset, which all numbers carry as the label `dataset`.
        file: Where they are written; None for nowhere.
        port: Where they are served; None for nowhere.

    Raises:
        MissingExtraError: If `prometheus_client` is not installed.
        DatasetError: If the file cannot be written, or the port is taken.
    """
    labels = {"dataset": directory}
    with contextlib.ExitStack() as stack:
        if port is not None:
            check_installed("--metrics-port")
            try:
                stack.enter_context(serve_metrics(port, source=counts.counts, labels=labels))
            except OSError as err:
                raise DatasetError(f"--metrics-port {port} cannot be had: {err.strerror}; choose another port") from err
        if file is not None:
            check_installed("--metrics")
            if Path(file).absolute().is_relative_to(directory):
                raise DatasetError(f"--metrics {file} lies in the output {directory}, which holds nothing else")
            try:
                stack.enter_context(MetricsFile(file, source=counts.counts, labels=labels))
            except OSError as err:
                raise DatasetError(f"--metrics {file} cannot be written: {err.strerror}") from err
            stack.callback(_look_again, counts)  # called before the file is written for the last time
        yield


def _look_again(counts: JobCounts) -> None:
    with contextlib.suppress(DatasetError):  # the file is written all the same, and says what is wrong
        counts.counts(now=True)
