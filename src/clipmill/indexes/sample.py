"""Rows drawn by seed from all parts of a source: those that an index is trained on, and those that it is tried with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from .source import Source, joined, read_piece, rows_of_block
from .units import matrix_of, units_of

_BLOCK_BYTES = 2 * 2**20
"""Vectors that are read together."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Vectors that were drawn.

    Attributes:
        training: (n, dim) float32 of length 1.
        queries: (q, dim) float32 of length 1; none of them is in `training`.
        query_rows: (q,) int64, their numbers among the rows of the source, rising.
    """

    training: np.ndarray
    queries: np.ndarray
    query_rows: np.ndarray


def draw(source: Source, training: int, queries: int, seed: int, *, left_out: np.ndarray | None = None) -> Sample:
    """Draw vectors, and read them: the files are gone through once, and what was not drawn is not kept.

    Args:
        source: Where from.
        training: How many to train on; fewer come if there are fewer, or drawn rows have no vector.
        queries: How many to search for.
        seed: Decides which.
        left_out: Numbers of rows that are not drawn, rising.

    Raises:
        DatasetError: If a file cannot be read, or a vector has another dimension.
    """
    rng = np.random.default_rng(seed)
    skipped = np.empty(0, np.int64) if left_out is None else left_out
    rows_left = source.rows - len(skipped)
    queries = min(queries, rows_left // 3 if training else rows_left)
    training = min(training, rows_left - queries)
    drawn = _distinct(rng, rows_left, queries + training)
    drawn += np.searchsorted(skipped - np.arange(len(skipped)), drawn, side="right")  # each past those before it
    is_query = np.zeros(len(drawn), bool)
    is_query[rng.choice(len(drawn), queries, replace=False)] = True
    learnt, searched = np.empty((training, source.dim), np.float32), np.empty((queries, source.dim), np.float32)
    rows = np.empty(queries, np.int64)
    learnt_count = searched_count = 0
    for numbers, vectors in _read(source, drawn):
        for_search = is_query[np.searchsorted(drawn, numbers)]
        count = int(for_search.sum())
        searched[searched_count : searched_count + count] = vectors[for_search]
        rows[searched_count : searched_count + count] = numbers[for_search]
        searched_count += count
        count = len(numbers) - count
        learnt[learnt_count : learnt_count + count] = vectors[~for_search]
        learnt_count += count
    return Sample(learnt[:learnt_count], searched[:searched_count], rows[:searched_count])


def _read(source: Source, drawn: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the rows that were drawn and have a vector with a direction: numbers, and (n, dim) float32 of length 1."""
    block_rows = rows_of_block(source.dim, _BLOCK_BYTES)
    for piece in joined(source.groups):
        start = piece.start
        for batch in read_piece(piece, [source.column], block_rows=block_rows):
            first, stop = np.searchsorted(drawn, (start, start + batch.num_rows))
            wanted = drawn[first:stop]
            if len(wanted):
                where = f"{piece.path}, rows drawn from its row {start - piece.start} on"
                matrix, there = matrix_of(batch.column(0).take(pa.array(wanted - start)), source.dim, where)
                units = units_of(matrix)
                yield wanted[there][units.good], units.vectors[units.good]
            start += batch.num_rows


def _distinct(rng: np.random.Generator, rows: int, count: int) -> np.ndarray:
    """Return different numbers below `rows`, rising, without a list of all of them."""
    if count * 2 >= rows:
        return np.sort(rng.permutation(rows)[:count])
    drawn = np.unique(rng.integers(rows, size=count))
    while len(drawn) < count:
        drawn = np.union1d(drawn, rng.integers(rows, size=count - len(drawn)))
    return drawn
