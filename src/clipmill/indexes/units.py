"""Vectors from Arrow, scaled to length 1; vectors that have no direction are marked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DatasetError

_LEAST_SQUARE = 1e-30
"""Vectors whose squared length is below this, or infinite, are scaled again in float64."""


class UnitVectors(NamedTuple):
    """Vectors of length 1.

    Attributes:
        vectors: (n, dim) float32; zeros where a vector is zero or not finite.
        zero: (n,) bool, which are zero.
        not_finite: (n,) bool, which have a NaN or an infinity.
    """

    vectors: np.ndarray
    zero: np.ndarray
    not_finite: np.ndarray

    @property
    def good(self) -> np.ndarray:
        """Which of them have length 1, (n,) bool."""
        return ~(self.zero | self.not_finite)


def to_unit_vectors(vectors: np.ndarray) -> UnitVectors:
    """Scale (n, dim) vectors of any norm to length 1."""
    found = np.array(vectors, np.float32, order="C")
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        squares = np.einsum("nd,nd->n", found, found)
        found /= np.sqrt(squares)[:, None]
    odd = np.flatnonzero(~((squares > _LEAST_SQUARE) & np.isfinite(squares)))
    zero, not_finite = np.zeros(len(found), bool), np.zeros(len(found), bool)
    if len(odd):
        exact = np.asarray(vectors[odd], np.float64)
        not_finite[odd] = ~np.isfinite(exact).all(axis=1)
        exact[not_finite[odd]] = 0
        largest = np.abs(exact).max(axis=1, initial=0)
        zero[odd] = ~not_finite[odd] & (largest == 0)
        exact /= np.where(largest == 0, 1, largest)[:, None]
        lengths = np.sqrt(np.einsum("nd,nd->n", exact, exact))
        found[odd] = exact / np.where(lengths == 0, 1, lengths)[:, None]
    return UnitVectors(found, zero, not_finite)


def matrix_of(column: pa.Array, dim: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors of a column as a matrix.

    Args:
        column: Lists of floats, with nulls; an empty list is no vector either.
        dim: Values in each.
        where: Where the column is, for messages.

    Returns:
        (n, dim) float32 of the vectors that are there, and which rows those are, (rows,) bool. A null among the
        values of a vector becomes NaN.

    Raises:
        DatasetError: If one has another dimension.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    lengths = np.asarray(pc.list_value_length(column).fill_null(0))
    valid = lengths > 0
    if (wrong := np.flatnonzero(valid & (lengths != dim))).size:
        row = int(wrong[0])
        raise DatasetError(
            f"{where}: the vector of row {row} has {lengths[row]} values and others have {dim}; vectors of one model "
            "have one dimension: build an index of each"
        )
    values = column.filter(pa.array(valid)).flatten() if not valid.all() else column.flatten()
    flat = values.to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(-1, dim), valid
