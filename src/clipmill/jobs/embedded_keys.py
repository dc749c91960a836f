"""The match keys of the rows of a finished shard of another dataset, and whether each has a vector."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..datasets.directory import FAILURES
from ..datasets.tables.column_types import is_list_type, is_vector_type, top_level
from ..datasets.tables.scalars import printable_rows
from ..datasets.tables.schemas import CONTENT_HASH
from ..encoders.plans.row_values import get_by_path
from ..files.file_systems import dataset_errors
from ..files.folder import Folder
from ..files.json_text import key_text
from ..files.parquet import parquet_file
from .comparison import check_schema, key_column, own_provenances
from .row_keys import hash_digest, key_digest
from .skip_existing import FinishedShard, files_of, shard_manifest

if TYPE_CHECKING:
    import pyarrow.parquet as pq

    from .job import Job

_BATCH_ROWS = 1024
_VECTORS_INSIDE = frozenset({"embedding", "matches", "chunks"})


def embedded_keys(part: FinishedShard, job: Job) -> Iterator[tuple[bytes, tuple[int, bool]]]:
    """Yield the match keys of the rows of a finished shard of one of the datasets in `skip_existing`.

    Yields:
        A digest as `keys_wanted` gives it, and what `is_embedded` takes.

    Raises:
        DatasetError: If a file of it cannot be read, or is of another provenance than this job's.
    """
    assert job.skip_existing is not None
    number, directory = part[0], job.skip_existing.datasets[part[0]]
    folder = Folder.of(directory)
    for file in files_of(shard_manifest(part, job.skip_existing)):
        where = f"{folder.url}/{file}"
        with dataset_errors("read", where):
            if file.endswith(".parquet"):
                for digest in _digests_of_rows(folder, file, job):
                    yield digest, (number, True)
            elif file.startswith(FAILURES) and job.skip_existing.by == "id":
                with folder.fs.open(folder.at(file), "rb") as lines:
                    for line in lines:
                        if (key := key_text(json.loads(line).get("row"))) is not None:
                            yield key_digest(key), (number, False)


def _digests_of_rows(folder: Folder, name: str, job: Job) -> Iterator[bytes]:
    """Yield the digests of the rows of a file that have a vector; vectors are read only where one may be missing."""
    column = key_column(job)
    vectors = list(own_provenances(job))
    digest = hash_digest if column == CONTENT_HASH else key_digest
    with folder.fs.open(folder.at(name), "rb") as raw, parquet_file(raw, pre_buffer=False) as file:
        schema = file.schema_arrow
        check_schema(schema, f"{folder.url}/{name}", job)
        top = top_level([column], schema.names)
        for group in range(file.metadata.num_row_groups):
            # a row has a hash only if all of it was embedded
            is_certain = column == CONTENT_HASH or _none_missing(file.metadata.row_group(group), schema, vectors)
            read = top if is_certain else [*top, *(one for one in vectors if one not in top)]
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=read):
                rows = list(printable_rows(batch.select(top)))
                there = [True] * len(rows) if is_certain else _any_vector(batch.select(vectors).columns).tolist()
                for row, has_vector in zip(rows, there, strict=True):
                    if has_vector and (key := key_text(get_by_path(row, column))) is not None:
                        yield digest(key)


def _none_missing(group: pq.RowGroupMetaData, schema: pa.Schema, vectors: Sequence[str]) -> bool:
    """Tell whether, by the counts in the file's footer, every row of a row group has a vector."""
    flat = {f"{name}.list." for name in vectors if is_vector_type(schema.field(name).type)}
    for number in range(group.num_columns):
        column = group.column(number)
        if any(column.path_in_schema.startswith(prefix) for prefix in flat):
            statistics = column.statistics
            if statistics is not None and statistics.has_null_count and statistics.null_count == 0:
                return True
    return False


def _any_vector(columns: Sequence[pa.Array]) -> np.ndarray:
    """Return which rows have a vector in any column, however deep: in lists of vectors, or documents inside others."""
    return np.any([_has_vector(column) for column in columns], axis=0)


def _has_vector(column: pa.Array) -> np.ndarray:
    """Return which values of a column are a vector, or hold one."""
    if pa.types.is_struct(column.type):
        inner = [
            values
            for field, values in zip(column.type, column.flatten(), strict=True)
            if field.name in _VECTORS_INSIDE and is_list_type(field.type)
        ]
        return _any_vector(inner) if inner else np.zeros(len(column), bool)
    if not is_list_type(column.type) or is_vector_type(column.type):
        return np.asarray(column.is_valid())
    lengths = np.asarray(column.value_lengths().fill_null(0))
    ends = np.cumsum(lengths)
    found = np.concatenate([[0], np.cumsum(_has_vector(column.flatten()))])
    return np.asarray(found[ends] > found[ends - lengths])
