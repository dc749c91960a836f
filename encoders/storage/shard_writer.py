"""One shard of a dataset: its Parquet file, its failures and its manifest, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import pyarrow as pa


class ShardWriter:
    """Writes one shard; a context manager that leaves nothing behind unless `commit` was called.

    Raises:
        DatasetError: If the directory cannot be written or is full.
    """

    def __init__(self, directory: str, name: str, schema: pa.Schema, *, row_group_rows: int = 1024) -> None:
        """Say what is written where; nothing happens before the block is entered.

        Args:
            directory: Path or URL of the dataset.
            name: Name of the shard; its files are `part-<name>.…`.
            schema: Columns of every batch.
            row_group_rows: Rows in a row group, and held in memory.
        """
        raise NotImplementedError

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError

    def write(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Add rows."""
        raise NotImplementedError

    def fail(self, record: Mapping[str, Any]) -> None:
        """Add a failure: `Failure.as_dict()` and what a second try needs, as plain values."""
        raise NotImplementedError

    def commit(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Put the files in place: rows, failures, manifest last.

        Args:
            manifest: What to say about the shard, as plain values.

        Returns:
            The manifest as it was written, with `name`, `rows`, `failures` and `files` added.
        """
        raise NotImplementedError
