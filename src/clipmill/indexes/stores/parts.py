"""The parts of a dataset that are pushed one after another, and remembered; and the ids of its rows."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ...datasets.inputs.listing import listed_again
from ...datasets.tables.column_types import as_type, is_text_type
from ...errors import DatasetError
from ...files.file_systems import dataset_errors
from ...files.json_text import json_text
from ...messages import setting
from ..ids import count_distinct, named_ids
from ..source import Piece, VectorSource, read_piece

_IDS_READ = 65_536
_MAX_INTEGER = 2**63 - 1
_ROWS_OF_A_PASS = 6_000_000
"""Ids that are compared at a time: some 250 MB."""


class Part(NamedTuple):
    """Row groups of a file; `key` is None if the file system tells no version of the file."""

    piece: Piece
    key: str | None


def parts_of(source: VectorSource, columns: Sequence[str]) -> list[Part]:
    """Return the row groups of a source, each with a UUID of its file, the file's size and version, and the columns.

    A file that was written anew has other parts, so that what was pushed of the earlier one doesn't count.
    """
    state: dict[str, Any] = {}
    found = []
    for piece in source.groups:
        if piece.path not in state:
            state[piece.path] = _state_of(piece.path)
        key = None
        if state[piece.path] is not None:
            text = json_text([piece.path, *state[piece.path], piece.first, source.column, *columns])
            key = str(uuid.UUID(bytes=hashlib.sha256(text.encode()).digest()[:16]))
        found.append(Part(piece, key))
    return found


def _state_of(path: str) -> tuple[int | None, str] | None:
    with dataset_errors("look at", path):
        file = listed_again(path)
    return (file.size, file.version) if file.version else None


def id_kind(source: VectorSource, column: str) -> Literal["text", "integer"]:
    """Return what the ids of a source are; raise `DatasetError` if there is no such column, or of another type."""
    if column not in source.keys.names:
        raise DatasetError(
            f"there is no column {column!r} to name rows by; the columns are {', '.join(source.keys.names) or 'none'}",
            option="id_column",
            hint="choose one with " + setting("id_column", ...),
        )
    kind = source.keys.field(column).type
    if is_text_type(kind):
        return "text"
    if pa.types.is_integer(kind):
        return "integer"
    raise DatasetError(
        f"the column {column!r} has the type {kind}; ids are texts or integers",
        option="id_column",
        hint="choose another with " + setting("id_column", ...),
    )


def check_ids(source: VectorSource, column: str) -> None:
    """Raise `DatasetError` if rows have no id, too large a number, or the id of another row, which would be lost."""
    missing = sum(ids.null_count for ids in _ids(source, column))
    if missing:
        raise DatasetError(
            f"{missing:,} of {source.rows:,} rows have no {column!r}, by which the database finds them again",
            hint="choose another column with " + setting("id_column", ...),
        )
    if pa.types.is_uint64(source.keys.field(column).type):
        largest = max((pc.max(ids).as_py() or 0 for ids in _ids(source, column)), default=0)
        if largest > _MAX_INTEGER:
            raise DatasetError(
                f"the column {column!r} has the id {largest}; integers up to {_MAX_INTEGER} are ids in every database",
                hint="write them as texts, or choose another column with " + setting("id_column", ...),
            )
    passes = max(1, -(-source.rows // _ROWS_OF_A_PASS))
    distinct = sum(count_distinct(_ids(source, column), number, passes) for number in range(passes))
    if repeated := source.rows - distinct:
        raise DatasetError(
            f"{repeated:,} of {source.rows:,} rows have the {column!r} of an earlier row{_example(source, column)}, "
            "and would overwrite it",
            hint="choose another column with " + setting("id_column", ...),
        )


def _example(source: VectorSource, column: str) -> str:
    """Return a repeated id, if one is repeated among rows that are near each other."""
    for ids in _ids(source, column):
        counts = pc.value_counts(ids)
        again = counts.filter(pc.greater(counts.field("counts"), 1))
        if len(again):
            return f", such as {again.field('values')[0].as_py()!r}"
    return ""


def _ids(source: VectorSource, column: str) -> Iterator[pa.Array]:
    kind = source.keys.field(column).type
    for piece in source.groups:
        for batch in read_piece(piece, [column], block_rows=_IDS_READ):
            yield named_ids(as_type(batch.column(0), kind)) if batch.num_columns else pa.nulls(piece.rows, kind)
