"""The share of nearest neighbours that other vectors of the same rows keep."""

from __future__ import annotations

import numpy as np
import pytest

from clipmill.indexes.neighbours import kept_neighbours, kept_neighbours_of_rows


def _nearest(vectors: np.ndarray, query: np.ndarray, count: int = 10) -> list[int]:
    return list(np.argsort(-(vectors @ query) / np.linalg.norm(vectors, axis=1))[:count])


def test_the_neighbours_that_stay_are_counted() -> None:
    rng = np.random.default_rng(0)
    queries, database = rng.normal(size=(7, 16)), rng.normal(size=(300, 16))
    assert kept_neighbours((queries, database), (queries * 3, database * 2)) == 1
    noisy = database + rng.normal(size=database.shape) * 0.3
    expected = np.mean([len({*_nearest(database, q)} & {*_nearest(noisy, q)}) / 10 for q in queries])
    assert 0.3 < expected < 1
    assert kept_neighbours((queries, database), (queries, noisy)) == pytest.approx(expected)
    assert kept_neighbours((queries, database), (queries, rng.permutation(database))) < 0.2


def test_of_equal_neighbours_any_will_do() -> None:
    database = np.repeat(np.eye(4), 5, axis=0)  # each vector five times
    query = np.array([[1.0, 0, 0, 0]])
    nearly = database.copy()
    nearly[:5, 1] = [0, 1e-3, 2e-3, 3e-3, 4e-3]  # which of the five come first is another matter now
    assert kept_neighbours((query, database), (query, nearly), 3) == 1
    assert kept_neighbours((query, database), (np.array([[0, 1.0, 0, 0]]), database), 3) == 0


def test_a_row_is_not_its_own_neighbour() -> None:
    """Counted with itself, a row would keep one neighbour for certain."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 16))
    noisy = rows + rng.normal(size=rows.shape) * 0.3

    def others(vectors: np.ndarray, row: int) -> set[int]:
        return {*_nearest(vectors, vectors[row], 11)} - {row}

    expected = np.mean([len(others(rows, row) & others(noisy, row)) / 10 for row in range(60)])
    assert 0.3 < expected < 1
    assert kept_neighbours_of_rows(rows, noisy) == pytest.approx(expected)
    assert kept_neighbours_of_rows(rows, rows * 2) == 1


def test_a_vector_that_is_not_finite_keeps_no_neighbours() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 16))
    broken = rows.copy()
    broken[0] = np.nan
    assert kept_neighbours_of_rows(rows, broken) <= 39 / 40
