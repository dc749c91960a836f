"""Writes clip-retrieval's layout: the arrays and the metadata of one shard, with the same rows in the same order."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from ...encoders.plans.row_values import MissingColumn, get_by_path
from ...errors import DatasetError
from ...files.folder import Folder
from ...files.json_text import json_text
from ...files.parquet import parquet_writer
from ..tables.column_types import TAGS, holds_bytes
from ..tables.provenance import read_provenance
from .base import CLIP_RETRIEVAL, Published, part_name
from .clip_retrieval import CAPTION, IMAGE_PATH, URL, Layout

_RENAMED_PREFIX = "source_"
"""Prefix of a column that has the name of one of clip-retrieval's columns and different content."""


class LayoutPart:
    """The files of one shard; see `base.Part`."""

    def __init__(self, folder: Folder, shard: str, schema: pa.Schema) -> None:
        """Open the files, under temporary names."""
        self._folder = folder
        self._layout = Layout.of(schema)
        self._metadata_schema, self._sources = _metadata_columns(schema, self._layout)
        self._names = [f"{name}/{name}_{shard}.npy" for name in self._layout.vectors.values()]
        self._names.append(part_name(shard, CLIP_RETRIEVAL))
        self._paths = {name: folder.temporary(name) for name in self._names}
        self._rows = 0
        self._arrays: dict[str, NpyWriter] = {}
        self._sink: pa.NativeFile | None = None
        self._metadata: Any = None
        try:
            self._open(schema)
        except BaseException:
            self.discard()
            raise

    def _open(self, schema: pa.Schema) -> None:
        provenance = read_provenance(schema)
        for (column, _), name in zip(self._layout.vectors.items(), self._names, strict=False):
            half = schema.field(column).type.value_type == pa.float16()
            dim = provenance.get(column, {}).get("dim")
            self._arrays[column] = NpyWriter(self._paths[name], "<f2" if half else "<f4", dim)
        self._sink = pa.OSFile(str(self.temporary), "wb")
        self._metadata = parquet_writer(self._sink, self._metadata_schema)

    @property
    def temporary(self) -> Path:
        """See `base.Part`."""
        return self._paths[self._names[-1]]

    def write_table(self, table: pa.Table) -> None:
        """See `base.Part`."""
        for column, writer in self._arrays.items():
            writer.write(table.column(column))
        self._metadata.write_table(_metadata_of(table, self._metadata_schema, self._sources))
        self._rows += table.num_rows

    def close(self) -> None:
        """See `base.Part`."""
        for writer in self._arrays.values():
            writer.close()
        self._metadata.close()
        if self._sink is not None:
            self._sink.close()

    def publish(self) -> Published:
        """See `base.Part`; without rows it publishes nothing, since readers would count rows wrongly at empty files."""
        if not self._rows:
            return Published({})
        files = {}
        for name, path in self._paths.items():
            self._folder.make(name.partition("/")[0])
            files[name] = self._folder.publish(path, name)
        return Published(files)

    def discard(self) -> None:
        """See `base.Part`."""
        if self._metadata is not None:
            with contextlib.suppress(Exception):
                self._metadata.close()
            self._metadata.is_open = False  # or its destructor tries again, when the disk is full or the file is gone
        for file in (*self._arrays.values(), self._sink):
            if file is not None:
                with contextlib.suppress(Exception):
                    file.close()
        for path in self._paths.values():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


class NpyWriter:
    """A numpy file that grows by rows; `close` rewrites its header, in which numpy reserves space for the row count."""

    def __init__(self, path: Path, dtype: str, dim: int | None) -> None:
        """Open the file for rows of `<f2` or `<f4`; a `dim` of None takes the number of values from the first row."""
        self._dtype = dtype
        self._dim = dim
        self._rows = 0
        self._file: IO[bytes] = path.open("wb")
        self._header(dim or 0)
        self._start = self._file.tell()

    def write(self, vectors: pa.ChunkedArray) -> None:
        """Add vectors; raise `DatasetError` if one is null, or has another length than the first."""
        for chunk in vectors.chunks:
            values = chunk.flatten().to_numpy(zero_copy_only=False)
            self._dim = self._dim or (len(values) // len(chunk) if len(chunk) else None)
            lengths = chunk.value_lengths().to_numpy(zero_copy_only=False)
            if chunk.null_count or (lengths != self._dim).any():
                raise DatasetError(
                    f"a vector is null or has another length; clip-retrieval's layout needs {self._dim} values in each"
                )
            self._file.write(np.ascontiguousarray(values, self._dtype).data)
            self._rows += len(chunk)

    def close(self) -> None:
        """Write the number of rows to the header and close the file; has no effect if it is closed."""
        if self._file.closed:
            return
        self._file.seek(0)
        self._header(self._dim or 0)
        if self._file.tell() != self._start:
            raise DatasetError(f"the header of {self._file.name} grew and would overwrite its first row")
        self._file.close()

    def _header(self, dim: int) -> None:
        header = {"descr": self._dtype, "fortran_order": False, "shape": (self._rows, dim)}
        np.lib.format.write_array_header_1_0(self._file, header)


# --- metadata --------------------------------------------------------------------------------------------------------


def _metadata_columns(schema: pa.Schema, layout: Layout) -> tuple[pa.Schema, dict[str, tuple[str, ...]]]:
    """Return the columns of the metadata, and the source paths of each in a row.

    First come clip-retrieval's own columns, `image_path`, `caption` and `url`, then all columns of the job that hold
    neither vectors nor bytes.
    """
    named = {IMAGE_PATH: layout.image_path, CAPTION: (layout.caption,), URL: (layout.url,)}
    sources: dict[str, tuple[str, ...]] = {
        name: tuple(path for path in paths if path)
        for name, paths in named.items()
        if any(paths) or (name == IMAGE_PATH and layout.image is not None)
    }
    fields = [pa.field(name, pa.string()) for name in sources]
    renamed = {path for name in (CAPTION, URL) for path in sources.get(name, ())} | (
        {IMAGE_PATH} & {*layout.image_path}
    )
    for field in schema:
        if field.name in layout.vectors or field.name in renamed or holds_bytes(field.type):
            continue
        name = f"{_RENAMED_PREFIX}{field.name}" if field.name in sources else field.name
        fields.append(pa.field(name, field.type, metadata=field.metadata))
        sources[name] = (field.name,)
    return pa.schema(fields), sources


def _metadata_of(table: pa.Table, schema: pa.Schema, sources: Mapping[str, tuple[str, ...]]) -> pa.Table:
    columns = []
    for field in schema:
        paths = sources[field.name]
        if len(paths) == 1 and paths[0] in table.column_names and table.schema.field(paths[0]).type == field.type:
            columns.append(table.column(paths[0]))
        else:
            columns.append(pa.array(_texts(table, paths), field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _texts(table: pa.Table, paths: tuple[str, ...]) -> list[str | None]:
    """Return for each row the first value of several paths that is not null, as a string."""
    if not paths:
        return [None] * table.num_rows
    heads = [path if path in table.column_names else path.split(".")[0] for path in paths]
    found: list[str | None] = []
    for row in table.select(list(dict.fromkeys(heads))).to_pylist():
        if isinstance(row.get(TAGS), str):
            with contextlib.suppress(ValueError):  # it may be a user's own column, which need not be JSON
                row[TAGS] = json.loads(row[TAGS])
        values = [_value(row, path) for path in paths]
        value = next((one for one in values if one is not None), None)
        found.append(value if value is None or isinstance(value, str) else json_text(value))
    return found


def _value(row: Mapping[str, Any], path: str) -> Any:
    try:
        return get_by_path(row, path)
    except MissingColumn:
        return None
