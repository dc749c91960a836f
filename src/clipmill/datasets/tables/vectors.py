"""Arrow arrays of vectors, built from one buffer: no value ever becomes a Python float."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ...errors import DatasetError
from ...messages import setting
from .column_types import is_list_type

_TYPES = {"float32": pa.float32(), "float16": pa.float16()}
_MOST_VALUES = 2**31 - 1  # what the 32-bit offsets of a list array can count


def vector_type(dtype: str = "float32", *, nested: bool = False) -> pa.DataType:
    """Return the type of a column of vectors.

    Never a fixed-size list: one with a null in it makes a file that pyarrow before 26 cannot read back.

    Args:
        dtype: `float32`, or `float16`, which Spark cannot read.
        nested: Whether each row has a list of vectors.

    Raises:
        DatasetError: If `dtype` is neither.
    """
    if dtype not in _TYPES:
        raise DatasetError(setting("dtype", dtype) + " must be one of 'float32', 'float16'")
    one = pa.list_(_TYPES[dtype])
    return pa.list_(one) if nested else one


def vector_array(vectors: Sequence[np.ndarray | None], dim: int, dtype: str = "float32") -> pa.ListArray:
    """Make an Arrow array of vectors.

    Args:
        vectors: Each (dim,) float32, or None for null.
        dim: Values in each.
        dtype: `float32` or `float16`.

    Returns:
        An array of the type `vector_type(dtype)`, as long as `vectors`.

    Raises:
        DatasetError: If a vector has another shape or does not fit into float16, naming its row.
    """
    there = np.fromiter((vector is not None for vector in vectors), bool, len(vectors))
    values = np.empty((int(there.sum()), dim), dtype)
    if values.size > _MOST_VALUES:
        raise DatasetError(f"{len(vectors)} vectors of {dim} values are too many for one batch; write smaller ones")
    with np.errstate(over="ignore"):  # told below, with the row
        for place, row in zip(values, np.flatnonzero(there).tolist(), strict=True):
            vector = np.asarray(vectors[row])
            if vector.shape != (dim,):
                raise DatasetError(f"the vector of row {row} has the shape {vector.shape}, not ({dim},)")
            place[:] = vector
            if dtype == "float16" and np.isinf(place).any() and np.isfinite(vector).all():
                raise DatasetError(f"the vector of row {row} has values over 65504, float16's largest; use float32")
    return _lists(pa.array(values.reshape(-1)), there * dim, there, vector_type(dtype))


def nested_vector_array(
    rows: Sequence[Sequence[np.ndarray | None] | None], dim: int, dtype: str = "float32"
) -> pa.ListArray:
    """Make an Arrow array of lists of vectors, for columns that are arrays themselves.

    Args:
        rows: For each row its vectors, each (dim,) float32 or None; or None for a null row.
        dim: Values in each vector.
        dtype: `float32` or `float16`.

    Returns:
        An array of the type `vector_type(dtype, nested=True)`, as long as `rows`.

    Raises:
        DatasetError: If a vector has another shape or does not fit into float16.
    """
    there = np.fromiter((row is not None for row in rows), bool, len(rows))
    lengths = np.fromiter((len(row or ()) for row in rows), np.int64, len(rows))
    flat = vector_array([vector for row in rows for vector in row or ()], dim, dtype)
    return _lists(flat, lengths, there, vector_type(dtype, nested=True))


def _lists(values: pa.Array, lengths: np.ndarray, there: np.ndarray, kind: pa.DataType) -> pa.ListArray:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    mask = None if there.all() else pa.array(~there)
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=kind, mask=mask)


def dtype_of(kind: pa.DataType) -> str:
    """Return what a column of vectors holds, or lists of them: `float32` or `float16`."""
    while is_list_type(kind):
        kind = kind.value_type
    return "float16" if kind == pa.float16() else "float32"
