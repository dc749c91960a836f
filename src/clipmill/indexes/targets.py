"""What a search can be made in: an index, or a dataset whose vectors are compared one by one."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ..errors import DatasetError, SpecError
from ..files.file_systems import Folder, dataset_errors, open_input, url_of
from .corpus import check_size, open_corpus
from .hits import Hits
from .manifest import BUILDING, MANIFEST, SearchParameters, check_files, read_manifest
from .source import Source, open_source

_NAME = "id"


class Searchable(Protocol):
    """An index or a corpus that is open in this process."""

    def search(self, queries: np.ndarray, k: int, *, nprobe: int | None = None, ef_search: int | None = None) -> Hits:
        """Return the k nearest of each query; queries are (n, dim) float32 of any norm."""
        ...

    def rows(self, positions: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Return columns of rows, in the order of their positions."""
        ...

    def vectors(self, positions: np.ndarray) -> np.ndarray:
        """Return (n, dim) float32 vectors of length 1."""
        ...


@dataclasses.dataclass(frozen=True)
class Target:
    """What is searched, as it is known where a search is planned; holds no vector.

    Attributes:
        location: Absolute path or URL.
        rows: Its vectors; of a dataset its rows, those without a vector too.
        dim: Values in each.
        provenance: Where they come from; None where nothing says it.
        schema: Columns that hits can have.
        effort: How much of an index is looked at for a query; None of a dataset, which is compared as a whole.
        dataset: The files of vectors; None of an index.
    """

    location: str
    rows: int
    dim: int
    provenance: Mapping[str, Any] | None
    schema: pa.Schema
    effort: SearchParameters | None = None
    dataset: Source | None = None

    @property
    def name(self) -> str | None:
        """The column that names a row; None where there is none."""
        there = _NAME in self.schema.names and not pa.types.is_nested(self.schema.field(_NAME).type)
        return _NAME if there else None

    def open(self, *, cpus: int | None = None) -> Searchable:
        """Open it, unless this process has done so: an index is memory-mapped, a dataset's vectors are read.

        Args:
            cpus: Cores that this worker may use, where its engine knows better than the operating system.

        Raises:
            DatasetError: If it cannot be read.
        """
        if self.dataset is not None:
            return open_corpus(self.location, self.dataset)
        from .library import use_threads
        from .opened import open_index

        use_threads(cpus)
        return open_index(self.location)


def find_target(location: str, column: str | None = None) -> Target:
    """Look at an index or a dataset; no vector is read.

    Args:
        location: Path or URL of a directory, or of one Parquet file.
        column: The column of vectors of a dataset that has several.

    Raises:
        SpecError: If it is no path, `column` is given for an index, which has one, or not for a dataset of several.
        DatasetError: If it is neither, is not finished or damaged, or a dataset too large to be searched without an
            index.
    """
    if not isinstance(location, str | os.PathLike) or not os.fspath(location):
        raise SpecError(f"index={location!r} is no path of an index or a dataset")
    folder = Folder.of(location)
    with dataset_errors("look at", folder.url):
        names = folder.list() if folder.fs.isdir(folder.path) else {}
    if MANIFEST in names or BUILDING in names:
        if column is not None:
            raise SpecError(f"column={column!r} is for datasets; {folder.url} is an index, of one column")
        return _of_index(folder)
    try:
        source = open_source([folder.url], column=column)
    except DatasetError as err:
        if folder.fs.isdir(folder.path) and not any(name.endswith(".parquet") for name in names):
            raise DatasetError(f"{folder.url} is neither an index (no {MANIFEST}) nor a dataset: {err}") from err
        raise
    if not source.rows or not source.dim:
        raise DatasetError(f"{folder.url} has no vector in the column {source.column!r}: there is nothing to search")
    check_size(folder.url, source)
    return Target(folder.url, source.rows, source.dim, source.provenance, source.keys, dataset=source)


def _of_index(folder: Folder) -> Target:
    """Look at an index without Faiss, and without fetching it: here nothing is searched."""
    import pyarrow.parquet as pq

    manifest = read_manifest(folder.url)
    check_files(folder, manifest)
    path = url_of(folder.fs, folder.at(manifest.segments[-1].keys))  # the newest: columns are only ever added
    with dataset_errors("read", path), open_input(path) as file:
        schema = pq.read_schema(file).remove_metadata()
    return Target(folder.url, manifest.rows, manifest.dim, manifest.provenance, schema, manifest.search)
