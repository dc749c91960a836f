"""Beam's metrics of what a worker did, in the namespace `clipmill`, units in the names.

Counters: `rows_in`, `embedded`, `nulls`, `failed_<code>`, `batches`, `fetch_msec`, `decode_msec`, `encode_msec`,
`truncated_texts`, `out_of_memory_retries`, `cache_hits` and `cache_misses` (values that were taken from equal ones that
were embedded before, and those that could have been), `given_vectors` (vectors that were there already, and not made),
`models_loaded`. Distribution: `batch_rows`, rows in a call of the model.
"""

from __future__ import annotations

import collections
import threading
from typing import Any

from apache_beam.metrics.metric import Metrics

from ..encoders.encoder import Encoder
from ..encoders.registry import count_loads, load_encoder
from ..encoders.spec import EncoderSpec
from ..encoders.stats import Stats

NAMESPACE = "clipmill"

_SAME_NAME = (
    "embedded",
    "nulls",
    "batches",
    "truncated_texts",
    "out_of_memory_retries",
    "cache_hits",
    "cache_misses",
)
_TIMES = ("fetch_msec", "decode_msec", "encode_msec")
_counting = threading.Lock()  # held to count, not to load: two models load at once
_loading = 0  # calls of `Meter.load` that have not returned
_counted = 0  # what `count_loads` said when one of them counted last
_resolved: dict[EncoderSpec, dict[str, Any]] = {}


def resolved_here(spec: EncoderSpec) -> dict[str, Any] | None:
    """Return what was decided when this process loaded a spec's encoder, None if it did not."""
    return _resolved.get(spec)


class Meter:
    """Counts for one `DoFn`; to be called in `finish_bundle`, since what is counted in `setup` is lost."""

    def __init__(self) -> None:
        """Start with nothing counted."""
        self._loads = 0
        self._rest: collections.Counter[str] = collections.Counter()

    def load(self, spec: EncoderSpec, *, cpus: int | None) -> Encoder:
        """Load an encoder, remembering whether this was what loaded its model."""
        global _loading, _counted
        with _counting:
            if not _loading:  # what was loaded meanwhile was loaded outside of Beam
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
        """Hand on what was counted since the last call."""
        self.count("rows_in", stats.rows)
        for name in _SAME_NAME:
            self.count(name, getattr(stats, name))
        self.count("given_vectors", stats.given)
        for code, number in stats.failed.items():
            self.count(f"failed_{code}", number)
        for name in _TIMES:
            self._rest[name] += getattr(stats, name)
            whole = int(self._rest[name])  # a bundle of one row takes less than a millisecond: keep what is left over
            self._rest[name] -= whole
            self.count(name, whole)
        sizes = Metrics.distribution(NAMESPACE, "batch_rows")
        for rows, times in stats.batch_rows.items():
            for _ in range(times):
                sizes.update(rows)
        self.count("models_loaded", self._loads)
        self._loads = 0

    def count(self, name: str, number: int) -> None:
        """Add to a counter."""
        if number:
            Metrics.counter(NAMESPACE, name).inc(number)
