"""A shard from its input to its files: the one function that every engine distributes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..columns import ColumnPlan
from ..spec import EncoderSpec
from .shards import Shard


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """What is done with every shard; pickles to its fields. Made by `Job.of`.

    Attributes:
        spec: The encoder.
        directory: The dataset that is written.
        schema: Columns of its files.
        columns: Which columns of rows are embedded; None for documents.
        reader: Arguments of `read_documents`.
        access_paths: Which documents of a tree are embedded.
        keep_content: Whether documents keep `blob` and `tensor`.
        fail_fast: Whether the first failure ends the job.
    """

    spec: EncoderSpec
    directory: str
    schema: pa.Schema
    columns: ColumnPlan | None = None
    reader: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    access_paths: str = "@r"
    keep_content: bool = False
    fail_fast: bool = False

    @classmethod
    def of(
        cls,
        spec: EncoderSpec,
        directory: str,
        shards: Sequence[Shard],
        *,
        columns: Mapping[str, Any] | ColumnPlan | None = None,
        reader: Mapping[str, Any] | None = None,
        access_paths: str = "@r",
        keep_content: bool = False,
        tags: Mapping[str, pa.DataType] | None = None,
        drop: Sequence[str] = (),
        dtype: str = "float32",
        fail_fast: bool = False,
    ) -> Job:
        """Check what a user asked for and decide the columns of the output, on the driver, without weights."""
        raise NotImplementedError


def begin_job(
    job: Job,
    shards: Sequence[Shard],
    *,
    inputs: Sequence[str] = (),
    arguments: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Prepare the directory and write `_job.json`; once, on the driver, before any shard. `finish_job` ends it."""
    raise NotImplementedError


def embed_shard(shard: Shard, job: Job, *, cpus: int | None = None, exclusive: bool = False) -> dict[str, Any]:
    """Read a shard, embed it, write its files.

    Args:
        shard: What to read.
        job: What to do with it.
        cpus: Cores that this worker may use, where its engine knows better than the operating system.
        exclusive: See `load_encoder`.

    Returns:
        The manifest that was written.

    Raises:
        DatasetError: If the output cannot be written.
        WeightsError, DeviceError: If the encoder cannot be loaded.
    """
    raise NotImplementedError
