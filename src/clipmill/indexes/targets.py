"""The target of a search: an index, or a dataset whose vectors are all compared."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..errors import DatasetError, SpecError
from ..files.file_systems import dataset_errors, open_input, url_of
from ..files.folder import Folder
from ..messages import setting
from .corpus import Corpus, check_size, open_corpus
from .manifest import BUILDING, MANIFEST, SearchParameters, check_files, read_manifest
from .source import VectorSource, open_source

if TYPE_CHECKING:
    from .opened import OpenIndex

_NAME = "id"


@dataclasses.dataclass(frozen=True)
class Target:
    """The index or dataset to search, as known when the search is planned; without vectors.

    Attributes:
        location: Absolute path or URL.
        rows: Vectors of an index; rows of a dataset, including those without a vector.
        dim: Values in each.
        provenance: Provenance of the vectors; None where it is unknown.
        schema: Columns that hits can have.
        parameters: The default parameters of an index; None for a dataset, whose vectors are all compared.
        dataset: The files of a dataset; None for an index.
    """

    location: str
    rows: int
    dim: int
    provenance: Mapping[str, Any] | None
    schema: pa.Schema
    parameters: SearchParameters | None = None
    dataset: VectorSource | None = None

    @property
    def name(self) -> str | None:
        """The column that identifies a row; None where there is none."""
        has_name = _NAME in self.schema.names and not pa.types.is_nested(self.schema.field(_NAME).type)
        return _NAME if has_name else None

    def open(self, *, cpus: int | None = None) -> OpenIndex | Corpus:
        """Open the target, once per process: map an index, or read the vectors of a dataset.

        `cpus` are the cores that this worker may use, where its engine knows better than the operating system.
        """
        if self.dataset is not None:
            return open_corpus(self.location, self.dataset)
        from .library import use_threads
        from .opened import open_index

        use_threads(cpus)
        return open_index(self.location)


def find_target(location: str, column: str | None = None) -> Target:
    """Find an index or a dataset; no vector is read.

    Args:
        location: Path or URL of a directory, or of one Parquet file.
        column: The column of vectors; needed for a dataset that has several, not allowed for an index.

    Raises:
        SpecError: If `location` is not a path, or `column` is not allowed or missing.
        DatasetError: If it is neither an index nor a dataset, is not finished or damaged, or is a dataset that is too
            large to be searched without an index.
    """
    if not isinstance(location, str | os.PathLike) or not os.fspath(location):
        raise SpecError(f"index={location!r} is not a path; give the path or URL of an index or a dataset")
    folder = Folder.of(location)
    with dataset_errors("look at", folder.url):
        is_folder = folder.kind() == "directory"
        names = folder.list() if is_folder else {}
    if MANIFEST in names or BUILDING in names:
        if column is not None:
            raise SpecError(
                setting("column", column) + f" is for datasets; {folder.url} is an index, which has one column",
                hint="leave it out",
            )
        return _of_index(folder)
    try:
        source = open_source([folder.url], column=column)
    except DatasetError as err:
        if is_folder and not any(name.endswith(".parquet") for name in names):
            raise DatasetError(f"{folder.url} is neither an index (no {MANIFEST}) nor a dataset: {err}") from err
        raise
    if not source.rows or not source.dim:
        raise DatasetError(f"{folder.url} has no vector in the column {source.column!r}: there is nothing to search")
    check_size(folder.url, source)
    return Target(folder.url, source.rows, source.dim, source.provenance, source.keys, dataset=source)


def _of_index(folder: Folder) -> Target:
    """Describe an index without Faiss, and without copying it to this machine."""
    import pyarrow.parquet as pq

    manifest = read_manifest(folder.url)
    check_files(folder, manifest)
    path = url_of(folder.fs, folder.at(manifest.segments[-1].keys))  # the newest has all columns
    with dataset_errors("read", path), open_input(path) as file:
        schema = pq.read_schema(file).remove_metadata()
    return Target(folder.url, manifest.rows, manifest.dim, manifest.provenance, schema, manifest.search)
