"""The rows of a dataset, or of any Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from ..errors import DatasetError
from ..files.file_systems import Folder, dataset_errors, url_of
from ..files.parquet import parquet_dataset
from .formats.base import LANCE, part_name

if TYPE_CHECKING:
    import pyarrow.dataset

_BATCH_ROWS = 1024


def read_dataset(directory: str) -> pa.Table:
    """Read all rows of a dataset into memory, by shard.

    Raises:
        DatasetError: If it has no part, or one cannot be read.
    """
    dataset = open_parquet(directory)
    return pa.Table.from_batches(_batches(directory, dataset), dataset.schema)


def read_batches(location: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file, or of all those of a directory by name.

    Raises:
        DatasetError: As `open_parquet` does, or naming a file that cannot be read.
    """
    yield from _batches(location, open_parquet(location))


def _batches(location: str, dataset: pyarrow.dataset.Dataset) -> Iterator[pa.RecordBatch]:
    folder = Folder.of(location)
    for file in dataset.get_fragments():  # one by one, or nobody could say which is damaged
        with dataset_errors("read", url_of(folder.fs, file.path)):
            yield from file.to_batches(schema=dataset.schema, batch_size=_BATCH_ROWS)


def open_parquet(location: str) -> pyarrow.dataset.Dataset:
    """Open a Parquet file, or all those of a directory by name, without reading rows.

    Raises:
        DatasetError: If there is nothing at the path, no Parquet file in it, or the first is none.
    """
    folder, paths = parquet_paths(location)
    with dataset_errors("read", location):
        return parquet_dataset(paths, folder.fs)


def parquet_paths(location: str) -> tuple[Folder, list[str]]:
    """Return a Parquet file, or all those of a directory by name, as paths in a file system.

    Raises:
        DatasetError: If there is nothing at the path, or no Parquet file in it.
    """
    folder = Folder.of(location)
    paths = [folder.path]
    with dataset_errors("read", location):
        if not folder.fs.exists(folder.path):
            raise DatasetError(f"{location}: no such file or directory")
        if folder.fs.isdir(folder.path):
            paths = [folder.at(name) for name in folder.list() if _is_part(name)]
        if not paths:
            lines = any(name.startswith("part-") and name.endswith(".jsonl") for name in folder.list())
            hint = "; its rows are JSON lines (part-*.jsonl), which read as such" if lines else ""
            if any(name.startswith(f"{part_name('', LANCE)}/") for name in folder.list()):
                hint = f"; its rows are in {part_name('', LANCE)}, which Lance's own library reads"
            raise DatasetError(f"{location}: no Parquet file in it{hint}")
    return folder, paths


def _is_part(name: str) -> bool:
    return name.endswith(".parquet") and not any(part.startswith(("_", ".")) for part in name.split("/"))
