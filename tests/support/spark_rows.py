"""Rows of the contracts of `rank_contract` and `similarity_contract` as DataFrames, and back."""

from __future__ import annotations

from pyspark.sql import Row

ONE = {
    **dict.fromkeys(("id", "note", "query", "candidate", "caption", "group"), "string"),
    **dict.fromkeys(("photo", "sound"), "binary"),
    "number": "long",
    "vector": "array<float>",
    "document": "struct<text: string, uri: string, blob: binary>",
}
TYPES = ONE | {f"{name}s": f"array<{ONE[name]}>" for name in ("candidate", "photo", "vector", "document")}


def frame(spark, rows, names):
    """Make a DataFrame of several partitions."""
    names = list(rows[0]) if rows else list(names)
    schema = ", ".join(f"{name} {TYPES[name]}" for name in names)
    values = [tuple(_as_row(row[name]) for name in names) for row in rows]
    return spark.createDataFrame(values, schema)


def _as_row(value):
    if isinstance(value, dict):
        return Row(**value)
    if isinstance(value, list):
        return [float(one) if isinstance(one, int) else _as_row(one) for one in value]
    return value


def plain(row):
    """Return a row as plain values."""
    if isinstance(row, Row):
        return {name: plain(value) for name, value in row.asDict().items()}
    if isinstance(row, bytearray):
        return bytes(row)
    return [plain(value) for value in row] if isinstance(row, list) else row
