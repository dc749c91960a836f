"""Batches across bundles, for streams whose bundles hold a row or two."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection
from apache_beam.typehints import typehints
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import PaneInfo

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
        """Give every element the same key; Beam spreads it over shards, on Dataflow by the load."""
        waiting = typehints.Tuple[pcoll.element_type, Timestamp, _PANE]
        return (
            pcoll
            | "KeepTimeAndPane" >> beam.ParDo(_KeepTimeAndPane()).with_output_types(typehints.Tuple[int, waiting])
            | beam.GroupIntoBatches.WithShardedKey(self._rows, self._max_wait_s)
        )


class _KeepTimeAndPane(beam.DoFn):
    def process(
        self,
        element: Any,
        timestamp: Timestamp = beam.DoFn.TimestampParam,  # type: ignore[assignment]
        pane: PaneInfo = beam.DoFn.PaneInfoParam,  # type: ignore[assignment]
    ) -> Iterable[Any]:
        flags = (pane.is_first, pane.is_last, pane.timing, pane.index, pane.nonspeculative_index)
        yield 0, (element, timestamp, flags)
