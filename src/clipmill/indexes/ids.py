"""The ids of rows: which of them an index has already, and how many are missing or repeated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ..datasets.tables.column_types import as_type
from ..errors import DatasetError
from ..messages import setting
from .manifest import Ids
from .opened import OpenIndex
from .pages import resident_bytes
from .source import VectorSource, read_piece

_ID = "id"
_IDS_HELD = 1_000_000
"""Ids of new rows that are compared at a time with all ids of the index."""
_IDS_READ = 65_536
_IDS_HASHED = 4096
"""Ids that are Python objects at a time: some 0.5 MB."""
_LEAST_BYTES = 32 * 2**20
_BYTES_OF_HASH = 40
"""Memory of one hash, with its copies while hashes are sorted."""


class IdComparison(NamedTuple):
    """The rows of a source, compared with those of an index by their ids.

    Attributes:
        existing: Numbers of the rows whose ids are in the index, rising.
        unnamed: Rows without an id, which may be in the index or not.
    """

    existing: np.ndarray
    unnamed: int


def compare_ids(source: VectorSource, index: OpenIndex, *, skip_existing: bool, where: str) -> IdComparison:
    """Look for the ids of a source in an index; `DatasetError` if some are there and `skip_existing` is False."""
    if (
        _ID not in source.keys.names
        or _ID not in index.columns
        or source.keys.field(_ID).type != index.key_schema.field(_ID).type
    ):
        if skip_existing:
            raise DatasetError(
                setting("skip_existing", True) + f" compares the column {_ID!r}, which the index has as "
                f"{_type_of(index.key_schema)} and the dataset as {_type_of(source.keys)}"
            )
        return IdComparison(np.empty(0, np.int64), source.rows)
    kind = source.keys.field(_ID).type
    if pa.types.is_nested(kind):
        raise DatasetError(
            f"the column {_ID!r} is {kind}, and ids of this type cannot be compared with those of the index {where}; "
            "make them texts or numbers"
        )
    found = [np.empty(0, np.int64)]
    unnamed = 0
    for numbers, ids in _ids_of(source):
        found.append(numbers[_are_in(ids, index)])
        unnamed += ids.null_count
    existing = np.concatenate(found)
    if len(existing) and not skip_existing:
        raise DatasetError(
            f"{len(existing):,} of {source.rows:,} rows have an id that is in the index {where} already",
            hint="skip them with " + setting("skip_existing", True),
        )
    return IdComparison(existing, unnamed)


def count_ids(index: OpenIndex) -> Ids | None:
    """Count the missing and repeated ids of an index; None where it has no column `id`.

    Ids are compared by 64-bit hashes. The hashes may take a quarter of the memory that is left to this process; where
    they need more, the column is read several times, each time for a part of the hashes.
    """
    if _ID not in index.columns:
        return None
    missing = sum(named_ids(ids).null_count for ids in index.column(_ID))
    room = (int(index.manifest.plan["max_memory_bytes"]) - resident_bytes()) // 4
    passes = -(-index.manifest.rows * _BYTES_OF_HASH // max(_LEAST_BYTES, room))
    different = sum(count_distinct(index.column(_ID), number, passes) for number in range(passes))
    return Ids(missing=missing, repeated=index.manifest.rows - missing - different)


def count_distinct(column: Iterable[pa.Array], number: int, of: int) -> int:
    """Count the distinct ids whose hash modulo `of` is `number`; equal ids have equal hashes."""
    seen, fresh, held = np.empty(0, np.uint64), list[np.ndarray](), 0
    for ids in column:
        for start in range(0, len(ids), _IDS_HASHED):
            texts = map(str, named_ids(ids.slice(start, _IDS_HASHED)).drop_null().to_pylist())
            hashes = np.fromiter(map(hash, texts), np.int64).view(np.uint64)
            fresh.append(hashes[hashes % np.uint64(of) == number])
            held += len(fresh[-1])
            if held > max(_IDS_HELD, len(seen) // 2):  # rarely, so that sorting takes n log n in all
                seen, fresh, held = np.unique(np.concatenate([seen, *fresh])), [], 0
    return len(np.unique(np.concatenate([seen, *fresh])))


def named_ids(ids: pa.Array) -> pa.Array:
    """Return ids with null for "" and NaN, which count as missing as in `key_text`."""
    import pyarrow.compute as pc

    nothing = pa.nulls(len(ids), ids.type)  # with a scalar, pyarrow before 24 returns other texts for a slice of texts
    if pa.types.is_floating(ids.type):
        return pc.if_else(pc.is_nan(ids), nothing, ids)
    if pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type):
        return pc.if_else(pc.equal(ids, ""), nothing, ids)
    return ids


def _type_of(schema: pa.Schema) -> str:
    return str(schema.field(_ID).type) if _ID in schema.names else "nothing"


def _ids_of(source: VectorSource) -> Iterator[tuple[np.ndarray, pa.ChunkedArray]]:
    """Yield row numbers and ids of a source, many at a time."""
    kind = source.keys.field(_ID).type
    held: list[pa.Array] = []
    first = rows = 0
    for group in source.groups:
        for batch in read_piece(group, [_ID], block_rows=_IDS_READ):
            ids = named_ids(as_type(batch.column(0), kind)) if batch.num_columns else pa.nulls(batch.num_rows, kind)
            held.append(ids)
            rows += batch.num_rows
            if rows >= _IDS_HELD:
                yield np.arange(first, first + rows), pa.chunked_array(held)
                held, first, rows = [], first + rows, 0
    if rows:
        yield np.arange(first, first + rows), pa.chunked_array(held)


def _are_in(ids: pa.ChunkedArray, index: OpenIndex) -> np.ndarray:
    import pyarrow.compute as pc

    found = np.zeros(len(ids), bool)
    wanted = _storage_of(ids)
    for known in index.column(_ID):
        found |= np.asarray(pc.is_in(wanted, value_set=_storage_of(known), skip_nulls=True))
    return found


def _storage_of(ids: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return what Arrow can compare: the bytes of UUIDs, the values of other extension types."""
    return ids.cast(ids.type.storage_type) if isinstance(ids.type, pa.BaseExtensionType) else ids
