"""Types of the input columns: finds a column by its path, and marks the column that takes undeclared fields."""

from __future__ import annotations

import json

import pyarrow as pa

from ...errors import SpecError

REST_KEY = b"clipmill.rest"
"""Metadata key of the column that takes all undeclared fields of JSON lines, as a JSON object. The value is a JSON
array of the fields that are dropped."""
TAGS = "tags"
LIST_OF_TEXTS = pa.list_(pa.string())
_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


def column_type(base: pa.Schema, path: str) -> pa.DataType | None:
    """Return the type of an input column; None if JSON lines may hold it undeclared.

    A path is a column, or `a.b.c` into nested structs; a column whose own name contains the dots takes precedence. If
    there is no such column, it raises `SpecError`.
    """
    kind = type_at(base, path)
    if kind is None and not any(REST_KEY in (field.metadata or {}) for field in base):
        raise SpecError(f"there is no column {path!r}; the columns are {', '.join(map(repr, base.names))}")
    return kind


def dropped_names(rest: pa.Field) -> list[str]:
    """Return the fields of JSON lines that are dropped; `rest` is the column with `REST_KEY` in its metadata."""
    names: list[str] = json.loads((rest.metadata or {})[REST_KEY])
    return names


def is_list_type(kind: pa.DataType) -> bool:
    """Return whether a type is any of Arrow's list types: 32-bit or 64-bit offsets, fixed-size, or a view."""
    return any(one(kind) for one in _LISTS)


def is_vector_type(kind: pa.DataType) -> bool:
    """Return whether a type is a list of floats."""
    return is_list_type(kind) and pa.types.is_floating(kind.value_type)


def type_at(schema: pa.Schema, path: str) -> pa.DataType | None:
    """Return the type of a column, or of a field of a struct (`page.photo`); None where there is none."""
    if path in schema.names:
        return schema.field(path).type
    head, _, rest = path.partition(".")
    kind = schema.field(head).type if rest and head in schema.names else None
    return type_at(pa.schema(list(kind)), rest) if kind is not None and pa.types.is_struct(kind) else None
