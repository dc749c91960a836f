"""Batches across bundles, for streams whose bundles hold a row or two."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection
from apache_beam.transforms.window import BoundedWindow
from apache_beam.typehints import typehints
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import PaneInfo

_KEYS = 64
"""Keys of a producer: as many batches of one thread may be collected and embedded in different places."""
_WINDOWS = 1000
"""Windows whose elements a thread counts at a time."""
_numbers = threading.local()
_PANE = typehints.Tuple[bool, bool, int, int, int]


class WaitForBatches(beam.PTransform):
    """Collects elements, with their timestamps and panes, into batches of one window.

    An element waits at most `max_wait_s`, and never past the end of its window. The watermark waits with it: the timer
    is set once for each batch, by its first element, and holds the watermark at that element's time.
    """

    def __init__(self, rows: int, max_wait_s: float) -> None:
        """Wait for `rows` elements, or `max_wait_s` seconds of processing time."""
        super().__init__()
        self._rows = rows
        self._max_wait_s = max_wait_s

    def expand(self, pcoll: PCollection) -> PCollection:
        """Give a batch of elements one key, and the next batch another.

        Beam adds the thread that has an element to its key, Dataflow a shard by the load. That alone would leave all
        elements of a source that is read by one thread to one worker.
        """
        waiting = typehints.Tuple[pcoll.element_type, Timestamp, _PANE]
        return (
            pcoll
            | "KeepTimeAndPane"
            >> beam.ParDo(_KeepTimeAndPane(self._rows)).with_output_types(typehints.Tuple[int, waiting])
            | beam.GroupIntoBatches.WithShardedKey(self._rows, self._max_wait_s)
        )


class _KeepTimeAndPane(beam.DoFn):
    """Keeps what grouping would lose, and gives each run of `rows` elements the next key: batches fill one by one."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._id = uuid.uuid4().hex

    def process(
        self,
        element: Any,
        timestamp: Timestamp = beam.DoFn.TimestampParam,  # type: ignore[assignment]
        pane: PaneInfo = beam.DoFn.PaneInfoParam,  # type: ignore[assignment]
        window: BoundedWindow = beam.DoFn.WindowParam,  # type: ignore[assignment]
    ) -> Iterable[Any]:
        flags = (pane.is_first, pane.is_last, pane.timing, pane.index, pane.nonspeculative_index)
        yield self._next_number(window) // self._rows % _KEYS, (element, timestamp, flags)

    def _next_number(self, window: BoundedWindow) -> int:
        """Count this thread's elements of a window; some runners make a new object for each bundle of one or two."""
        numbers: dict[Any, int] = _numbers.__dict__.setdefault("of_windows", {})
        number = numbers.pop((self._id, window), None)
        if number is None:
            number = random.randrange(_KEYS) * self._rows  # producers begin with different keys
            if len(numbers) >= _WINDOWS:
                del numbers[next(iter(numbers))]
        numbers[self._id, window] = number + 1
        return number
