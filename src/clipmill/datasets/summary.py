"""The results of a job: the sums of the manifests of its shards."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class DatasetSummary:
    """The results of a job, summed over the manifests of its shards.

    Attributes:
        input_rows: Rows and documents that were read.
        failed_rows: Rows and documents with at least one failure.
        skipped: Rows and documents that were skipped because another dataset has their vectors.
        rows: Rows in the files.
        rejected: Rows that were rejected, in files of their own.
        embedded: Values embedded; a row with two columns has two.
        scored: Candidates and pairs with scores, or values with labels, in the files.
        given: Values that came with precomputed vectors.
        failed: Values that failed, by reason code.
        nulls: Values that were null.
        truncated_texts: Texts truncated to the context length.
        cache_hits: Values that got the vector of an equal value.
        cache_misses: Cacheable values that were the first of their kind.
        seconds: Seconds of work, summed over shards.
        shards: Shards that are finished.
        loads: Models loaded, summed over processes.
        processes: Processes that wrote shards.
        resolved: What workers resolved at load (runtime, precision, device, weights' sha256), without duplicates.
        first_row_at: When the first row was embedded, in seconds since 1970; None if no row was.
        last_row_at: When the last row was embedded.
        active_seconds: Seconds from the first to the last embedded row, summed over the starts of the job.
        complete: Whether all shards exist and the job was finished.
    """

    input_rows: int = 0
    failed_rows: int = 0
    skipped: int = 0
    rows: int = 0
    rejected: int = 0
    embedded: int = 0
    scored: int = 0
    given: int = 0
    failed: dict[str, int] = dataclasses.field(default_factory=dict)
    nulls: int = 0
    truncated_texts: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    seconds: float = 0.0
    shards: int = 0
    loads: int = 0
    processes: int = 0
    resolved: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    first_row_at: float | None = None
    last_row_at: float | None = None
    active_seconds: float = 0.0
    complete: bool = False

    @property
    def rows_per_second(self) -> float | None:
        """Processed rows divided by `active_seconds`; None where that says little.

        A shard's rows are read and embedded before the first of them comes out, so of one shard only its end is
        measured, and in less than a second the ends of a few.
        """
        if self.shards < 2 or self.active_seconds < 1:
            return None
        return (self.input_rows - self.skipped) / self.active_seconds


_TOTALS = (
    *("input_rows", "failed_rows", "skipped", "rows", "rejected", "embedded", "scored", "given"),
    *("nulls", "truncated_texts", "cache_hits", "cache_misses"),
)


class Totals:
    """Adds up manifests one by one; what it holds grows with the processes of a job, not with its shards.

    Attributes:
        shards: How many manifests were added.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self.shards = 0
        self._sums = dict.fromkeys((*_TOTALS, "seconds"), 0.0)
        self._failed: collections.Counter[str] = collections.Counter()
        self._loads: dict[str, int] = {}
        self._resolved: list[dict[str, Any]] = []
        self._spans: dict[Any, dict[str, tuple[float, float]]] = {}  # by start of the job, and host
        self._first: float | None = None
        self._last: float | None = None

    def add(self, manifest: Mapping[str, Any]) -> None:
        """Add a shard."""
        self.shards += 1
        for name in self._sums:
            self._sums[name] += manifest.get(name) or 0
        self._failed.update(manifest.get("failed") or {})
        process = str(manifest.get("process"))
        self._loads[process] = max(self._loads.get(process, 0), int(manifest.get("loads") or 0))
        if manifest.get("resolved") and manifest["resolved"] not in self._resolved:
            self._resolved.append(manifest["resolved"])
        first, last = manifest.get("first_row_at"), manifest.get("last_row_at")
        if first:
            self._first = first if self._first is None else min(self._first, first)
        if last:
            self._last = last if self._last is None else max(self._last, last)
        if first and last:
            of_run = self._spans.setdefault(manifest.get("run"), {})
            host = process.rpartition(":")[0]
            start, stop = of_run.get(host, (first, last))
            of_run[host] = min(start, first), max(stop, last)

    def summary(self, *, complete: bool) -> DatasetSummary:
        """Return the sums; the time between two starts of a job is no part of its `active_seconds`."""
        return DatasetSummary(
            **{name: _whole(self._sums[name]) for name in _TOTALS},
            failed=dict(sorted(self._failed.items())),
            seconds=round(self._sums["seconds"], 3),
            shards=self.shards,
            loads=sum(self._loads.values()),
            processes=len(self._loads),
            resolved=self._resolved,
            first_row_at=self._first,
            last_row_at=self._last,
            active_seconds=sum(map(_seconds_of, self._spans.values())),
            complete=complete,
        )


def _seconds_of(hosts: Mapping[str, tuple[float, float]]) -> float:
    """Return the seconds from the first to the last row of a start of a job, of which every host had its own clock.

    If the clocks are apart, all hosts together seem to take longer than one after the other, which is then returned.
    """
    starts, stops = zip(*hosts.values(), strict=True)
    return min(max(stops) - min(starts), sum(stop - start for start, stop in hosts.values()))


def _whole(number: float) -> Any:
    return int(number) if number == int(number) else number
