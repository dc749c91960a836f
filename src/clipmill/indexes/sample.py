"""Rows drawn at random from a source: those that an index is trained on, and the queries that measure its recall."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from .source import VectorSource, join_adjacent, read_piece, rows_of_block
from .units import matrix_of, to_unit_vectors

_BLOCK_BYTES = 2 * 2**20
"""Size of the vectors that are read at a time."""


@dataclasses.dataclass(frozen=True)
class VectorSample:
    """The vectors that were drawn.

    Attributes:
        training: (n, dim) float32 of length 1.
        queries: (q, dim) float32 of length 1; none of them is in `training`.
        query_rows: (q,) int64, their numbers among the rows of the source, rising.
    """

    training: np.ndarray
    queries: np.ndarray
    query_rows: np.ndarray


def draw_sample(
    source: VectorSource, training: int, queries: int, seed: int, *, left_out: np.ndarray | None = None
) -> VectorSample:
    """Draw rows, and read their vectors in one pass over the files.

    There may be fewer training rows and queries, since drawn rows may have no vector. `left_out` are numbers of rows
    that are never drawn, rising.
    """
    rng = np.random.default_rng(seed)
    skipped = np.empty(0, np.int64) if left_out is None else left_out
    rows_left = source.rows - len(skipped)
    queries = min(queries, rows_left // 3 if training else rows_left)
    training = min(training, rows_left - queries)
    drawn = _distinct(rng, rows_left, queries + training)
    drawn += np.searchsorted(skipped - np.arange(len(skipped)), drawn, side="right")  # skips the rows that are left out
    is_query = np.zeros(len(drawn), bool)
    is_query[rng.choice(len(drawn), queries, replace=False)] = True
    train, query = np.empty((training, source.dim), np.float32), np.empty((queries, source.dim), np.float32)
    rows = np.empty(queries, np.int64)
    train_count = query_count = 0
    for numbers, vectors in _read(source, drawn):
        query_here = is_query[np.searchsorted(drawn, numbers)]
        count = int(query_here.sum())
        query[query_count : query_count + count] = vectors[query_here]
        rows[query_count : query_count + count] = numbers[query_here]
        query_count += count
        count = len(numbers) - count
        train[train_count : train_count + count] = vectors[~query_here]
        train_count += count
    return VectorSample(train[:train_count], query[:query_count], rows[:query_count])


def _read(source: VectorSource, drawn: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the drawn rows that have a usable vector: their numbers, and (n, dim) float32 of length 1."""
    block_rows = rows_of_block(source.dim, _BLOCK_BYTES)
    for piece in join_adjacent(source.groups):
        start = piece.start
        for batch in read_piece(piece, [source.column], block_rows=block_rows):
            first, stop = np.searchsorted(drawn, (start, start + batch.num_rows))
            wanted = drawn[first:stop]
            if len(wanted):
                where = f"{piece.path}, rows drawn from its row {start - piece.start} on"
                matrix, valid = matrix_of(batch.column(0).take(pa.array(wanted - start)), source.dim, where)
                units = to_unit_vectors(matrix)
                yield wanted[valid][units.good], units.vectors[units.good]
            start += batch.num_rows


def _distinct(rng: np.random.Generator, rows: int, count: int) -> np.ndarray:
    """Return `count` distinct numbers below `rows`, rising, without holding all of them."""
    if count * 2 >= rows:
        return np.sort(rng.permutation(rows)[:count])
    drawn = np.unique(rng.integers(rows, size=count))
    while len(drawn) < count:
        drawn = np.union1d(drawn, rng.integers(rows, size=count - len(drawn)))
    return drawn
