"""Counts in Prometheus' text format: as text, in a file that is kept up to date, or served on a port.

`env_exporter` starts the export from the environment, without code. `prometheus_client` is required (extra `metrics`).
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..errors import require
from .counts import CODES, METRICS, Counts, Metric, batch_sizes, process_counts

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family
    from prometheus_client.registry import CollectorRegistry

Source = Callable[[], Counts]
"""Returns the numbers; called for each scrape, in a thread of its own."""

LOOPBACK = "127.0.0.1"
EVERY_S = 5.0
"""Seconds between two writes of a file."""
SOON_S = 0.5
"""Seconds between two writes that a counting thread requests: each takes it about a millisecond."""
_BUCKETS = tuple(2**power for power in range(13))
"""Rows in a call of the model, up to 4096: most limits are powers of two."""

_log = logging.getLogger("clipmill")


class _Collector:
    """Converts counts to Prometheus' metric families."""

    def __init__(self, source: Source, labels: Mapping[str, str]) -> None:
        self._source = source
        self._labels = dict(labels)

    def collect(self) -> Iterator[Family]:
        counts = self._source()
        for metric in METRICS:
            if metric.everywhere or (metric.name, "") in counts:  # a zero would say that no row was written
                yield self._family(metric, counts)

    def _family(self, metric: Metric, counts: Counts) -> Family:
        from prometheus_client import core

        names, values = list(self._labels), list(self._labels.values())
        if metric.label is not None:
            names = [*names, metric.label]
        name = metric.prometheus
        if metric.kind == "histogram":
            histogram = core.HistogramMetricFamily(name, metric.help, labels=names)
            histogram.add_metric(values, *_buckets_and_sum(batch_sizes(counts)))
            return histogram
        kind = core.CounterMetricFamily if metric.kind == "counter" else core.GaugeMetricFamily
        family = kind(name, metric.help, labels=names)
        if metric.label is None:
            family.add_metric(values, counts.get((metric.name, ""), 0))
        else:  # zeros too: a rate needs the value before the first failure
            for code in CODES:
                family.add_metric([*values, code], counts.get((metric.name, code), 0))
        return family


def _buckets_and_sum(sizes: Mapping[int, float]) -> tuple[list[tuple[str, float]], float]:
    """Return the cumulative buckets of calls by their rows, and the sum of all rows."""
    buckets = [(f"{limit:.1f}", sum(calls for size, calls in sizes.items() if size <= limit)) for limit in _BUCKETS]
    total = sum(sizes.values())
    return [*buckets, ("+Inf", total)], sum(size * calls for size, calls in sizes.items())


def check_installed(purpose: str) -> None:
    """Check that `prometheus_client` is installed.

    Raises:
        MissingExtraError: With the command that installs it.
    """
    require("prometheus_client", "metrics", purpose)


def _registry(source: Source | None, labels: Mapping[str, str] | None, purpose: str) -> CollectorRegistry:
    check_installed(purpose)
    from prometheus_client.registry import CollectorRegistry

    registry = CollectorRegistry(auto_describe=False)
    collector: Any = _Collector(source or process_counts, labels or {})
    registry.register(collector)
    return registry


def metrics_text(source: Source | None = None, *, labels: Mapping[str, str] | None = None) -> str:
    """Return the numbers in Prometheus' text format.

    Args:
        source: Returns the numbers; by default the totals of this process.
        labels: Names and values of labels of all numbers.

    Raises:
        MissingExtraError: If `prometheus_client` is not installed.
    """
    registry = _registry(source, labels, "metrics_text")
    from prometheus_client import generate_latest

    return generate_latest(registry).decode()


def serve_metrics(
    port: int,
    *,
    address: str = LOOPBACK,
    source: Source | None = None,
    labels: Mapping[str, str] | None = None,
) -> MetricsServer:
    """Serve the numbers to Prometheus, until the process or a `with` block ends.

    Args:
        port: TCP port; 0 for any free port.
        address: Address of the interface to listen on. By default only this machine can read the numbers, which name
            datasets; `0.0.0.0` listens on all interfaces.
        source: As in `metrics_text`.
        labels: As in `metrics_text`.

    Raises:
        MissingExtraError: If `prometheus_client` is not installed.
        OSError: If the port is taken.
    """
    return MetricsServer(_registry(source, labels, "serve_metrics"), port, address)


class MetricsServer:
    """Serves from a thread of its own, which ends with the process. Created by `serve_metrics`.

    Attributes:
        port: The TCP port, also if 0 was given.
    """

    def __init__(self, registry: CollectorRegistry, port: int, address: str) -> None:
        """Start serving; see `serve_metrics`."""
        from prometheus_client import start_http_server

        self._server, self._thread = start_http_server(port, addr=address, registry=registry)
        self.port = int(self._server.server_port)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MetricsFile:
    """Keeps a file up to date, for node_exporter's textfile collector; a context manager.

    Each write creates a temporary file next to it and renames it, so that readers never see half a file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        source: Source | None = None,
        labels: Mapping[str, str] | None = None,
        every_s: float = EVERY_S,
    ) -> None:
        """Set what is written where.

        Args:
            path: The file, `….prom` for node_exporter; its directory must exist.
            source: As in `metrics_text`.
            labels: As in `metrics_text`.
            every_s: Seconds between two writes.

        Raises:
            MissingExtraError: If `prometheus_client` is not installed.
        """
        self._path = Path(path).absolute()
        self._registry = _registry(source, labels, f"a file of metrics ({os.fspath(path)})")
        self._every_s = every_s
        self._ended = threading.Event()
        self._wanted = threading.Event()
        self._written_soon_at = -math.inf
        self._writing = threading.Lock()
        self._failing = False

    def __enter__(self) -> Self:
        """Write for the first time, and then every few seconds.

        Raises:
            OSError: If the file cannot be written.
        """
        self._write()
        self._thread = threading.Thread(target=self._keep_writing, name="clipmill-metrics", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._wanted.set()
        self._thread.join()
        self.write()

    def _keep_writing(self) -> None:
        while not self._ended.is_set():
            if self._wanted.wait(self._every_s):
                self._ended.wait(SOON_S)
                self._wanted.clear()
            if not self._ended.is_set():
                self.write()

    def check(self) -> None:
        """Write a temporary file next to it and remove it; the file itself does not change.

        Raises:
            OSError: If the file cannot be written.
            UnicodeError: If a label or the path cannot be encoded.
        """
        self._write(replace=False)

    def write_soon(self) -> None:
        """Write now, or half a second later in the file's thread if the last call wrote just now.

        For callers that count many times a second.
        """
        now = time.monotonic()
        if now - self._written_soon_at < SOON_S:
            self._wanted.set()
        else:
            self._written_soon_at = now
            self.write()

    def write(self) -> None:
        """Write now. A failure is logged once until the next success; it does not end the job."""
        try:
            self._write()
            self._failing = False
        except Exception as err:  # such as a full disk, or a source that is not available now
            if not self._failing:
                _log.warning("the metrics in %s are not up to date: %s: %s", self._path, type(err).__name__, err)
            self._failing = True

    def _write(self, *, replace: bool = True) -> None:
        from prometheus_client import write_to_textfile

        # node_exporter reads .prom files in this folder but not in subfolders; Ctrl-C removes the folder too
        beside = tempfile.TemporaryDirectory(prefix=f".{self._path.name}.", suffix=".tmp", dir=self._path.parent)
        with self._writing, beside as folder:
            path = self._path if replace else Path(folder, self._path.name)
            write_to_textfile(str(path), self._registry, tmpdir=folder)
