"""The metadata of an index: position i is row i of its files of keys."""

from __future__ import annotations

import collections
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..datasets.tables.column_types import as_type
from ..datasets.tables.schemas import in_columns
from ..errors import DatasetError, SpecError
from ..files.file_systems import dataset_errors
from ..files.parquet import parquet_file
from .manifest import Segment
from .source import READ_BYTES

ROW_GROUP_ROWS = 2048
"""Small, because a whole row group is read for one row."""
_FILES_HELD = 32
_ROWS_READ = 65_536


class KeyFiles:
    """Reads rows by position. Thread-safe.

    It holds the footers of the files, and row groups only while they are read.
    """

    def __init__(self, directory: str, segments: Sequence[Segment]) -> None:
        """Remember the files, in order of position; none is read before rows are requested."""
        self._directory = directory
        self._segments = tuple(segments)
        self._starts = np.cumsum([0, *(segment.rows for segment in segments)])
        self._files: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._schema: pa.Schema | None = None

    @property
    def schema(self) -> pa.Schema:
        """The columns of the newest file: it has all of them, since columns are only ever added."""
        if self._schema is None:
            with self._lock:
                self._schema = self._file(len(self._segments) - 1).schema_arrow.remove_metadata()
        return self._schema

    def rows(self, positions: np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows at positions, in their order; a position of -1 is a row of nulls: see `OpenIndex.rows`."""
        names = list(self.schema.names if columns is None else columns)
        for name in names:
            if name not in self.schema.names:
                raise SpecError(f"the index has no column {name!r}; it has {', '.join(map(repr, self.schema.names))}")
        schema = pa.schema([self.schema.field(name) for name in names])
        wanted = np.asarray(positions, np.int64)
        if wanted.size and (wanted.min() < -1 or wanted.max() >= self._starts[-1]):
            raise DatasetError(f"positions {wanted.min()} to {wanted.max()} of an index of {self._starts[-1]:,} rows")
        if not names:
            return pa.table({}, schema=schema)
        different, inverse = np.unique(wanted, return_inverse=True)
        tables = list(self._read(different, schema))
        return pa.concat_tables(tables).take(pa.array(inverse.reshape(-1))) if tables else schema.empty_table()

    def column(self, name: str) -> Iterator[pa.Array]:
        """Yield a column in pieces, in order of position; nulls for files that lack it."""
        kind = self.schema.field(name).type
        for segment in self._segments:
            path = f"{self._directory}/{segment.keys}"
            with dataset_errors("read", path), parquet_file(path, pre_buffer=False, buffer_size=READ_BYTES) as file:
                if name not in file.schema_arrow.names:
                    yield pa.nulls(segment.rows, kind)
                    continue
                for batch in file.iter_batches(_ROWS_READ, columns=[name]):
                    yield as_type(batch.column(0), kind)

    def _read(self, positions: np.ndarray, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield the rows at rising positions."""
        if len(positions) and positions[0] == -1:
            yield pa.table({field.name: pa.nulls(1, field.type) for field in schema}, schema=schema)
            positions = positions[1:]
        places = np.searchsorted(self._starts, positions, side="right") - 1
        for place in np.unique(places):
            local = positions[places == place] - self._starts[place]
            with self._lock, dataset_errors("read", f"{self._directory}/{self._segments[place].keys}"):
                yield from self._read_file(self._file(int(place)), local, schema)

    def _read_file(self, file: Any, local: np.ndarray, schema: pa.Schema) -> Iterator[pa.Table]:
        there = [name for name in schema.names if name in file.schema_arrow.names]
        groups = file.metadata
        starts = np.cumsum([0, *(groups.row_group(number).num_rows for number in range(groups.num_row_groups))])
        places = np.searchsorted(starts, local, side="right") - 1
        for number in np.unique(places):
            inner = pa.array(local[places == number] - starts[number])
            found = file.read_row_group(int(number), columns=there).take(inner) if there else pa.table({})
            yield in_columns(found, schema, len(inner))

    def _file(self, place: int) -> Any:
        """Return an open file; the caller holds the lock."""
        if place in self._files:
            self._files.move_to_end(place)
            return self._files[place]
        path = f"{self._directory}/{self._segments[place].keys}"
        with dataset_errors("read", path):
            self._files[place] = parquet_file(path, memory_map=True)
        if len(self._files) > _FILES_HELD:
            self._files.popitem(last=False)
        return self._files[place]
