"""Exact nearest neighbours: every query is compared with every vector. No index and no Faiss is needed.

One algorithm serves a search in a dataset, an exact index, and the ground truth that recall is measured against:

    block of vectors ──► float32 product with all queries     fast, off by up to _SLACK
                     ──► candidates: those within _SLACK of the k-th best so far
                     ──► exact cosines of the candidates      float64 on rounded values: no rounding error in the sum
                     ──► k best of these and of those kept from earlier blocks: (cosine falling, position rising)

Why ties are exact: both vectors of a pair are rounded to multiples of 2**-26 (see `scores`). A product of two such
values is a multiple of 2**-52, and float64 adds up to 2**52 of those without rounding, in any order. So equal vectors
have equal cosines in whatever block or shard they are, and come in the order of their positions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..encoders.plans.scores import round_to_steps, unit_rows
from ..errors import SpecError, check_integer
from ..messages import setting
from .hits import Hits

_QUERIES = 1024
_ROWS = 8192
"""Queries and rows of one float32 product: 32 MiB."""

_FIRST_ROWS = 1024
"""Rows of the first block. Their k-th best bounds the candidates of the next ones, so it should come cheap."""

_SLACK = 1e-5
"""More than twice the error of a float32 product of two unit vectors of some thousand values."""

_PAIRS = 4096
"""Pairs that are compared exactly at a time: some 16 MB of 512 values."""

_USUAL_CANDIDATES = 4
"""Candidates of a query in one block, in multiples of k, above which `_candidates` looks for ways to have fewer."""


def exact_top_k(queries: Any, corpus: Any, k: int) -> Hits:
    """Find the k vectors of a corpus with the highest cosine to each query.

    Args:
        queries: (n, dim) numbers of any norm.
        corpus: (m, dim) numbers of any norm; those that are zero or not finite are never found.
        k: How many of the best, at most m.

    Returns:
        Cosines within 1e-7 of float64's, and positions in the corpus; equal cosines in order of position. Missing hits
        are NaN and -1: where there are fewer, and for queries that are zero or not finite.

    Raises:
        SpecError: If shapes do not fit, or k is not between 1 and m.
    """
    queries, corpus = np.asarray(queries), np.asarray(corpus)
    if queries.ndim != 2 or corpus.ndim != 2 or queries.shape[1] != corpus.shape[1]:
        raise SpecError(f"queries {queries.shape} and corpus {corpus.shape} do not fit: (n, dim) and (m, dim)")
    check_k(k, len(corpus))
    units = float32_units(corpus)
    good = np.flatnonzero(units.any(axis=1))
    if len(good) == len(units):
        return nearest(queries, units, k)
    hits = nearest(queries, units[good], k)
    found = hits.positions >= 0
    hits.positions[found] = good[hits.positions[found]]
    return hits


def check_k(k: Any, rows: int) -> None:
    """Raise `SpecError` if a number of hits is not an integer between 1 and the number of vectors."""
    check_integer("top_k", k)
    if k > rows:
        raise SpecError(setting("top_k", k) + f" is more than the {rows:,} vectors that are searched")


def float32_units(vectors: np.ndarray) -> np.ndarray:
    """Scale (m, dim) vectors to length 1 in float32, block by block, as multiples of 2**-26; see `scores.unit_rows`.

    Rows of zeros stay, rows that are not finite become zeros.
    """
    units = np.empty(vectors.shape, np.float32)
    for start in range(0, len(vectors), _ROWS):
        units[start : start + _ROWS] = np.nan_to_num(unit_rows(vectors[start : start + _ROWS]))
    return units


def nearest(queries: np.ndarray, units: np.ndarray, k: int) -> Hits:
    """Find the k nearest vectors of a matrix in memory.

    Args:
        queries: (n, dim) numbers of any norm; those that are zero or not finite find nothing.
        units: (m, dim) float32 of length 1.
        k: How many; where there are fewer vectors, the rest is NaN and -1.
    """
    scores = np.empty((len(queries), k), np.float32)
    positions = np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), _QUERIES):
        some = slice(start, start + _QUERIES)
        scores[some], positions[some] = nearest_of_blocks(queries[some], [(0, units)], k)
    return Hits(scores, positions)


def nearest_of_blocks(queries: np.ndarray, blocks: Iterable[tuple[int, np.ndarray]], k: int) -> Hits:
    """Find the k nearest vectors among blocks of them, holding one block at a time.

    Args:
        queries: (n, dim) numbers of any norm; those that are zero or not finite find nothing.
        blocks: Position of the first vector, and (m, dim) float32 of length 1, m of any size.
        k: How many.

    Returns:
        Cosines and positions, best first, equal cosines in order of position; NaN and -1 where there are fewer.
    """
    search = ExactSearch(queries, k)
    for start, vectors in blocks:
        search.add(start, vectors)
    return search.hits


class ExactSearch:
    """Keeps the k nearest vectors of each query, while blocks of vectors go by.

    Attributes:
        hits: The best so far, (n, k); NaN and -1 where there are fewer.
    """

    def __init__(self, queries: np.ndarray, k: int) -> None:
        """Keep k for (n, dim) queries of any norm; those that are zero or not finite find nothing."""
        self.hits = no_hits(len(queries), k)
        self._k = k
        self._units = np.nan_to_num(unit_rows(queries))
        self._float32 = self._units.astype(np.float32)
        # The least float32 product with which a vector may still be among the k best.
        self._floor = np.where(self._units.any(axis=1), -np.inf, np.inf).astype(np.float32)
        self._seen = 0

    def add(self, start: int, vectors: np.ndarray) -> None:
        """Compare more vectors, (m, dim) float32 of length 1; `start` is the position of the first."""
        first = 0
        while first < len(vectors):
            rows = _ROWS if self._seen >= self._k else max(_FIRST_ROWS, self._k)
            block = vectors[first : first + rows]
            for query in range(0, len(self._units), _QUERIES):
                self._compare(slice(query, query + _QUERIES), start + first, block)
            self._seen += len(block)
            first += len(block)

    def _compare(self, queries: slice, start: int, block: np.ndarray) -> None:
        """Compare a block with some queries, and update their hits and floors."""
        floor = self._floor[queries]
        products = self._float32[queries] @ block.T
        rows, columns = _candidates(products, floor, block, self._k, is_first=self._seen < self._k)
        if not len(rows):
            return
        touched, group = np.unique(rows, return_inverse=True)
        cosines = self._exact_cosines(rows + queries.start, block, columns)
        order = np.lexsort((columns, -cosines, group))
        place = _places(group[order])
        best = order[place < self._k]
        found = no_hits(len(touched), self._k)
        found.scores[group[best], place[place < self._k]] = cosines[best]
        found.positions[group[best], place[place < self._k]] = start + columns[best]
        touched += queries.start
        kept = merge_hits([Hits(self.hits.scores[touched], self.hits.positions[touched]), found], self._k)
        self.hits.scores[touched], self.hits.positions[touched] = kept
        self._floor[touched] = np.where(kept.positions[:, -1] < 0, -np.inf, kept.scores[:, -1] - _SLACK)

    def _exact_cosines(self, queries: np.ndarray, block: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the cosines of pairs, (p,) float32; see the module for why nothing is rounded but the result."""
        cosines = np.empty(len(queries), np.float32)
        for start in range(0, len(cosines), _PAIRS):
            some = slice(start, start + _PAIRS)
            vectors = round_to_steps(block[columns[some]].astype(np.float64))
            cosines[some] = np.clip(np.einsum("nd,nd->n", self._units[queries[some]], vectors), -1, 1)
        return cosines


def _candidates(
    products: np.ndarray, floor: np.ndarray, block: np.ndarray, k: int, *, is_first: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs that may be among the k best of a query.

    Usually the floor that earlier blocks have set leaves few. It does not in the first block, or where each block is
    nearer than those before: then the k-th best of the block itself is a floor. Nor where many vectors are equal: of
    those only the first k can be hits.

    Args:
        products: (n, m) float32, of the queries and the block.
        floor: (n,) float32, the least product that is worth an exact comparison.
        block: (m, dim).
        k: How many are kept.
        is_first: Whether fewer than k vectors were seen, so that there is no floor yet.

    Returns:
        Rows of `products`, rising, and columns.
    """
    usual = _USUAL_CANDIDATES * k * len(products)
    pairs = None if is_first else np.flatnonzero(products >= floor[:, None])
    if pairs is None or len(pairs) > usual:
        if len(block) > k:
            floor = np.maximum(floor, np.partition(products, len(block) - k, axis=1)[:, len(block) - k] - _SLACK)
        pairs = np.flatnonzero(products >= floor[:, None])
    rows, columns = np.divmod(pairs, len(block))
    if len(rows) > usual:
        there = np.unique(columns)
        kept = np.zeros(len(block), bool)
        kept[there[_first_of_equal(block[there], k)]] = True
        rows, columns = rows[kept[columns]], columns[kept[columns]]
    return rows, columns


def _first_of_equal(vectors: np.ndarray, k: int) -> np.ndarray:
    """Return which vectors are among the first k of those that are equal to them, (m,) bool."""
    as_bytes = np.ascontiguousarray(vectors).view(np.dtype((np.void, vectors.shape[1] * vectors.itemsize)))[:, 0]
    _, group = np.unique(as_bytes, return_inverse=True)
    order = np.argsort(group, kind="stable")
    kept = np.empty(len(vectors), bool)
    kept[order] = _places(group[order]) < k
    return kept


def _places(groups: np.ndarray) -> np.ndarray:
    """Return the place of each element in its group, from 0; `groups` is (n,), rising."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    lengths = np.diff(starts, append=len(groups))
    return np.arange(len(groups)) - np.repeat(starts, lengths)


def no_hits(queries: int, k: int) -> Hits:
    """Return hits of which all are missing: NaN and -1, (queries, k)."""
    return Hits(np.full((queries, k), np.nan, np.float32), np.full((queries, k), -1, np.int64))


def merge_hits(parts: list[Hits], k: int) -> Hits:
    """Return the k best of hits of the same queries in different vectors; missing ones (NaN and -1) come last."""
    scores = np.concatenate([part.scores for part in parts], axis=1)
    positions = np.concatenate([part.positions for part in parts], axis=1)
    order = np.lexsort((positions, -scores), axis=1)[:, :k]  # sorts NaN last
    return Hits(np.take_along_axis(scores, order, axis=1), np.take_along_axis(positions, order, axis=1))
