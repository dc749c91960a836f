"""What is counted, under which name, and the totals of this process.

One table, `METRICS`, says all names. Beam's counters and Spark's have them as they stand there, `failed_empty` for a
failure with the code `empty`; Prometheus' begin with `clipmill_`, counters end with `_total`, and the code is a label.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ..failures import Code
from .stats import Stats

Kind = Literal["counter", "gauge", "histogram"]

Counts = dict[tuple[str, str], float]
"""Numbers by a metric's name and the value of its label, "" where it has none; of `batch_rows` calls by their rows."""

MODELS_LOADED = "models_loaded"


@dataclasses.dataclass(frozen=True, slots=True)
class Metric:
    """One line of the table.

    Attributes:
        name: As Beam and Spark show it; the unit stands in it where there is one.
        kind: As in Prometheus.
        help: What is counted, in one sentence.
        stats: Which field of `Stats` holds it; None if jobs alone know it.
        manifest: Which entry of a shard's manifest holds it; None if none does.
        label: What tells its numbers apart, if anything.
    """

    name: str
    kind: Kind
    help: str
    stats: str | None = None
    manifest: str | None = None
    label: str | None = None

    @property
    def prometheus(self) -> str:
        """The name in Prometheus: what a query says, without the endings of a histogram's parts."""
        return f"clipmill_{self.name}" + ("_total" if self.kind == "counter" else "")

    @property
    def everywhere(self) -> bool:
        """Whether transforms, functions and processes count it; else jobs that write a dataset do, and they alone."""
        return self.stats is not None or self.name == MODELS_LOADED


METRICS = (
    Metric("rows_in", "counter", "Rows and documents taken in.", "rows", "input_rows"),
    Metric("rows_failed", "counter", "Rows and documents of which something failed.", None, "failed_rows"),
    Metric(
        "rows_skipped",
        "counter",
        "Rows and documents passed over, since another dataset has their vectors.",
        None,
        "skipped",
    ),
    Metric("rows_written", "counter", "Rows and documents in the files of a dataset.", None, "rows"),
    Metric("embedded", "counter", "Values that got a vector; a row of two columns has two.", "embedded", "embedded"),
    Metric("scored", "counter", "Candidates with scores, or values with labels, in the files.", None, "scored"),
    Metric("nulls", "counter", "Values that were null.", "nulls", "nulls"),
    Metric("given_vectors", "counter", "Values whose vectors were there already.", "given", "given"),
    Metric("failed", "counter", "Values that failed, by reason.", "failed", "failed", "code"),
    Metric("truncated_texts", "counter", "Texts cut to the context length.", "truncated_texts", "truncated_texts"),
    Metric("cache_hits", "counter", "Values whose vectors were taken from equal ones.", "cache_hits", "cache_hits"),
    Metric(
        "cache_misses",
        "counter",
        "Values that could have been taken from equal ones, and were the first of their kind.",
        "cache_misses",
        "cache_misses",
    ),
    Metric("batches", "counter", "Calls of the model.", "batches", "batches"),
    Metric("batch_rows", "histogram", "Rows in a call of the model.", "batch_rows", "batch_rows"),
    Metric("fetch_msec", "counter", "Milliseconds of fetching, summed over threads.", "fetch_msec", "fetch_msec"),
    Metric(
        "decode_msec",
        "counter",
        "Milliseconds of decoding and tokenising, summed over threads.",
        "decode_msec",
        "decode_msec",
    ),
    Metric("encode_msec", "counter", "Milliseconds in the model.", "encode_msec", "encode_msec"),
    Metric(
        "out_of_memory_retries",
        "counter",
        "Micro-batches halved because memory ran out.",
        "out_of_memory_retries",
        "out_of_memory_retries",
    ),
    Metric(MODELS_LOADED, "counter", "Models loaded."),
    Metric("shards", "counter", "Shards of a dataset that are finished."),
    Metric("shards_planned", "gauge", "Shards that a dataset will have."),
)
"""All there is. A name that is not here is counted nowhere."""

CODES = tuple(str(code) for code in Code)
"""The values of the label `code`."""

_BY_NAME = {metric.name: metric for metric in METRICS}
_ORDER = {name: place for place, name in enumerate(_BY_NAME)}
_SPLIT = {"failed", "batch_rows"}
_OF_STATS = [(metric.name, metric.stats) for metric in METRICS if metric.stats and metric.name not in _SPLIT]
_SPLIT_OF_STATS = [(metric.name, metric.stats) for metric in METRICS if metric.stats and metric.name in _SPLIT]


def counts_of(stats: Stats) -> Counts:
    """Return what a session counted; zeros are left out."""
    counts: Counts = {(name, ""): number for name, field in _OF_STATS if (number := getattr(stats, field))}
    for name, field in _SPLIT_OF_STATS:
        for label, number in getattr(stats, field).items():
            counts[name, str(label)] = number
    return counts


def counts_of_manifest(manifest: Mapping[str, Any]) -> Counts:
    """Return what the manifest of a shard says, which is what a dataset's summary adds up; but for loads of models.

    Those are told for the process that wrote it, so that they cannot be added.
    """
    counts: Counts = {("shards", ""): 1}
    for metric in METRICS:
        value = manifest.get(metric.manifest) if metric.manifest is not None else None
        if metric.name in _SPLIT:
            counts |= {(metric.name, str(label)): number for label, number in (value or {}).items()}
        elif value:
            counts[metric.name, ""] = value
    return counts


def add_counts(into: Counts, more: Mapping[tuple[str, str], float]) -> Counts:
    """Add numbers to others, which are changed and returned."""
    for key, number in more.items():
        into[key] = into.get(key, 0) + number
    return into


def engine_name(name: str, label: str = "") -> str:
    """Return the name of a number on Beam and Spark: `embedded`, `failed_empty`."""
    return f"{name}_{label}" if label else name


def by_engine_names(counts: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """Return numbers under the names that they have on Beam and Spark, in the order of the table.

    Returns:
        What is not zero. Of `batch_rows` what Beam tells of a distribution: `batch_rows_count`, `batch_rows_sum`,
        `batch_rows_min` and `batch_rows_max`.
    """
    named: dict[str, float] = {}
    for (name, label), number in sorted(counts.items(), key=lambda pair: (_ORDER[pair[0][0]], pair[0][1])):
        if _BY_NAME[name].kind != "histogram" and number:
            named[engine_name(name, label)] = number
    sizes = batch_sizes(counts)
    return named | named_distribution("batch_rows", sizes) if sizes else named


def batch_sizes(counts: Mapping[tuple[str, str], float]) -> dict[int, float]:
    """Return how many calls of the model had how many rows, by rising size."""
    sizes = {int(label): calls for (name, label), calls in counts.items() if name == "batch_rows"}
    return dict(sorted(sizes.items()))


def named_distribution(name: str, sizes: Mapping[int, float]) -> dict[str, float]:
    """Return what is told of a distribution that is not empty, under the engines' names."""
    return {
        f"{name}_count": sum(sizes.values()),
        f"{name}_sum": sum(size * times for size, times in sizes.items()),
        f"{name}_min": min(sizes),
        f"{name}_max": max(sizes),
    }


# --- the totals of this process --------------------------------------------------------------------------------------


class _Totals:
    """What this process counted: what was reported, and what sessions that report to nobody have counted so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loads = 0
        self._reported: Counts = {}
        self._live: dict[int, Stats] = {}
        self._ended: collections.deque[int] = collections.deque()

    def add(self, counts: Mapping[tuple[str, str], float]) -> None:
        with self._lock:
            add_counts(self._reported, counts)

    def add_load(self) -> None:
        with self._lock:
            self._loads += 1

    def watch(self, owner: object, stats: Stats) -> None:
        """Count what stands in `stats`, now and when its owner is gone."""
        with self._lock:
            self._fold()
            self._live[id(stats)] = stats
        # without the lock: a finalizer runs wherever memory is given back, perhaps in a thread that holds it
        weakref.finalize(owner, self._ended.append, id(stats)).atexit = False

    def counts(self) -> Counts:
        with self._lock:
            self._fold()
            found = dict(self._reported)
            for stats in self._live.values():
                add_counts(found, counts_of(_copy_of(stats)))
            if self._loads:
                found[MODELS_LOADED, ""] = self._loads
        return found

    def _fold(self) -> None:
        """Keep the numbers of sessions that are gone, and not the sessions' `Stats`."""
        while self._ended:
            add_counts(self._reported, counts_of(self._live.pop(self._ended.popleft())))


def _copy_of(stats: Stats) -> Stats:
    """Return numbers that stand still; `dict` copies without giving way to the thread that counts."""
    return dataclasses.replace(
        stats, failed=collections.Counter(dict(stats.failed)), batch_rows=collections.Counter(dict(stats.batch_rows))
    )


_totals = _Totals()


def _begin_anew() -> None:
    """Leave a fork's parent its numbers, which it tells itself, and its lock, which another of its threads may hold."""
    global _totals
    _totals = _Totals()


os.register_at_fork(after_in_child=_begin_anew)
_listeners: list[Callable[[], None]] = []


def record(counts: Mapping[tuple[str, str], float]) -> None:
    """Add to this process's totals; for whoever gives a session a `Stats` of his own."""
    _totals.add(counts)
    for listener in _listeners:
        listener()


def record_load() -> None:
    """Add a loaded model to this process's totals."""
    _totals.add_load()


def watch(owner: object, stats: Stats) -> None:
    """Make what a session counts part of this process's totals, as it counts.

    Args:
        owner: The session; when it is gone, its numbers stay.
        stats: Where it counts, and nobody takes from.
    """
    _totals.watch(owner, stats)


def on_record(listener: Callable[[], None]) -> None:
    """Have a function called whenever something was recorded, in the thread that did."""
    _listeners.append(listener)


def process_counts() -> Counts:
    """Return this process's totals, models loaded included.

    What the engine did twice (a bundle or task that it repeated) was counted twice: this is work that was done here.
    """
    return _totals.counts()
