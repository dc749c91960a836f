"""The share of nearest neighbours that other vectors of the same rows keep."""

from __future__ import annotations

import numpy as np

from ..encoders.plans.scores import pair_cosines
from .exact import exact_top_k
from .recall import without_own

NEIGHBOURS = 10


def kept_neighbours(
    exact: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], neighbours: int = NEIGHBOURS
) -> float:
    """Return the share of the neighbours found with other vectors that are also neighbours by the exact ones.

    Neighbours by the exact vectors are all whose cosine is at least that of the last one, so any of several equal ones
    counts.

    Args:
        exact: Queries and database, (q, dim) and (n, dim) float32.
        other: The same by other vectors, in the same order.
        neighbours: How many of each query.
    """
    (queries, database), (other_queries, other_database) = exact, other
    true = exact_top_k(queries, database, neighbours).positions
    return _share(queries, database, true, exact_top_k(other_queries, other_database, neighbours).positions)


def kept_neighbours_of_rows(exact: np.ndarray, other: np.ndarray, neighbours: int = NEIGHBOURS) -> float:
    """Do the same for every row as a query among the other rows.

    Args:
        exact: (n, dim) float32, n over `neighbours`.
        other: The same rows by other vectors.
        neighbours: How many of each row, itself left out.
    """
    own = np.arange(len(exact))
    true, _ = without_own(exact_top_k(exact, exact, neighbours + 1), own, neighbours)
    found, _ = without_own(exact_top_k(other, other, neighbours + 1), own, neighbours)
    return _share(exact, exact, true, found)


def _share(queries: np.ndarray, database: np.ndarray, true: np.ndarray, found: np.ndarray) -> float:
    """Return the share of found positions, (q, k), that are as near as the last of the true ones."""
    least = pair_cosines(queries, database[true[:, -1]])  # float64: a score of the search is rounded, perhaps up
    cosines = pair_cosines(np.repeat(queries, found.shape[1], axis=0), database[found.reshape(-1)])
    return float(((cosines >= np.repeat(least, found.shape[1])) & (found.reshape(-1) >= 0)).mean())
