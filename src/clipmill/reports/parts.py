"""The Parquet files of a dataset, read in small batches: whole, or only where certain rows are."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from ..datasets.dataset_rows import parquet_paths
from ..errors import DatasetError
from ..files.file_systems import is_local, reason_of, url_of
from ..files.parquet import parquet_file

_BATCH_ROWS = 256
"""Rows of 1,024 float32 are then 1 MB."""
_READERS = 8
"""Footers that are read together: mostly waiting for object stores."""


@dataclasses.dataclass(frozen=True, slots=True)
class PartFile:
    """One file.

    Attributes:
        groups: Rows of each of its row groups.
    """

    path: str
    groups: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return sum(self.groups)


@dataclasses.dataclass
class Parts:
    """The files of a dataset.

    Attributes:
        fs: Their fsspec file system.
        schema: Columns of the first one.
        parts: Those that can be read, by name.
        unreadable: Reasons for unreadable files, by path; damage found during reading is added.
    """

    fs: Any
    schema: pa.Schema
    parts: list[PartFile]
    unreadable: dict[str, str]

    @property
    def rows(self) -> int:
        """Rows of all files that can be read."""
        return sum(part.rows for part in self.parts)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield all rows, some at a time, with these columns; columns that a file lacks are left out of its batches."""
        for part in self.parts:
            with self._noting(part), self._open(part) as file:
                yield from file.iter_batches(_BATCH_ROWS, columns=list(columns))

    def take(
        self, positions: np.ndarray, columns: Sequence[str], batch_rows: int = _BATCH_ROWS
    ) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Yield certain rows, some at a time, reading only the row groups in which they are.

        Args:
            positions: (n,) int64, ascending: numbers of rows, over all files.
            columns: Columns of the batches; those that a file lacks are left out of its batches.
            batch_rows: How many rows are decoded at once.

        Yields:
            Positions, and the batch of their rows.
        """
        start = 0
        for part in self.parts:
            inside = positions[np.searchsorted(positions, start) : np.searchsorted(positions, start + part.rows)]
            if inside.size:
                with self._noting(part):
                    yield from self._take_of(part, start, inside, columns, batch_rows)
            start += part.rows

    def _take_of(
        self, part: PartFile, start: int, positions: np.ndarray, columns: Sequence[str], batch_rows: int
    ) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        with self._open(part) as file:
            for group, rows in enumerate(part.groups):
                inside = positions[np.searchsorted(positions, start) : np.searchsorted(positions, start + rows)]
                at = start
                start += rows
                if not inside.size:
                    continue
                for batch in file.iter_batches(batch_rows, row_groups=[group], columns=list(columns)):
                    found = inside[(inside >= at) & (inside < at + batch.num_rows)]
                    if found.size:
                        yield found, batch.take(pa.array(found - at))
                    at += batch.num_rows

    @contextlib.contextmanager
    def _open(self, part: PartFile) -> Iterator[Any]:
        with open_part(self.fs, part.path) as source, parquet_file(source) as file:
            yield file

    @contextlib.contextmanager
    def _noting(self, part: PartFile) -> Iterator[None]:
        """Record that a file is damaged, and continue with the next."""
        try:
            yield
        except (OSError, pa.ArrowException) as err:
            self.unreadable.setdefault(url_of(self.fs, part.path), reason_of(err)[:300])


@contextlib.contextmanager
def open_part(file_system: Any, path: str) -> Iterator[Any]:
    """Open a file of a dataset for pyarrow."""
    if is_local(file_system):
        with pa.OSFile(path) as local:
            yield local
    else:
        with file_system.open(path, "rb") as remote:
            yield remote


def open_parts(location: str) -> Parts:
    """Find the Parquet files of a dataset and read their footers, no rows.

    Args:
        location: Path or URL of a file, or of a directory.

    Raises:
        DatasetError: If there is nothing, no Parquet file in it, or none that can be read.
    """
    import pyarrow.parquet as pq

    folder, paths = parquet_paths(location)

    def look(path: str) -> tuple[PartFile | None, pa.Schema | str]:
        try:
            with open_part(folder.fs, path) as source:
                footer = pq.read_metadata(source)
            groups = tuple(footer.row_group(number).num_rows for number in range(footer.num_row_groups))
            return PartFile(path, groups), footer.schema.to_arrow_schema()
        except (OSError, pa.ArrowException) as err:
            return None, str(err)[:300]

    parts: list[PartFile] = []
    unreadable: dict[str, str] = {}
    schema: pa.Schema | None = None
    with ThreadPoolExecutor(_READERS) as pool:
        for path, (part, found) in zip(paths, pool.map(look, paths), strict=True):
            if part is None:
                unreadable[url_of(folder.fs, path)] = str(found)
                continue
            parts.append(part)
            schema = schema if schema is not None else found
    if schema is None:
        path, why = next(iter(unreadable.items()))
        raise DatasetError(f"{location}: no Parquet file in it can be read; {path}: {why}")
    return Parts(folder.fs, schema, parts, unreadable)
