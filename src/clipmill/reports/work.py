"""The course of a job, from the manifests of its shards: rows over time, batches, and where the time was spent."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .sample import readable

_BINS = 60
_LONG_PAUSE_S = 60.0
_PAUSES, _SLOWEST = 5, 5
_FEWEST_TO_COMPARE = 4
"""Shards below which none is called slow."""


class Pause(NamedTuple):
    """A time in which nothing was worked on: between a job that was stopped and the one that went on.

    Attributes:
        start: Its beginning, in seconds since 1970.
        stop: Its end.
    """

    start: float
    stop: float


class SlowShard(NamedTuple):
    """A shard that took long for its rows.

    Attributes:
        first_path: The first file of its input; None where the manifest does not say.
        seconds: Of work.
    """

    name: str
    first_path: str | None
    rows: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """Rows over time.

    Attributes:
        edges: (n + 1,) float64, in seconds since 1970.
        per_second: (n,) float64: rows a second between two edges.
        pauses: The longest ones in which no shard was worked on, in order of time.
    """

    edges: np.ndarray
    per_second: np.ndarray
    pauses: list[Pause]


@dataclasses.dataclass
class Work:
    """The course of a job, as the manifests of its shards describe it.

    Attributes:
        shards: Manifests that were read.
        timed: (n, 3) float64: start, end (seconds since 1970) and rows of the shards that record times.
        batch_rows: Calls of the model by their rows.
        msec: Milliseconds of `fetch`, `decode` and `encode`, summed over threads.
        seconds: Seconds of work, summed over shards.
        resolved: The runtime, precision and device that workers chose, with the number of their shards.
        slowest: Shards with the most seconds per row.
    """

    shards: int
    timed: np.ndarray
    batch_rows: dict[int, int]
    msec: dict[str, float]
    seconds: float
    resolved: list[tuple[dict[str, Any], int]]
    slowest: list[SlowShard]

    @classmethod
    def of(cls, manifests: Iterable[Mapping[str, Any]]) -> Work:
        """Add up manifests.

        A shard's work ends with its last row; it begins its `seconds` before that, and no later than its first row.
        """
        spans: list[tuple[float, float, int]] = []
        batch_rows: collections.Counter[int] = collections.Counter()
        msec = {"fetch": 0.0, "decode": 0.0, "encode": 0.0}
        resolved: list[tuple[dict[str, Any], int]] = []
        taken: list[SlowShard] = []
        shards, seconds = 0, 0.0
        for manifest in manifests:
            shards += 1
            took, rows = float(manifest.get("seconds") or 0.0), int(manifest.get("input_rows") or 0)
            seconds += took
            first, last = manifest.get("first_row_at"), manifest.get("last_row_at")
            if first and last and rows:
                spans.append((min(float(first), float(last) - took), float(last), rows))
            batch_rows.update({int(size): calls for size, calls in (manifest.get("batch_rows") or {}).items()})
            for part in msec:
                msec[part] += float(manifest.get(f"{part}_msec") or 0.0)
            if manifest.get("resolved"):
                _count(resolved, manifest["resolved"])
            if rows and took:
                path = (manifest.get("shard") or {}).get("first_path")
                taken.append(SlowShard(str(manifest.get("name")), path and readable(str(path)), rows, took))
        slowest = sorted(taken, key=lambda one: -one.seconds / one.rows)[:_SLOWEST]
        timed = np.array(spans, np.float64).reshape(-1, 3)
        enough = len(taken) >= _FEWEST_TO_COMPARE
        return cls(shards, timed, dict(sorted(batch_rows.items())), msec, seconds, resolved, slowest if enough else [])

    def rate(self, bins: int = _BINS) -> Rate | None:
        """Return rows a second over time, each shard's rows spread evenly over its work.

        It is None where no shard says when it was worked on, or all in the same moment.
        """
        if not len(self.timed):
            return None
        starts, stops = self.timed[:, 0], self.timed[:, 1]
        low, high = float(starts.min()), float(stops.max())
        if high <= low:
            return None
        edges = np.linspace(low, high, bins + 1)
        counts = np.zeros(bins)
        for start, stop, number in self.timed:
            # rows that are done by each edge; a shard of no duration jumps
            done = np.interp(edges, [start, stop], [0.0, 1.0]) if stop > start else (edges >= stop).astype(float)
            done[0] = 0.0
            counts += number * np.diff(done)
        return Rate(edges, counts / np.diff(edges), _pauses(starts, stops, high - low))


def _count(resolved: list[tuple[dict[str, Any], int]], found: dict[str, Any]) -> None:
    for number, (known, shards) in enumerate(resolved):
        if known == found:
            resolved[number] = (known, shards + 1)
            return
    resolved.append((found, 1))


def _pauses(starts: np.ndarray, stops: np.ndarray, whole: float) -> list[Pause]:
    """Return the longest times that lie in no shard's work."""
    order = np.argsort(starts, kind="stable")
    ended = np.maximum.accumulate(stops[order])
    gaps = starts[order][1:] - ended[:-1]
    long = np.flatnonzero(gaps >= max(_LONG_PAUSE_S, whole / _BINS))
    longest = sorted(long[np.argsort(-gaps[long], kind="stable")][:_PAUSES].tolist())
    return [Pause(float(ended[n]), float(starts[order][n + 1])) for n in longest]
