"""What an index of Faiss takes, on disk and in a process that fills it alone."""

from __future__ import annotations

from typing import Any

from .library import code_bytes_of, hnsw_of, ivf_of
from .merge import can_merge

ID_BYTES = 8
HNSW_LINKS = 32
HNSW_ROW_BYTES = 2 * HNSW_LINKS * 4 + 24
"""Links of a row in the lowest level, its share of those above, and its place."""
GROWING = 1.3
"""While a graph grows: arrays double their room."""
_GROWING_LISTS = 1.7
"""While packed lists grow, many arrays at a time: 1.58 measured with 1.1 million rows in 256 lists, 1.66 with 1.5."""


def index_bytes(empty: Any, rows: int) -> int:
    """Return about how large an index is: codes, ids, links and centroids.

    Args:
        empty: The index without vectors, trained or not.
        rows: Vectors that it will have.
    """
    ivf = ivf_of(empty)
    lists = 0 if ivf is None else int(ivf.nlist)
    links = 0 if hnsw_of(empty) is None else HNSW_ROW_BYTES
    row = code_bytes_of(empty) + links + (ID_BYTES if lists else 0)
    return rows * row + lists * (int(empty.d) * 4 + HNSW_ROW_BYTES)


def filled_bytes(empty: Any, rows: int) -> int:
    """Return about what a process holds of an index while it adds all vectors; 0 if it is put together from parts.

    Args:
        empty: The index without vectors, trained or not.
        rows: Vectors that it will have.
    """
    if can_merge(empty):
        return 0
    size = index_bytes(empty, rows)
    if ivf_of(empty) is not None:
        return int(size * _GROWING_LISTS)
    return size if hnsw_of(empty) is None else int(size * GROWING)
