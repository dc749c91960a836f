"""What a job has done so far, from the manifests of its shards as they appear."""

from __future__ import annotations

import threading
import time
from typing import Any

from ..datasets.dataset import parse_manifest
from ..datasets.formats.shard_writer import MANIFESTS
from ..files.file_systems import Folder, dataset_errors
from ..metrics.counts import METRICS, MODELS_LOADED, Counts, add_counts, counts_of_manifest

LOOK_EVERY_S = 1.0
"""Seconds for which what was seen is believed: each look lists a directory, on an object store for money."""


class JobCounts:
    """The numbers of a job; every manifest is read once. Safe for many threads.

    They are those of the summary that `finish_job` returns, shard by shard, whatever engine and machines wrote them.
    """

    def __init__(self, directory: str, *, shards: int) -> None:
        """Say what is looked at; nothing is before `start`.

        Args:
            directory: Path or URL of the dataset.
            shards: How many it will have.
        """
        self._directory = directory
        self._shards = shards
        self._lock = threading.Lock()
        self._started = False
        self._seen: set[str] = set()
        self._counts: Counts = {}
        self._loads: dict[str, int] = {}
        self._looked_at: float | None = None

    def start(self) -> None:
        """Begin to count, now that the directory is this job's: another dataset may have stood there."""
        self._started = True

    def counts(self, *, now: bool = False) -> Counts:
        """Return the numbers, zeros included.

        Args:
            now: Whether to look even if that was done a moment ago.

        Raises:
            DatasetError: If a manifest cannot be read.
        """
        with self._lock:
            at = time.monotonic()
            if self._started and (now or self._looked_at is None or at - self._looked_at >= LOOK_EVERY_S):
                self._look()
                self._looked_at = time.monotonic()
            found: Counts = {
                (metric.name, ""): 0 for metric in METRICS if not (metric.label or metric.kind == "histogram")
            }
            found |= self._counts
            found["shards_planned", ""] = self._shards
            found[MODELS_LOADED, ""] = sum(self._loads.values())
            return found

    def _look(self) -> None:
        folder = Folder.of(self._directory)
        new = sorted(name for name in folder.list(MANIFESTS) if name.endswith(".json") and name not in self._seen)
        if not new:
            return
        with dataset_errors("read the manifests of", folder.url):
            contents = folder.fs.cat([folder.at(name) for name in new])
        # all are read before one is counted: a look counts everything that is new, or nothing
        manifests = [parse_manifest(folder.at(name), contents[folder.at(name)]) for name in new]
        for name, manifest in zip(new, manifests, strict=True):
            add_counts(self._counts, counts_of_manifest(manifest))
            self._count_loads(manifest)
            self._seen.add(name)

    def _count_loads(self, manifest: dict[str, Any]) -> None:
        """Remember how many models a process has loaded: each of its manifests says how many by then."""
        process = str(manifest.get("process"))
        self._loads[process] = max(self._loads.get(process, 0), int(manifest.get("loads") or 0))
