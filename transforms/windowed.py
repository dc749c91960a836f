"""Stages that delay elements: each output keeps the timestamp, window and pane of its element."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import BoundedWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import PaneInfo, WindowedValue

from ..metrics.stats import Stats
from .elements import count_refused
from .failed_row import KEEP_FAILED, FailedRow, FailedRowError

FAILURES = "failures"
"""Tag of the output of failures."""

REJECTED = "rejected"
"""Tag of the output of rejected rows."""

OnFailure = Literal["split", "raise"]


class Place(NamedTuple):
    """Timestamp, window and pane of an element, which its output keeps, however late it is."""

    timestamp: Timestamp
    window: BoundedWindow
    pane: PaneInfo

    def at(self, value: Any) -> WindowedValue:
        """Return a value with this timestamp, window and pane."""
        return WindowedValue(value, self.timestamp, (self.window,), self.pane)


class PlacedFn(beam.DoFn):
    """Base of functions that take elements with their places, from `OneByOne` or `InBatches`."""

    _stats: Stats
    hint = KEEP_FAILED
    """How rows that fail can be kept, for the message of a job that they end."""

    def __init__(self, model: str, on_failure: OnFailure) -> None:
        """Store what errors name, and `on_failure`: `raise` ends the job at the first failure."""
        self._model = model
        self._on_failure = on_failure

    def _push(self, element: Any, place: Place) -> list[Any]:
        """Take an element; return the outputs that are done, of this one or of others."""
        raise NotImplementedError

    def _refused(self, refused: FailedRow, place: Place) -> TaggedOutput:
        """Count an element that cannot be processed, and output it as a failure."""
        count_refused(self._stats, refused)
        return self._failed(refused, place)

    def _failed(self, failed: FailedRow, place: Place) -> TaggedOutput:
        if self._on_failure == "raise":
            raise FailedRowError(failed.failures, self._model, self.hint)
        return TaggedOutput(FAILURES, place.at(failed))


class OneByOne(PlacedFn):
    """Takes elements as they come."""

    def process(
        self,
        element: Any,
        timestamp: Timestamp = beam.DoFn.TimestampParam,  # type: ignore[assignment]
        window: BoundedWindow = beam.DoFn.WindowParam,  # type: ignore[assignment]
        pane: PaneInfo = beam.DoFn.PaneInfoParam,  # type: ignore[assignment]
    ) -> Iterable[Any]:
        """Take one element; output those that are done, this one or others."""
        return self._push(element, Place(timestamp, window, pane))


class InBatches(PlacedFn):
    """Takes batches that were collected across bundles: see `waiting`."""

    def process(
        self,
        batch: Any,
        window: BoundedWindow = beam.DoFn.WindowParam,  # type: ignore[assignment]
    ) -> Iterable[Any]:
        """Take a batch, whose elements share its window."""
        _, waited = batch
        return [
            output
            for element, timestamp, pane in waited
            for output in self._push(element, Place(timestamp, window, PaneInfo(*pane)))
        ]
