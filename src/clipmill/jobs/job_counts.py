"""The counts of a running job, from the manifests of its shards."""

from __future__ import annotations

import threading
import time
from typing import Any

from ..datasets.directory import MANIFESTS
from ..datasets.formats.manifest import parse_manifest
from ..datasets.replacing import folder_written
from ..files.file_systems import is_local
from ..files.folder import Folder
from ..metrics.counts import METRICS, MODELS_LOADED, Counts, add_counts, counts_of_manifest

LOOK_EVERY_S, LOOK_AT_STORE_EVERY_S = 1.0, 30.0
"""Seconds between two looks at the least: each lists a directory, which costs money on object stores."""
_PAUSE_FACTOR = 20
"""A pause is so many times as long as the look before it, so that looking takes at most 5 % of the time."""


def pause_before_look(directory: str, took_s: float) -> float:
    """Return how many seconds to wait before a job's directory is listed again; `took_s` is how long it took."""
    least = LOOK_EVERY_S if is_local(Folder.of(directory).fs) else LOOK_AT_STORE_EVERY_S
    return max(least, _PAUSE_FACTOR * took_s)


class JobCounts:
    """The counts of a job. Every manifest is read once. Thread-safe.

    They are those of the summary that `finish_job` returns, shard by shard, for every engine and machine.
    """

    def __init__(self, directory: str, *, shards: int) -> None:
        """Take the directory; nothing is read before `start`."""
        self._directory = directory
        self._shards = shards
        self._lock = threading.Lock()
        self._started = False
        self._seen: set[str] = set()
        self._counts: Counts = {}
        self._loads: dict[str, int] = {}
        self._look_again_at = 0.0

    def start(self) -> None:
        """Start counting, once the directory belongs to this job: it may have held another dataset."""
        self._started = True

    def counts(self, *, now: bool = False) -> Counts:
        """Return the numbers, zeros included; `now` looks even if that was done a moment ago."""
        with self._lock:
            at = time.monotonic()
            if self._started and (now or at >= self._look_again_at):
                self._look()
                ended = time.monotonic()
                self._look_again_at = ended + pause_before_look(self._directory, ended - at)
            found: Counts = {
                (metric.name, ""): 0 for metric in METRICS if not (metric.label or metric.kind == "histogram")
            }
            found |= self._counts
            found["shards_planned", ""] = self._shards
            found[MODELS_LOADED, ""] = sum(self._loads.values())
            return found

    def _look(self) -> None:
        folder = folder_written(self._directory)
        new = sorted(name for name in folder.list(MANIFESTS) if name.endswith(".json") and name not in self._seen)
        # all are read before any is counted: a look counts all new manifests, or none; those that have moved to the
        # place of an older dataset since they were listed are counted by the next look
        read = folder.read_many(new)
        manifests = {name: parse_manifest(folder.at(name), content) for name, content in read.items()}
        for name, manifest in manifests.items():
            add_counts(self._counts, counts_of_manifest(manifest))
            self._count_loads(manifest)
            self._seen.add(name)

    def _count_loads(self, manifest: dict[str, Any]) -> None:
        """Store the number of models that a process has loaded, as its latest manifest has it."""
        process = str(manifest.get("process"))
        self._loads[process] = max(self._loads.get(process, 0), int(manifest.get("loads") or 0))
