"""Numbers counted in bins: all at once, or as they come."""

from __future__ import annotations

import dataclasses

import numpy as np

_FEWEST, _MOST = 8, 48
"""Bins that a plot shows well."""


def bins_for(count: int) -> int:
    """Return how many bins show so many numbers well: Rice's rule, 2·∛n, within what a plot holds."""
    return int(min(_MOST, max(_FEWEST, np.ceil(2 * np.cbrt(count)))))


@dataclasses.dataclass(frozen=True, slots=True)
class Histogram:
    """The number of values between neighbouring edges.

    Attributes:
        edges: (n + 1,) float64, ascending; a bin holds its lower edge, the last one both.
        counts: (n,) int64.
    """

    edges: np.ndarray
    counts: np.ndarray

    @property
    def total(self) -> int:
        """The number of counted values."""
        return int(self.counts.sum())


def histogram_of(values: np.ndarray, bins: int | None = None) -> Histogram:
    """Count finite numbers in bins between the smallest and the largest.

    Args:
        values: Of any shape and floating type; equal ones make a narrow range around them.
        bins: How many; by default as many as show so many numbers well.
    """
    values = np.asarray(values, np.float64).reshape(-1)
    bins = bins or bins_for(values.size)
    if not values.size:
        return Histogram(np.linspace(0.0, 1.0, bins + 1), np.zeros(bins, np.int64))
    low, high = float(values.min()), float(values.max())
    least = 1e-6 * max(1.0, abs(low), abs(high))  # narrower bins would show how floats are rounded
    if high - low < least:
        low, high = low - least / 2, high + least / 2
    counts, edges = np.histogram(values, bins, (low, high))
    return Histogram(edges, counts.astype(np.int64))


class Counted:
    """A histogram of a known range that is filled piece by piece, in memory that does not grow.

    It is counted in fine bins, so that the range that is shown can follow from what came.
    """

    def __init__(self, low: float, high: float, fine: int = 4096) -> None:
        """Begin with nothing.

        Args:
            low: The least number; smaller ones (by rounding) count as it.
            high: The greatest; larger ones count as it.
            fine: Bins in which it is counted.
        """
        self._edges = np.linspace(low, high, fine + 1)
        self._counts = np.zeros(fine, np.int64)

    def add(self, values: np.ndarray) -> None:
        """Count numbers, of any shape; NaN are passed over."""
        values = np.asarray(values, np.float64).reshape(-1)
        values = np.clip(values[~np.isnan(values)], self._edges[0], self._edges[-1])
        self._counts += np.histogram(values, self._edges)[0]

    def shown(self, bins: int | None = None) -> Histogram:
        """Return a few equal bins, over the part of the range in which something was counted.

        Args:
            bins: How many at most; by default as many as show so many numbers well.
        """
        bins = bins or bins_for(int(self._counts.sum()))
        there = np.flatnonzero(self._counts)
        if not there.size:
            return Histogram(self._edges[[0, -1]], np.zeros(1, np.int64))
        first, last = int(there[0]), int(there[-1]) + 1
        joined = -(-(last - first) // bins)  # fine bins in one that is shown
        first -= first % joined
        stop = min(len(self._counts), first + joined * -(-(last - first) // joined))
        starts = np.arange(first, stop, joined)
        edges = self._edges[[*starts, stop]]
        return Histogram(edges, np.add.reduceat(self._counts[first:stop], starts - first))
