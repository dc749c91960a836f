"""An index as rows that can be sampled, with the columns of its datasets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..datasets.dataset import read_job
from ..errors import DatasetError
from ..indexes import IndexManifest, OpenIndex
from .integrity import trusts_local_files

_BATCH_ROWS = 256


class IndexRows:
    """The rows of an index: its metadata, and its vectors under the name that they had in the datasets."""

    def __init__(self, index: OpenIndex) -> None:
        """Take an index that is open."""
        self._index = index

    @property
    def rows(self) -> int:
        """Its vectors."""
        return self._index.manifest.rows

    @property
    def schema(self) -> pa.Schema:
        """Columns of its metadata."""
        return self._index.key_schema

    def take(
        self, positions: np.ndarray, columns: Sequence[str], batch_rows: int = _BATCH_ROWS
    ) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Yield certain rows, some at a time; see `parts.Parts.take`."""
        vectors = self._index.manifest.column
        beside = list(dict.fromkeys(name.partition(".")[0] for name in columns if name != vectors))
        for start in range(0, len(positions), batch_rows):
            some = positions[start : start + batch_rows]
            found = self._index.rows(some, beside) if beside else pa.table({})
            made = {name: found.column(name).combine_chunks() for name in beside}
            if vectors in columns:
                values = pa.array(self._index.vectors(some).reshape(-1))
                made[vectors] = pa.FixedSizeListArray.from_arrays(values, self._index.manifest.dim)
            yield some, pa.RecordBatch.from_pydict(made)


def job_of_index(manifest: IndexManifest) -> Mapping[str, Any] | None:
    """Return what made the first of its datasets that is still there; None where none is, or it is not clipmill's."""
    for dataset in manifest.datasets:
        with contextlib.suppress(DatasetError):
            return read_job(str(dataset.get("location")))
    return None


def trusted_rows_of_index(manifest: IndexManifest) -> Callable[[int], bool]:
    """Return a function that says whether the user allowed a job to read the local file of a row.

    That is so if all datasets of the index are still there and say it.
    """
    trusted = bool(manifest.datasets) and trusts_local_files(str(one.get("location")) for one in manifest.datasets)
    return lambda _: trusted
