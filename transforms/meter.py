"""Beam's metrics of a worker, in the namespace `clipmill`, with the names of `metrics.counts`.

Counters, `failed_<code>` for each code that there is; `batch_rows`, rows in a call of the model, is a distribution.
"""

from __future__ import annotations

import collections
import threading
from typing import Any

from apache_beam.metrics.metric import Metrics, MetricsFilter

from ..encoders.encoder import Encoder
from ..encoders.registry import count_loads, load_encoder
from ..metrics.counts import MODELS_LOADED, Counts, batch_sizes, counts_of, engine_name, record
from ..metrics.stats import Stats
from ..models.spec import EncoderSpec

NAMESPACE = "clipmill"

_counting = threading.Lock()  # held to count, not to load: two models load at once
_loading = 0  # calls of `BundleMeter.load` that have not returned
_counted = 0  # `count_loads` at the last count
_resolved: dict[EncoderSpec, dict[str, Any]] = {}


def resolved_here(spec: EncoderSpec) -> dict[str, Any] | None:
    """Return the resolved settings of a spec's encoder, None if this process has not loaded it."""
    return _resolved.get(spec)


class BundleMeter:
    """Counts for one `DoFn`; to be used in `finish_bundle`, because Beam drops counts of `setup`."""

    def __init__(self) -> None:
        """Start with nothing counted."""
        self._loads = 0
        self._rest: collections.defaultdict[tuple[str, str], float] = collections.defaultdict(float)

    def load(self, spec: EncoderSpec, *, cpus: int | None) -> Encoder:
        """Load an encoder, and record whether this call loaded its model."""
        global _loading, _counted
        with _counting:
            if not _loading:  # models loaded meanwhile were loaded outside of Beam
                _counted = count_loads()
            _loading += 1
        try:
            encoder = load_encoder(spec, cpus=cpus)
        finally:
            with _counting:  # of several threads the first that comes here counts the loads of all that are done
                _loading -= 1
                now = count_loads()
                self._loads += now - _counted
                _counted = now
        _resolved[spec] = encoder.resolved
        return encoder

    def report(self, stats: Stats) -> None:
        """Report the counts since the last call to Beam and to the totals of this process."""
        counts = counts_of(stats)
        record(counts)
        self.tell(counts)

    def tell(self, counts: Counts) -> None:
        """Report the counts since the last call, and the models loaded since, to Beam only."""
        for (name, label), number in counts.items():
            if name != "batch_rows":
                self._rest[name, label] += number
                whole = int(self._rest[name, label])  # a bundle of one row takes less than a millisecond: keep the rest
                self._rest[name, label] -= whole
                self.count(engine_name(name, label), whole)
        sizes = Metrics.distribution(NAMESPACE, "batch_rows")
        for rows, times in batch_sizes(counts).items():
            for _ in range(int(times)):
                sizes.update(rows)
        self.count(MODELS_LOADED, self.take_loads())

    def take_loads(self) -> int:
        """Return the models loaded since the last call."""
        loads, self._loads = self._loads, 0
        return loads

    def count(self, name: str, number: int) -> None:
        """Add to a counter."""
        if number:
            Metrics.counter(NAMESPACE, name).inc(number)


def metrics_of(result: Any) -> dict[str, float]:
    """Return the counts of a pipeline, summed over its steps, with the names of `metrics.counts`.

    Args:
        result: What `Pipeline.run()` returned, or what a block `with beam.Pipeline() as p` leaves in `p.result`.

    Returns:
        `{"rows_in": 1000, "embedded": 998, "failed_empty": 2, …}`: what is not zero; of `batch_rows` its
        `batch_rows_count`, `batch_rows_sum`, `batch_rows_min` and `batch_rows_max`. Committed numbers, which leave out
        what the runner did twice; for a runner without committed counts, the attempted ones.
    """
    found = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    counters: collections.Counter[str] = collections.Counter()
    for counter in found["counters"]:
        counters[counter.key.metric.name] += counter.result
    named: dict[str, float] = {name: number for name, number in counters.items() if number}
    sizes = [one.result for one in found["distributions"] if one.key.metric.name == "batch_rows"]
    sizes = [one for one in sizes if one is not None and one.count]
    if sizes:
        named["batch_rows_count"] = sum(one.count for one in sizes)
        named["batch_rows_sum"] = sum(one.sum for one in sizes)
        named["batch_rows_min"] = min(one.min for one in sizes)
        named["batch_rows_max"] = max(one.max for one in sizes)
    return named
