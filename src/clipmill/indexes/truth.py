"""Exact nearest neighbours, block by block: what an exact index answers, and what the others are measured against."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .hits import Hits
from .library import faiss_library


def nearest_of_blocks(queries: np.ndarray, blocks: Iterable[tuple[int, np.ndarray]], k: int) -> Hits:
    """Find the k nearest vectors among blocks of them, holding one block at a time.

    Args:
        queries: (n, dim) float32 of length 1.
        blocks: Position of the first vector, and (m, dim) float32 of length 1; in rising order of position.
        k: How many.

    Returns:
        Cosines and positions, best first, equal cosines in order of position; NaN and -1 where there are fewer.
    """
    best = Hits(np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64))
    faiss = faiss_library()
    for start, vectors in blocks:
        if not len(vectors):
            continue
        scores, rows = faiss.knn(
            queries, np.ascontiguousarray(vectors), min(k, len(vectors)), metric=faiss.METRIC_INNER_PRODUCT
        )
        best = merged([best, Hits(scores, rows + start)], k)
    return Hits(np.where(best.positions < 0, np.nan, np.clip(best.scores, -1, 1)).astype(np.float32), best.positions)


def merged(parts: list[Hits], k: int) -> Hits:
    """Return the k best of several hits of the same queries; what is not there has a score of minus infinity.

    Args:
        parts: Of each query as many as there are, in any order.
        k: How many.
    """
    scores = np.concatenate([part.scores for part in parts], axis=1)
    positions = np.concatenate([part.positions for part in parts], axis=1)
    order = np.lexsort((positions, -scores), axis=1)[:, :k]
    return Hits(np.take_along_axis(scores, order, axis=1), np.take_along_axis(positions, order, axis=1))
