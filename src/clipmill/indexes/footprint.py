"""The size of a Faiss index on disk, and in a process that adds all vectors itself."""

from __future__ import annotations

from typing import Any

from .codes import ID_BYTES
from .library import code_bytes_of, hnsw_of, ivf_of
from .merge import can_merge

HNSW_LINKS = 32
HNSW_ROW_BYTES = 2 * HNSW_LINKS * 4 + 24
"""Bytes of a row in the graph: its links in the lowest level, its share of the upper levels, and its offset."""
GRAPH_GROWTH = 1.3
"""Peak size of a growing graph, in final sizes: arrays double their capacity."""
_PACKED_LISTS_GROWTH = 1.7
"""The same of packed lists, which are many arrays: measured 1.58 at 1.1 million rows in 256 lists, 1.66 at 1.5."""


def index_bytes(empty: Any, rows: int) -> int:
    """Estimate the size of an index of so many rows: codes, ids, links and centroids."""
    ivf = ivf_of(empty)
    lists = 0 if ivf is None else int(ivf.nlist)
    links = 0 if hnsw_of(empty) is None else HNSW_ROW_BYTES
    row = code_bytes_of(empty) + links + (ID_BYTES if lists else 0)
    return rows * row + lists * (int(empty.d) * 4 + HNSW_ROW_BYTES)


def filled_bytes(empty: Any, rows: int) -> int:
    """Estimate the peak size of an index in a process that adds all vectors; 0 if it is merged from parts instead."""
    if can_merge(empty):
        return 0
    size = index_bytes(empty, rows)
    if ivf_of(empty) is not None:
        return int(size * _PACKED_LISTS_GROWTH)
    return size if hnsw_of(empty) is None else int(size * GRAPH_GROWTH)
