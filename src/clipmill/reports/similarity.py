"""Similarity of vectors: cosines of all pairs of a sample, and near-duplicates."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from .histograms import Counted, Histogram

_BLOCK = 256
"""Vectors that are compared with all others at once: with 10,000 others their cosines are 10 MB."""


class Pair(NamedTuple):
    """Two vectors that are nearly the same, by their numbers, and the cosine between them."""

    first: int
    second: int
    cosine: float


@dataclasses.dataclass(frozen=True, slots=True)
class Likeness:
    """The similarity of the vectors of a sample.

    Attributes:
        vectors: How many were compared; vectors of zeros have no direction and are left out.
        pairs: Cosines of every two of them.
        nearest: For each the cosine of the one that is nearest to it.
        mean: Of the cosines of every two; NaN below two vectors.
        duplicates: The most similar pairs at or above the threshold, most similar first, ties in input order.
        duplicates_found: How many pairs there are at or above it.
    """

    vectors: int
    pairs: Histogram
    nearest: Histogram
    mean: float
    duplicates: list[Pair]
    duplicates_found: int


def directions(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors divided by their norms, and the numbers of those that have one.

    Args:
        vectors: (n, dim), finite.

    Returns:
        (m, dim) float32 and (m,) int64, m ≤ n.
    """
    vectors = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(vectors, axis=1)
    there = np.flatnonzero((norms > 0) & np.isfinite(norms))
    return vectors[there] / norms[there, None], there


def likeness_of(vectors: np.ndarray, *, threshold: float, most: int) -> Likeness:
    """Compare every vector with every other, a block at a time.

    Args:
        vectors: (n, dim), finite; n² cosines are computed, so this is for samples.
        threshold: Cosine from which on two count as nearly the same.
        most: How many of these pairs are kept.
    """
    unit, there = directions(vectors)
    pairs, nearest = Counted(-1.0, 1.0), Counted(-1.0, 1.0)
    best = np.full(len(unit), -np.inf, np.float32)
    kept: list[Pair] = []
    found, total = 0, 0.0
    for start in range(0, len(unit), _BLOCK):
        block = unit[start : start + _BLOCK]
        cosines = np.clip(block @ unit[start:].T, -1.0, 1.0)
        rows, columns = np.triu_indices(len(block), 1, cosines.shape[1])  # each pair once, none with itself
        values = cosines[rows, columns]
        pairs.add(values)
        total += float(values.sum(dtype=np.float64))
        np.maximum.at(best, start + rows, values)
        np.maximum.at(best, start + columns, values)
        alike = np.flatnonzero(values >= threshold)
        found += len(alike)
        alike = alike[np.argsort(-values[alike], kind="stable")[:most]]
        kept += [
            Pair(int(there[start + rows[n]]), int(there[start + columns[n]]), float(values[n])) for n in alike.tolist()
        ]
        kept = sorted(kept, key=lambda pair: -pair.cosine)[:most]
    if len(unit) > 1:
        nearest.add(best)
    count = len(unit) * (len(unit) - 1) // 2
    mean = total / count if count else float("nan")
    return Likeness(len(unit), pairs.shown(), nearest.shown(), mean, kept, found)
