"""The names of all metrics, and the totals of this process.

The table `METRICS` has all names. Beam and Spark use them unchanged, with `failed_empty` for failures with the code
`empty`. In Prometheus they begin with `clipmill_`, counters end with `_total`, and the code is a label.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

from ..failures import Code
from .stats import Stats

Kind = Literal["counter", "gauge", "histogram"]

Counts = dict[tuple[str, str], float]
"""Numbers by name and label of a metric, "" without a label. `batch_rows` holds the calls by their number of rows."""

MODELS_LOADED = "models_loaded"


@dataclasses.dataclass(frozen=True, slots=True)
class Metric:
    """One line of the table.

    Attributes:
        name: The name on Beam and Spark, with the unit if there is one.
        kind: The type in Prometheus.
        help: One sentence that says what is counted.
        stats: The field of `Stats` that holds it; None if only jobs count it.
        manifest: The entry of a shard's manifest that holds it; None if there is none.
        label: The name of its label, if it has one.
    """

    name: str
    kind: Kind
    help: str
    stats: str | None = None
    manifest: str | None = None
    label: str | None = None

    @classmethod
    def of_session(cls, name: str, help: str, *, kind: Kind = "counter", label: str | None = None) -> Self:
        """Describe a metric that `Stats` and the manifests of shards hold under its own name."""
        return cls(name, kind, help, name, name, label)

    @property
    def prometheus(self) -> str:
        """The name in Prometheus, without the suffixes of the parts of a histogram."""
        return f"clipmill_{self.name}" + ("_total" if self.kind == "counter" else "")

    @property
    def everywhere(self) -> bool:
        """Whether transforms, functions and processes count it, as opposed to jobs that write a dataset."""
        return self.stats is not None or self.name == MODELS_LOADED


METRICS = (
    Metric("rows_in", "counter", "Rows and documents read.", "rows", "input_rows"),
    Metric("rows_failed", "counter", "Rows and documents of which something failed.", None, "failed_rows"),
    Metric(
        "rows_skipped",
        "counter",
        "Rows and documents skipped, because another dataset has their vectors.",
        None,
        "skipped",
    ),
    Metric("rows_written", "counter", "Rows and documents in the files of a dataset.", None, "rows"),
    Metric(
        "rows_rejected",
        "counter",
        "Rows whose score is below the least one to keep, or that have none.",
        "rejected",
        "rejected",
    ),
    Metric.of_session("embedded", "Values that got a vector; a row of two columns has two."),
    Metric(
        "scored", "counter", "Candidates and pairs with scores, or values with labels, in the files.", None, "scored"
    ),
    Metric.of_session("nulls", "Values that were null."),
    Metric("given_vectors", "counter", "Values with precomputed vectors.", "given", "given"),
    Metric.of_session("failed", "Values that failed, by reason.", label="code"),
    Metric.of_session("truncated_texts", "Texts cut to the context length."),
    Metric.of_session("cache_hits", "Values whose vectors were reused from equal values."),
    Metric.of_session("cache_misses", "Values whose vectors could be reused, and that were the first of their kind."),
    Metric.of_session("batches", "Calls of the model."),
    Metric.of_session("batch_rows", "Rows in a call of the model.", kind="histogram"),
    Metric.of_session("fetch_msec", "Milliseconds of fetching, summed over threads."),
    Metric.of_session("decode_msec", "Milliseconds of decoding and tokenising, summed over threads."),
    Metric.of_session("encode_msec", "Milliseconds in the model."),
    Metric.of_session("out_of_memory_retries", "Micro-batches halved because memory ran out."),
    Metric(MODELS_LOADED, "counter", "Models loaded."),
    Metric("shards", "counter", "Finished shards of a dataset."),
    Metric("shards_planned", "gauge", "Shards that a dataset will have."),
)
"""All metrics."""

CODES = tuple(str(code) for code in Code)
"""The values of the label `code`."""

_BY_NAME = {metric.name: metric for metric in METRICS}
_ORDER = {name: place for place, name in enumerate(_BY_NAME)}
_SPLIT = {"failed", "batch_rows"}
_OF_STATS = [(metric.name, metric.stats) for metric in METRICS if metric.stats and metric.name not in _SPLIT]
_SPLIT_OF_STATS = [(metric.name, metric.stats) for metric in METRICS if metric.stats and metric.name in _SPLIT]


def counts_of(stats: Stats) -> Counts:
    """Return the counts of a session, without zeros."""
    counts: Counts = {(name, ""): number for name, field in _OF_STATS if (number := getattr(stats, field))}
    for name, field in _SPLIT_OF_STATS:
        for label, number in getattr(stats, field).items():
            counts[name, str(label)] = number
    return counts


def counts_of_manifest(manifest: Mapping[str, Any]) -> Counts:
    """Return the counts in the manifest of a shard, which the summary of a dataset adds up.

    Model loads are left out: a manifest has those of the whole process, so that they cannot be added.
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
    """Add numbers to `into`, and return it."""
    for key, number in more.items():
        into[key] = into.get(key, 0) + number
    return into


def engine_name(name: str, label: str = "") -> str:
    """Return the name of a number on Beam and Spark: `embedded`, `failed_empty`."""
    return f"{name}_{label}" if label else name


def by_engine_names(counts: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """Return numbers by their names on Beam and Spark, in the order of the table.

    Returns:
        The numbers other than zero. `batch_rows` has the values of a Beam distribution: `batch_rows_count`,
        `batch_rows_sum`, `batch_rows_min` and `batch_rows_max`.
    """
    named: dict[str, float] = {}
    for (name, label), number in sorted(counts.items(), key=lambda pair: (_ORDER[pair[0][0]], pair[0][1])):
        if _BY_NAME[name].kind != "histogram" and number:
            named[engine_name(name, label)] = number
    sizes = batch_sizes(counts)
    return named | named_distribution("batch_rows", sizes) if sizes else named


def batch_sizes(counts: Mapping[tuple[str, str], float]) -> dict[int, float]:
    """Return the number of model calls by their number of rows, in rising order."""
    sizes = {int(label): calls for (name, label), calls in counts.items() if name == "batch_rows"}
    return dict(sorted(sizes.items()))


def named_distribution(name: str, sizes: Mapping[int, float]) -> dict[str, float]:
    """Return the values of a distribution, which must not be empty, by their names on the engines."""
    return {
        f"{name}_count": sum(sizes.values()),
        f"{name}_sum": sum(size * times for size, times in sizes.items()),
        f"{name}_min": min(sizes),
        f"{name}_max": max(sizes),
    }


# --- the totals of this process --------------------------------------------------------------------------------------


class _Totals:
    """The totals of this process: reported counts, and those of sessions that nobody reports."""

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
        """Include `stats` in the totals, also after its owner is gone."""
        with self._lock:
            self._fold()
            self._live[id(stats)] = stats
        # without the lock: a finalizer runs in any thread, perhaps in one that holds it
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
        """Add the numbers of ended sessions to the reported ones, and drop their `Stats`."""
        while self._ended:
            add_counts(self._reported, counts_of(self._live.pop(self._ended.popleft())))


def _copy_of(stats: Stats) -> Stats:
    """Return a snapshot; `dict` copies without switching to the thread that counts."""
    return dataclasses.replace(
        stats, failed=collections.Counter(dict(stats.failed)), batch_rows=collections.Counter(dict(stats.batch_rows))
    )


_totals = _Totals()


def _reset_after_fork() -> None:
    """Start with new totals and a new lock: the parent reports its own, and one of its threads may hold its lock."""
    global _totals
    _totals = _Totals()


os.register_at_fork(after_in_child=_reset_after_fork)
_listeners: list[Callable[[], None]] = []


def record(counts: Mapping[tuple[str, str], float]) -> None:
    """Add to the totals of this process; for callers that pass their own `Stats` to a session."""
    _totals.add(counts)
    for listener in _listeners:
        listener()


def record_load() -> None:
    """Add a loaded model to this process's totals."""
    _totals.add_load()


def watch(owner: object, stats: Stats) -> None:
    """Include the counts of a session in the totals of this process.

    Args:
        owner: The session; its numbers stay after it is gone.
        stats: Its counts, which nobody else takes.
    """
    _totals.watch(owner, stats)


def on_record(listener: Callable[[], None]) -> None:
    """Register a function that is called after each `record`, in the same thread."""
    _listeners.append(listener)


def process_counts() -> Counts:
    """Return the totals of this process, including loaded models.

    Bundles and tasks that the engine repeated are counted twice, because the totals count the work of this process.
    """
    return _totals.counts()
