"""The calls of a model that a session has in flight: as many run at once as the model has streams."""

from __future__ import annotations

import collections
import itertools
import queue
from collections.abc import Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from ..failures import Failure
from ..metrics.stats import Stats
from ..models.spec import EncoderSpec
from .in_flight import Slot
from .loaded import Loaded
from .micro_batch import Finish, encode_slots
from .outcome import Vector

_Outcomes = list[tuple[Slot, Vector | Failure]]

_MOST_WAITING = 1
"""Calls that wait for each stream, so that none is idle while the session receives what is decoded."""


class Calls:
    """Starts calls, and hands their outcomes to the session in the order in which they started.

    With one stream, the session's thread makes each call itself, at once. With more, threads of the loaded model make
    them; their outcomes are received in the session's thread alone.
    """

    def __init__(self, loaded: Loaded, stats: Stats, spec: EncoderSpec, arrived: queue.SimpleQueue[Any]) -> None:
        """Start without calls.

        Args:
            loaded: The model.
            stats: Counts the calls.
            spec: Its `normalize` and `dimensions` say what is done with vectors.
            arrived: Gets a None whenever a call has ended, for a session that waits.
        """
        self._loaded = loaded
        self._stats = stats
        self._spec = spec
        self._arrived = arrived
        self._started: collections.deque[Future[tuple[_Outcomes, Stats]]] = collections.deque()

    def __len__(self) -> int:
        """Return how many calls have started whose outcomes were not received."""
        return len(self._started)

    def start(self, key: tuple[str, Hashable], slots: Sequence[Slot], finish: Finish) -> None:
        """Encode prepared slots, which have the modality and the group of `key`; wait if many calls wait already.

        `finish` is called once for each slot, with its vector or failure, here or where outcomes are received. It is
        not kept: it is a method of the session, which would wait for the garbage collector.
        """
        if self._loaded.streams == 1:
            encode_slots(self._loaded, key, slots, self._stats, finish, self._spec)
            return
        while len(self._started) >= (1 + _MOST_WAITING) * self._loaded.streams:
            self.receive(finish)
        pool = self._loaded.pool("encode", self._loaded.streams)
        call = pool.submit(self._encode, key, slots)
        self._started.append(call)
        call.add_done_callback(lambda _: self._arrived.put(None))

    def _encode(self, key: tuple[str, Hashable], slots: Sequence[Slot]) -> tuple[_Outcomes, Stats]:
        outcomes: _Outcomes = []
        stats = Stats()

        def keep(slot: Slot, outcome: Vector | Failure) -> None:
            outcomes.append((slot, outcome))

        encode_slots(self._loaded, key, slots, stats, keep, self._spec)
        return outcomes, stats

    def receive(self, finish: Finish) -> None:
        """Receive the outcomes of the oldest call, waiting for its end.

        Raises:
            ClipmillError: For errors that no row caused.
        """
        outcomes, stats = self._started.popleft().result()
        self._stats.add(stats)
        for slot, outcome in outcomes:
            finish(slot, outcome)

    def receive_done(self, finish: Finish) -> None:
        """Receive the outcomes of calls that have ended, without waiting."""
        while self._started and self._started[0].done():
            self.receive(finish)

    def wait_for_either(self, other: Future[Any]) -> None:
        """Wait until the oldest call or another future has ended."""
        wait((other, self._started[0]), return_when=FIRST_COMPLETED)

    def cancel(self) -> None:
        """Cancel calls that have not begun; what the others return is dropped."""
        for future in self._started:
            future.cancel()
        self._started.clear()


def spread(batches: list[list[Slot]], parts: int, least: int) -> list[list[Slot]]:
    """Cut micro-batches into more of them, if there are fewer than streams.

    Args:
        batches: Micro-batches.
        parts: How many there should be.
        least: Slots that each has at least, unless its micro-batch has fewer.
    """
    each = parts // max(1, len(batches))
    if each < 2:
        return batches
    found: list[list[Slot]] = []
    for batch in batches:
        count = max(1, min(each, len(batch) // least))
        bounds = [len(batch) * number // count for number in range(count + 1)]
        found += [batch[first:last] for first, last in itertools.pairwise(bounds)]
    return found
