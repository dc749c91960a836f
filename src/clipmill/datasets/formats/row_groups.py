"""`RowGroups`: collects rows until they fill a row group, and writes them to a file."""

from __future__ import annotations

import pyarrow as pa

from ..tables.column_types import as_schema
from .base import Part

_ROW_GROUP_BYTES = 64 * 2**20


class RowGroups:
    """Rows on their way to a part: a row group has at most so many rows, and about 64 MiB.

    Attributes:
        part: The file that they are written to.
        rows: Rows that were written to it.
    """

    def __init__(self, part: Part, schema: pa.Schema, row_group_rows: int) -> None:
        """Start with an empty buffer."""
        self.part = part
        self.rows = 0
        self._schema = schema
        self._row_group_rows = row_group_rows
        self._buffer: list[pa.RecordBatch] = []
        self._buffered_rows = self._buffered_bytes = 0

    def add(self, batch: pa.RecordBatch) -> bool:
        """Buffer a batch; return whether the buffer is full, so that it must be flushed."""
        self._buffer.append(batch)
        self._buffered_rows += batch.num_rows
        self._buffered_bytes += batch.nbytes
        return self._buffered_rows >= self._row_group_rows or self._buffered_bytes >= _ROW_GROUP_BYTES

    def flush(self) -> None:
        """Write the buffered rows to the part."""
        if not self._buffer:
            return
        table = pa.Table.from_batches([batch.replace_schema_metadata(None) for batch in self._buffer])
        self.part.write_table(as_schema(table, self._schema))
        self.rows += self._buffered_rows
        self._buffer, self._buffered_rows, self._buffered_bytes = [], 0, 0
