"""Reads the rows of a dataset, or of any Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from ..errors import DatasetError
from ..files.file_systems import check_is_no_device, dataset_errors, is_local, url_of
from ..files.folder import Folder
from ..files.parquet import parquet_dataset
from .formats.base import LANCE, part_name

if TYPE_CHECKING:
    import pyarrow.dataset

_BATCH_ROWS = 1024


def read_dataset(directory: str) -> pa.Table:
    """Read all rows of a dataset into memory, ordered by shard.

    Raises:
        DatasetError: If the dataset has no Parquet file, or a file cannot be read.
    """
    dataset = open_parquet(directory)
    return pa.Table.from_batches(_batches(directory, dataset), dataset.schema)


def read_batches(location: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file, or of all Parquet files in a directory, ordered by name.

    Raises:
        DatasetError: As `open_parquet` does; or if a file cannot be read, with its name.
    """
    yield from _batches(location, open_parquet(location))


def _batches(location: str, dataset: pyarrow.dataset.Dataset) -> Iterator[pa.RecordBatch]:
    folder = Folder.of(location)
    for file in dataset.get_fragments():  # one by one, so that the error can name the damaged file
        with dataset_errors("read", url_of(folder.fs, file.path)):
            yield from file.to_batches(schema=dataset.schema, batch_size=_BATCH_ROWS)


def open_parquet(location: str) -> pyarrow.dataset.Dataset:
    """Open a Parquet file, or all Parquet files in a directory, without reading rows.

    Raises:
        DatasetError: If the path does not exist, holds no Parquet file, or the first file is not valid Parquet.
    """
    folder, paths = parquet_paths(location)
    with dataset_errors("read", location):
        return parquet_dataset(paths, folder.fs)


def parquet_paths(location: str) -> tuple[Folder, list[str]]:
    """Return the paths, in their file system, of a Parquet file or of all in a directory; `DatasetError` if none."""
    folder = Folder.of(location)
    paths = [folder.path]
    with dataset_errors("read", location):
        if (kind := folder.kind()) is None:
            raise DatasetError(f"{location}: no such file or directory")
        if is_local(folder.fs):
            check_is_no_device(folder.path)
        if kind == "file":
            _check_magic(folder, location)
        if kind == "directory":
            paths = [folder.at(name) for name in folder.list() if _is_part(name)]
        if not paths:
            lines = any(name.startswith("part-") and name.endswith(".jsonl") for name in folder.list())
            hint = "; its rows are JSON lines (part-*.jsonl)" if lines else ""
            if any(name.startswith("part-") and name.endswith(".tar") for name in folder.list()):
                hint = "; its rows are samples in tars (part-*.tar), which webdataset reads"
            if any(name.startswith(f"{part_name('', LANCE)}/") for name in folder.list()):
                hint = f"; its rows are in {part_name('', LANCE)}; read them with the Lance library"
            raise DatasetError(f"{location} holds no Parquet file{hint}")
    return folder, paths


def _check_magic(folder: Folder, location: str) -> None:
    """Raise `DatasetError` for a file that does not begin as Parquet files do, with or without encryption."""
    with folder.fs.open(folder.path, "rb") as file:
        start = file.read(4)
    if start and start not in (b"PAR1", b"PARE"):
        raise DatasetError(
            f"{location} is no Parquet file, and so holds no vectors",
            hint="if it is what you embed, do that first: clipmill embed … --output DIRECTORY",
        )


def _is_part(name: str) -> bool:
    return name.endswith(".parquet") and not any(part.startswith(("_", ".")) for part in name.split("/"))
