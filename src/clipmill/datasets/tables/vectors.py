"""Builds Arrow arrays of vectors from one buffer, without converting values to Python floats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ...errors import DatasetError, check_choice
from .column_types import is_list_type

_TYPES = {"float32": pa.float32(), "float16": pa.float16()}
_MAX_VALUES = 2**31 - 1  # limit of the 32-bit offsets of a list array


def vector_type(dtype: str = "float32", *, nested: bool = False) -> pa.DataType:
    """Return the type of a column of vectors.

    It is never a fixed-size list: with a null in it, pyarrow before 26 cannot read the file back.

    Args:
        dtype: `float32`, or `float16`, which Spark cannot read.
        nested: Whether each row has a list of vectors.

    Raises:
        DatasetError: If `dtype` is neither of them.
    """
    check_choice("dtype", dtype, _TYPES, error=DatasetError)
    one = pa.list_(_TYPES[dtype])
    return pa.list_(one) if nested else one


def vector_array(vectors: Sequence[np.ndarray | None], dim: int, dtype: str = "float32") -> pa.ListArray:
    """Build an Arrow array of vectors.

    Args:
        vectors: Each (dim,) float32, or None for null.
        dim: Number of values in each vector.
        dtype: `float32` or `float16`.

    Returns:
        An array of the type `vector_type(dtype)`, as long as `vectors`.

    Raises:
        DatasetError: If a vector has another shape or overflows float16; the message names its row.
    """
    valid = np.fromiter((vector is not None for vector in vectors), bool, len(vectors))
    values = np.empty((int(valid.sum()), dim), dtype)
    if values.size > _MAX_VALUES:
        raise DatasetError(f"{len(vectors)} vectors of {dim} values are too many for one batch; write smaller batches")
    with np.errstate(over="ignore"):  # raised below, with the row
        for target, row in zip(values, np.flatnonzero(valid).tolist(), strict=True):
            vector = np.asarray(vectors[row])
            if vector.shape != (dim,):
                raise DatasetError(f"the vector of row {row} has the shape {vector.shape}, not ({dim},)")
            target[:] = vector
            if dtype == "float16" and np.isinf(target).any() and np.isfinite(vector).all():
                raise DatasetError(f"the vector of row {row} has values over 65504, float16's largest; use float32")
    return _lists(pa.array(values.reshape(-1)), valid * dim, valid, vector_type(dtype))


def nested_vector_array(
    rows: Sequence[Sequence[np.ndarray | None] | None], dim: int, dtype: str = "float32"
) -> pa.ListArray:
    """Build an Arrow array of lists of vectors, for columns that are arrays themselves.

    Args:
        rows: For each row its vectors, each (dim,) float32 or None; or None for a null row.
        dim: Number of values in each vector.
        dtype: `float32` or `float16`.

    Returns:
        An array of the type `vector_type(dtype, nested=True)`, as long as `rows`.

    Raises:
        DatasetError: If a vector has another shape or overflows float16.
    """
    valid = np.fromiter((row is not None for row in rows), bool, len(rows))
    lengths = np.fromiter((len(row or ()) for row in rows), np.int64, len(rows))
    flat = vector_array([vector for row in rows for vector in row or ()], dim, dtype)
    return _lists(flat, lengths, valid, vector_type(dtype, nested=True))


def _lists(values: pa.Array, lengths: np.ndarray, valid: np.ndarray, kind: pa.DataType) -> pa.ListArray:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    mask = None if valid.all() else pa.array(~valid)
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=kind, mask=mask)


def dtype_of(kind: pa.DataType) -> str:
    """Return the dtype of a column of vectors, or of lists of vectors: `float32` or `float16`."""
    while is_list_type(kind):
        kind = kind.value_type
    return "float16" if kind == pa.float16() else "float32"
