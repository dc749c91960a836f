"""The directory of a dataset: made, described, finished and read.

    part-<shard>.parquet            rows with vectors
    _failures/part-<shard>.jsonl    one line for each value that failed
    _manifest/part-<shard>.json     what became of a shard; written last, so that a shard with one is whole
    _job.json                       what made the dataset; written first
    _SUCCESS                        written when every shard is there

Spark and pyarrow ignore names that begin with `_`: the directory reads as an ordinary Parquet dataset.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa


@dataclasses.dataclass(frozen=True, slots=True)
class DatasetSummary:
    """What became of a job, summed over the manifests of its shards.

    Attributes:
        rows: Rows in the Parquet files.
        embedded: Values embedded; a row with two columns has two.
        failed: Values that failed, by reason code.
        nulls: Values that were null.
        truncated_texts: Texts cut to the context length.
        seconds: Seconds of work, summed over shards.
        shards: Shards that are finished.
        loads: Models loaded, summed over processes.
        processes: Processes that worked.
        resolved: What workers decided at load (runtime, precision, device, weights' sha256), each different one once.
        complete: Whether every shard is there and the job was finished.
    """

    rows: int = 0
    embedded: int = 0
    failed: dict[str, int] = dataclasses.field(default_factory=dict)
    nulls: int = 0
    truncated_texts: int = 0
    seconds: float = 0.0
    shards: int = 0
    loads: int = 0
    processes: int = 0
    resolved: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    complete: bool = False


def prepare_directory(directory: str, *, overwrite: bool = False) -> None:
    """Make a directory ready for a new dataset.

    Raises:
        DatasetError: If it holds something and `overwrite` is False, holds strangers' files, or cannot be written.
    """
    raise NotImplementedError


def write_job(directory: str, description: Mapping[str, Any], *, shards: int | None = None) -> None:
    """Write `_job.json`: what makes the dataset, as plain values, and how many shards it will have if that is known."""
    raise NotImplementedError


def finish_job(directory: str) -> DatasetSummary:
    """Write `_SUCCESS` and return the summary.

    Raises:
        DatasetError: If shards are missing.
    """
    raise NotImplementedError


def summarise(directory: str) -> DatasetSummary:
    """Sum up the manifests of a dataset, finished or not."""
    raise NotImplementedError


def read_failures(directory: str) -> Iterator[dict[str, Any]]:
    """Yield the failures of a dataset, by shard."""
    raise NotImplementedError


def read_dataset(directory: str) -> pa.Table:
    """Read all rows of a dataset into memory, by shard."""
    raise NotImplementedError
