"""Converts Arrow schemas to Spark's JSON schemas, which Spark reads from the footer of a Parquet file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from .column_types import is_list_type

SPARK_SCHEMA_KEY = "org.apache.spark.sql.parquet.row.metadata"
"""Key of a Parquet footer under which Spark stores its schema, with the metadata of the columns."""

_NAMES = {
    pa.string(): "string",
    pa.large_string(): "string",
    pa.binary(): "binary",
    pa.large_binary(): "binary",
    pa.bool_(): "boolean",
    pa.int8(): "byte",
    pa.int16(): "short",
    pa.int32(): "integer",
    pa.int64(): "long",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.date32(): "date",
}


class _NoEquivalentError(Exception):
    """Raised for a type that Spark does not have, or reads as a type other than its name says."""


def spark_schema(schema: pa.Schema, metadata: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return a schema in the JSON format of Spark's StructType; None if a column has a type without an equivalent."""
    try:
        fields = [_field(field, metadata.get(field.name, {})) for field in schema]
    except _NoEquivalentError:
        return None
    return {"type": "struct", "fields": fields}


def _field(field: pa.Field, metadata: Mapping[str, Any]) -> dict[str, Any]:
    # Spark treats every column of a file as nullable, whatever is written here.
    return {"name": field.name, "type": _type(field.type), "nullable": True, "metadata": dict(metadata)}


def _type(kind: pa.DataType) -> Any:
    types = pa.types
    if not isinstance(kind, pa.BaseExtensionType) and kind in _NAMES:  # a user's own types may have no hash
        return _NAMES[kind]
    if types.is_dictionary(kind):  # Parquet stores the values
        return _type(kind.value_type)
    if types.is_decimal128(kind) and kind.scale >= 0:
        return f"decimal({kind.precision},{kind.scale})"
    if types.is_timestamp(kind) and kind.unit in ("ms", "us"):
        return "timestamp" if kind.tz else "timestamp_ntz"
    if is_list_type(kind):
        return {"type": "array", "elementType": _type(kind.value_type), "containsNull": True}
    if types.is_struct(kind):
        return {"type": "struct", "fields": [_field(field, {}) for field in kind]}
    if types.is_map(kind):
        key, value = _type(kind.key_type), _type(kind.item_type)
        return {"type": "map", "keyType": key, "valueType": value, "valueContainsNull": True}
    raise _NoEquivalentError
