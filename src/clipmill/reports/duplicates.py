"""Rows that are nearly the same: within a sample, or of a sample and all rows of an index."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from ..indexes import OpenIndex
from .columns import VectorColumn
from .sample import Entry, Rows, RowSample, entries_at
from .similarity import Likeness

_NEIGHBOURS = 8
"""Nearest rows that are looked up for each of the sample, itself among them."""


class Duplicate(NamedTuple):
    """Two rows that are nearly the same."""

    first: Entry
    second: Entry
    cosine: float


@dataclasses.dataclass(frozen=True, slots=True)
class Duplicates:
    """Pairs of rows that are nearly the same.

    Attributes:
        pairs: The most similar ones, most similar first.
        compared: Vectors of the sample that were compared.
        among: With how many: those of the sample, or all of an index.
        neighbours: Of an index, how many nearest rows were looked up for each; None where every pair was compared.
        threshold: Cosine from which on two are nearly the same.
    """

    pairs: list[Duplicate]
    found: int
    compared: int
    among: int
    neighbours: int | None
    threshold: float


def duplicates_within(sample: RowSample, likeness: Likeness, threshold: float) -> Duplicates:
    """Take the pairs that were found among the vectors of a sample."""
    entries = sample.entries
    pairs = [Duplicate(entries[pair.first], entries[pair.second], pair.cosine) for pair in likeness.duplicates]
    return Duplicates(pairs, likeness.duplicates_found, likeness.vectors, likeness.vectors, None, threshold)


def duplicates_through(
    index: OpenIndex, source: Rows, column: VectorColumn, sample: RowSample, *, threshold: float, most: int
) -> Duplicates:
    """Look up the nearest rows of every row of a sample in the whole index; `threshold` is a cosine."""
    neighbours = min(_NEIGHBOURS, source.rows)
    if not sample.entries:
        return Duplicates([], 0, 0, source.rows, neighbours - 1, threshold)
    scores, positions = index.search(sample.vectors, neighbours)
    owners = np.array([entry.position for entry in sample.entries], np.int64)[:, None]
    alike = (positions != owners) & (positions >= 0) & (scores >= threshold)
    found: dict[tuple[int, int], float] = {}
    for row, place in zip(*np.nonzero(alike), strict=True):
        one, other = int(owners[row, 0]), int(positions[row, place])
        found.setdefault((min(one, other), max(one, other)), float(scores[row, place]))
    best = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:most]
    entries = entries_at(source, column, sorted({position for pair, _ in best for position in pair}))
    pairs = [Duplicate(entries[one], entries[other], cosine) for (one, other), cosine in best]
    return Duplicates(pairs, len(found), len(sample.entries), source.rows, neighbours - 1, threshold)
