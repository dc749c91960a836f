"""The counts of Spark's workers, with the names of `metrics.counts`, collected by an accumulator of the driver.

Classic Spark only: Spark Connect has no accumulators. There functions count in the totals of their worker process
alone, which `metrics.env_exporter` has written or served.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from pyspark.sql import SparkSession

from ..encoders.registry import count_loads
from ..errors import SpecError
from ..metrics.counts import MODELS_LOADED, Counts, add_counts, by_engine_names, counts_of, record
from ..metrics.stats import Stats

_REPORTED_BATCHES = 16
"""Calls of the model after which the counts of a partition are reported."""

_WITHOUT = (
    "this is Spark Connect, which has no accumulators: embed_columns(observation=…) counts rows, failures='struct' says"
    " what failed, and CLIPMILL_METRICS_FILE or CLIPMILL_METRICS_PORT shows what each worker counts"
)


class PartitionMeter(NamedTuple):
    """Counts for one function; travels with it. The accumulator is the driver's; None where there is none."""

    accumulator: Any = None

    @contextlib.contextmanager
    def counting(self) -> Iterator[Stats]:
        """Give a block something to count in, and report it when the block ends, however it ends."""
        stats = Stats()
        try:
            yield stats
        finally:
            self.report(stats)

    def report_some(self, stats: Stats) -> None:
        """Report the counts of a long partition, if there are enough."""
        if stats.batches >= _REPORTED_BATCHES:
            self.report(stats)

    def report(self, stats: Stats) -> None:
        """Report the counts to the totals of this process and to the driver, and reset them."""
        counts = counts_of(stats.take())
        record(counts)
        self.tell(counts)

    def tell(self, counts: Counts) -> None:
        """Hand numbers to the driver alone, and the models that this worker loaded since the last time."""
        if self.accumulator is not None and (new := add_counts(_new_loads(), counts)):
            self.accumulator.add(new)


NO_DRIVER = PartitionMeter()
"""Counts in this process alone."""

_lock = threading.Lock()
_reported_loads = 0


def _new_loads() -> Counts:
    global _reported_loads
    with _lock:
        loads = count_loads()  # once: another thread may load a model in between
        new, _reported_loads = loads - _reported_loads, loads
    return {(MODELS_LOADED, ""): new} if new else {}


def _begin_anew() -> None:
    """Leave a fork's parent its loads, and its lock, which another of its threads may have held."""
    global _lock, _reported_loads
    _lock, _reported_loads = threading.Lock(), count_loads()


os.register_at_fork(after_in_child=_begin_anew)


class _Sum:
    """How an accumulator adds up counts; found by name on workers."""

    def zero(self, value: Counts) -> Counts:
        """Return nothing counted."""
        return {}

    def addInPlace(self, value1: Counts, value2: Counts) -> Counts:
        """Add the second to the first."""
        return add_counts(value1, value2)


_accumulators: dict[int, tuple[Any, Any]] = {}  # by the id of a SparkContext, which is kept, so that no other has it


def meter_of(spark: SparkSession | None) -> PartitionMeter:
    """Return the meter for functions planned in a session; with a Connect session, or None, it has no accumulator."""
    return PartitionMeter(None if spark is None else _accumulator_of(spark))


def _accumulator_of(spark: SparkSession) -> Any:
    if _is_connect(spark):
        return None
    context = spark.sparkContext
    with _lock:
        known = _accumulators.get(id(context))
        if known is None:
            for key in [key for key, (old, _) in _accumulators.items() if old._jsc is None]:  # stopped
                del _accumulators[key]
            known = _accumulators[id(context)] = (context, context.accumulator({}, _Sum()))  # type: ignore[arg-type]
    return known[1]


def _is_connect(spark: SparkSession) -> bool:
    return type(spark).__module__.startswith("pyspark.sql.connect")


def spark_counts(spark: SparkSession) -> Counts:
    """Return the counts of all functions of clipmill in finished tasks, for `serve_metrics(source=…)`.

    Args:
        spark: A classic session; those of one application have the same numbers.

    Returns:
        Numbers by name and label, with the names of `metrics.counts`.

    Raises:
        SpecError: If it is a Connect session.
    """
    accumulator = _accumulator_of(spark)
    if accumulator is None:
        raise SpecError(_WITHOUT)
    return dict(accumulator.value)  # copied at once, since another thread adds what tasks report


def metrics_of(spark: SparkSession) -> dict[str, float]:
    """Return the counts of all functions of clipmill in an application, with the names of `metrics.counts`.

    Args:
        spark: A classic session.

    Returns:
        `{"rows_in": 1000, "embedded": 998, "failed_empty": 2, …}`, as `clipmill.transforms.metrics_of` does: what is
        not zero; of `batch_rows` its `batch_rows_count`, `batch_rows_sum`, `batch_rows_min` and `batch_rows_max`.
        They are of tasks that succeeded. What Spark computes twice (a DataFrame that is used twice and not cached, a
        stage whose output was lost) counts twice; a task that a `limit` ended early may not be in them.

    Raises:
        SpecError: If it is a Connect session.
    """
    return by_engine_names(spark_counts(spark))
