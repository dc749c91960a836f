"""A loaded model with its state in this process: its streams, threads, pixel budget and row limits."""

from __future__ import annotations

import collections
import contextlib
import os
import threading
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor

from ..models.model import ClipModel, Model


class PixelBudget:
    """Limits the pixels that are decoded at the same time. A larger image is decoded alone.

    The budget is granted in order of arrival, so that small images cannot starve a large one.
    """

    def __init__(self) -> None:
        """Start with an unused budget."""
        self._taken = 0
        self._queue: collections.deque[object] = collections.deque()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, pixels: int, limit: int) -> Iterator[None]:
        """Wait until `pixels` more fit within `limit`, and hold them during the block. 0 pixels never wait."""
        if pixels == 0:
            yield
            return
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(
                    lambda: self._queue[0] is ticket and (self._taken == 0 or self._taken + pixels <= limit)
                )
                self._taken += pixels
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()


class Loaded:
    """One model of this process, shared by many threads and by all encoders with the same weights.

    Attributes:
        threads: Cores that this worker may use.
        streams: Calls of the model that run at once, from as many threads.
        calls: Held during each call of the model.
    """

    def __init__(self, model: Model, threads: int) -> None:
        """Wrap a newly loaded model, for a worker that may use `threads` cores."""
        self.model = model
        self.threads = threads
        self.streams: int = getattr(model, "streams", 1)
        self.calls = threading.Semaphore(self.streams)
        self.pixels = PixelBudget()
        self._row_limits: dict[tuple[str, Hashable], int] = {}
        self._pools: dict[tuple[str, int, int], ThreadPoolExecutor] = {}
        self._pools_lock = threading.Lock()

    def pool(self, purpose: str, threads: int) -> ThreadPoolExecutor:
        """Return the thread pool for a purpose. Each process creates its own, since threads don't survive a fork."""
        key = (purpose, threads, os.getpid())
        with self._pools_lock:
            if key not in self._pools:
                self._pools[key] = ThreadPoolExecutor(threads, thread_name_prefix=f"clipmill-{purpose}")
            return self._pools[key]

    def row_limit(self, modality: str, group: Hashable) -> int | None:
        """Return the maximum rows of a call after one ran out of memory. None if that never happened."""
        return self._row_limits.get((modality, group))

    def remember_row_limit(self, modality: str, group: Hashable, rows: int) -> None:
        """Remember that calls of `rows` rows fit into memory, and larger ones don't."""
        self._row_limits[modality, group] = min(rows, self._row_limits.get((modality, group), rows))

    def close(self) -> None:
        """Shut down the threads, and let the model go."""
        if isinstance(self.model, ClipModel):
            self.model.close()
        with self._pools_lock:
            for pool in self._pools.values():
                pool.shutdown(wait=False, cancel_futures=True)
            self._pools.clear()
