"""Writers of the files of a shard, its vectors and its keys; each file is published atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..datasets.tables.schemas import in_columns
from ..files.file_systems import dataset_errors, is_local
from ..files.folder import Folder
from ..files.parquet import parquet_writer
from .keys import ROW_GROUP_ROWS


class VectorFile:
    """Writes a `.npy` file whose number of rows is known at the end; publishes it atomically."""

    _HEADER = 128

    def __init__(self, folder: Folder, name: str, dim: int, dtype: str) -> None:
        """Remember what is written; the file is created when the block is entered."""
        self.rows = 0
        self._folder = folder
        self._name = name
        self._dim = dim
        self._dtype = np.dtype(dtype)
        self._temporary: Path | None = None
        self._file: Any = None

    def __enter__(self) -> VectorFile:
        self._temporary = temporary_of(self._folder, self._name)
        with dataset_errors("write", f"{self._folder.url}/{self._name}"):
            self._file = self._temporary.open("wb")
            self._file.write(b"\0" * self._HEADER)
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)

    def write(self, vectors: np.ndarray) -> None:
        """Add rows, (n, dim) float32."""
        with dataset_errors("write", f"{self._folder.url}/{self._name}"):
            self._file.write(np.ascontiguousarray(vectors, self._dtype).data)
        self.rows += len(vectors)

    def commit(self) -> int:
        """Publish the file and return its size."""
        assert self._temporary is not None
        with dataset_errors("write", f"{self._folder.url}/{self._name}"):
            self._file.seek(0)
            self._file.write(_header(self.rows, self._dim, self._dtype, self._HEADER))
            self._file.close()
        return self._folder.publish(self._temporary, self._name)


def _header(rows: int, dim: int, dtype: np.dtype, length: int) -> bytes:
    """Return the header of a `.npy` file of version 1.0, padded with spaces to a length."""
    text = f"{{'descr': {dtype.str!r}, 'fortran_order': False, 'shape': ({rows}, {dim}), }}"
    magic = np.lib.format.magic(1, 0)
    inside = length - len(magic) - 2
    return magic + inside.to_bytes(2, "little") + text.ljust(inside - 1).encode("latin1") + b"\n"


class KeyFile:
    """Writes the keys of a shard in small row groups, to read a few rows fast; publishes the file atomically."""

    def __init__(self, folder: Folder, name: str, schema: pa.Schema) -> None:
        """Remember what is written; the file is created when the block is entered."""
        self._folder = folder
        self._name = name
        self._schema = schema
        self._held: list[pa.Table] = []
        self._rows = 0
        self._temporary: Path | None = None
        self._writer: Any = None

    def __enter__(self) -> KeyFile:
        self._temporary = temporary_of(self._folder, self._name)
        with dataset_errors("write", f"{self._folder.url}/{self._name}"):
            self._writer = parquet_writer(str(self._temporary), self._schema)
        return self

    def __exit__(self, *raised: object) -> None:
        self._writer.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; columns that they lack become null."""
        self._held.append(in_columns(batch, self._schema, batch.num_rows))
        self._rows += batch.num_rows
        if self._rows >= ROW_GROUP_ROWS:
            whole = self._rows // ROW_GROUP_ROWS * ROW_GROUP_ROWS
            table = pa.concat_tables(self._held)
            self._flush(table.slice(0, whole))
            self._held = [table.slice(whole)]
            self._rows -= whole

    def _flush(self, table: pa.Table) -> None:
        with dataset_errors("write", f"{self._folder.url}/{self._name}"):
            self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)

    def commit(self) -> int:
        """Publish the file and return its size."""
        assert self._temporary is not None
        if self._rows:
            self._flush(pa.concat_tables(self._held))
        with dataset_errors("write", f"{self._folder.url}/{self._name}"):
            self._writer.close()
        return self._folder.publish(self._temporary, self._name)


def temporary_of(folder: Folder, name: str) -> Path:
    """Return a new local path for a file that `folder.publish` then moves; in a local index, in the file's folder."""
    found = folder.temporary(name)
    if not is_local(folder.fs):
        return found
    return Path(folder.at(name)).parent / found.name
