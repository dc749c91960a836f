"""Exact nearest neighbours without an index: every query is compared with every vector, block by block.

A float32 product finds those that may be among the best, and the few that are left are compared exactly, as `scores`
does it: so equal vectors have equal cosines and come in their order, wherever they stand, whatever the block.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..encoders.plans.scores import unit_rows
from ..errors import SpecError
from .hits import Hits

_QUERIES = 1024
_ROWS = 8192
_FIRST_ROWS = 1024
"""Rows of the first block, whose k-th best of each query is what the others have to reach."""

_SLACK = 1e-5
"""What the float32 product of two unit vectors of some thousand values is off at most, with room to spare."""

_PAIRS = 4096
"""Pairs that are compared exactly at a time: some 16 MB of 512 values."""

_MOST_HELD = 1 << 20
"""Candidates of a block of queries that are held before the exact ones decide: more come of equal vectors alone."""


class _Held(NamedTuple):
    """Candidates: the query of each, its position, and its cosine by the float32 product."""

    rows: np.ndarray
    positions: np.ndarray
    scores: np.ndarray


def exact_top_k(queries: Any, corpus: Any, k: int) -> Hits:
    """Find the k vectors of a corpus with the highest cosine to each query.

    Args:
        queries: (n, dim) numbers of any norm.
        corpus: (m, dim) numbers of any norm; those that are zero or not finite are never found.
        k: How many of the best, at most m.

    Returns:
        Cosines within 1e-7 of float64's, and positions in the corpus; equal cosines in the corpus's order. Where there
        are fewer, and of a query that is zero or not finite, NaN and -1.

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
    found = nearest(queries, units[good], k)
    there = found.positions >= 0
    found.positions[there] = good[found.positions[there]]
    return found


def check_k(k: Any, rows: int) -> None:
    """Refuse a number of hits that cannot be had.

    Raises:
        SpecError: If it is no whole number, or not between 1 and the number of vectors.
    """
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
        raise SpecError(f"top_k={k!r} is not a whole number of at least 1")
    if k > rows:
        raise SpecError(f"top_k={k} is more than the {rows:,} vectors that are searched")


def float32_units(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors to length 1, block by block; see `scores.unit_rows`.

    Args:
        vectors: (m, dim) numbers.

    Returns:
        (m, dim) float32, every value a multiple of 2**-26; rows of zeros stay, rows that are not finite become zeros.
    """
    units = np.empty(vectors.shape, np.float32)
    for start in range(0, len(vectors), _ROWS):
        units[start : start + _ROWS] = np.nan_to_num(unit_rows(vectors[start : start + _ROWS]))
    return units


def nearest(queries: np.ndarray, units: np.ndarray, k: int) -> Hits:
    """Do what `exact_top_k` does with vectors that `float32_units` made.

    Args:
        queries: (n, dim) numbers.
        units: (m, dim) float32 of length 1.
        k: How many; of fewer vectors all are found, and the rest is NaN and -1.
    """
    scores = np.full((len(queries), k), np.nan, np.float32)
    positions = np.full((len(queries), k), -1, np.int64)
    for start in range(0, len(queries), _QUERIES):
        exact = np.nan_to_num(unit_rows(queries[start : start + _QUERIES]))
        good = np.flatnonzero(exact.any(axis=1))
        if not len(good):
            continue
        found = _best(exact[good], units, k)
        row, place = start + good[found.rows], _places(found.rows)
        scores[row, place], positions[row, place] = found.scores, found.positions
    return Hits(scores, positions)


def _best(queries: np.ndarray, units: np.ndarray, k: int) -> _Held:
    """Return the k best of each query, by query and falling cosine.

    Args:
        queries: (n, dim) float64 of length 1.
        units: (m, dim) float32.
        k: How many.
    """
    left = queries.astype(np.float32)
    floor: np.ndarray = np.full(len(queries), -np.inf, np.float32)
    held = _Held(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    for start, stop in itertools.pairwise(_cuts(len(units), k)):
        products = left @ units[start:stop].T
        if start == 0 and stop > k:
            floor = np.partition(products, stop - k, axis=1)[:, stop - k] - _SLACK
        rows, columns = np.nonzero(products >= floor[:, None])
        reached = _Held(rows, columns + start, products[rows, columns])
        held = _Held(*(np.concatenate(both) for both in zip(held, reached, strict=True)))
        if len(held.rows) > _MOST_HELD:
            held = _exact(held, queries, units, k)
        held, floor = _pruned(held, floor, k)
    return _exact(held, queries, units, k)


def _cuts(rows: int, k: int) -> Iterator[int]:
    """Yield where blocks begin and end; the first is small, but as long as k."""
    first = max(_FIRST_ROWS, k)
    yield 0
    yield from range(first, rows, _ROWS)
    yield rows


def _pruned(held: _Held, floor: np.ndarray, k: int) -> tuple[_Held, np.ndarray]:
    """Drop what cannot be among the k best any more, and say what the next ones have to reach."""
    order = np.lexsort((-held.scores, held.rows))
    held = _Held(*(part[order] for part in held))
    kth = _places(held.rows) == k - 1
    floor = floor.copy()
    floor[held.rows[kth]] = held.scores[kth] - _SLACK
    stays = held.scores >= floor[held.rows]
    return _Held(*(part[stays] for part in held)), floor


def _exact(held: _Held, queries: np.ndarray, units: np.ndarray, k: int) -> _Held:
    """Compare candidates exactly, and keep the k best of each query: equal ones in the order of their positions.

    Both sides are multiples of 2**-26, so that float64 adds up their products without rounding.
    """
    cosines = np.empty(len(held.rows), np.float32)
    for start in range(0, len(cosines), _PAIRS):
        rows, positions = held.rows[start : start + _PAIRS], held.positions[start : start + _PAIRS]
        products = np.einsum("nd,nd->n", queries[rows], units[positions].astype(np.float64))
        cosines[start : start + _PAIRS] = np.clip(products, -1, 1)
    order = np.lexsort((held.positions, -cosines, held.rows))
    best = order[_places(held.rows[order]) < k]
    return _Held(held.rows[best], held.positions[best], cosines[best])


def _places(rows: np.ndarray) -> np.ndarray:
    """Return for each candidate which of its query's it is, from 0.

    Args:
        rows: (n,) the query of each, rising.
    """
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    lengths = np.diff(starts, append=len(rows))
    return np.arange(len(rows)) - np.repeat(starts, lengths)
