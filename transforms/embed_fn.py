"""The `DoFn` that embeds, and ranks or classifies by what it embedded.

Fetching, decoding, encoding and scoring are one stage, batches collected within the bundle: whatever the elements are
made of, texts, images, queries and candidates of all of them share micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import BoundedWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import PaneInfo, WindowedValue

from ..encoders.encoder import Encoder
from ..encoders.outcome import Finished as FinishedRow
from ..encoders.session import EmbedSession
from ..encoders.spec import EncoderSpec
from ..encoders.stats import Stats
from .elements import BoundElements, Elements
from .failed_row import FailedRow, FailedRowError
from .meter import Meter

FAILURES = "failures"
"""Tag of the output of failures."""

_REPORTED_BATCHES = 16
"""Calls of the model after which a bundle's numbers are told."""

OnFailure = Literal["split", "raise"]


class Place(NamedTuple):
    """Where an element stands in time; what becomes of it goes out there, whenever that is."""

    timestamp: Timestamp
    window: BoundedWindow
    pane: PaneInfo


class _SessionFn(beam.DoFn):
    """What embeds; a session lives as long as a bundle, the model as long as the process."""

    def __init__(self, spec: EncoderSpec, elements: Elements, *, on_failure: OnFailure, cpus: int | None) -> None:
        """Keep what travels to workers: no weights.

        Args:
            spec: The encoder.
            elements: What the elements are, and what is done with them.
            on_failure: `raise` ends the job at the first failure.
            cpus: Cores that each worker process may use, None if it finds out by itself.
        """
        self._spec = spec
        self._elements = elements
        self._on_failure = on_failure
        self._cpus = cpus

    def setup(self) -> None:
        """Load the model and embed labels, unless another of these in this process did."""
        self._meter = Meter()
        self._encoder: Encoder = self._meter.load(self._spec, cpus=self._cpus)
        self._bound: BoundElements = self._elements.bound(self._encoder)

    def start_bundle(self) -> None:
        """Start with nothing in flight, whatever became of the last bundle."""
        self.teardown()
        self._stats = Stats()
        self._session: EmbedSession = self._encoder.session(self._stats)

    def finish_bundle(self) -> Iterable[Any]:
        """Give out the rest, each in its own window, and count."""
        outputs = [self._output(done) for done in self._session.flush()]
        self._meter.report(self._stats.take())
        return outputs

    def _push(self, element: Any, place: Place) -> list[Any]:
        if self._stats.batches >= _REPORTED_BATCHES:  # a bundle may take an hour
            self._meter.report(self._stats.take())
        refused = self._bound.refuse(element)
        if refused is not None:
            self._stats.rows += 1
            for failure in refused.failures:
                self._stats.count_failure(failure)
            return [self._failed(refused, place)]
        return [self._output(done) for done in self._session.push((element, place), self._bound.items(element))]

    def _output(self, done: FinishedRow) -> Any:
        element, place = done.token
        row, failures, inner = self._bound.finish(element, done.outcomes)
        if failures or inner:
            self._stats.count_new([*failures, *inner], done.outcomes)
        if failures or (inner and self._on_failure == "raise"):
            return self._failed(FailedRow(row, (*failures, *inner)), place)
        return _at(row, place)

    def _failed(self, failed: FailedRow, place: Place) -> TaggedOutput:
        if self._on_failure == "raise":
            raise FailedRowError(failed.failures, self._spec.model)
        return TaggedOutput(FAILURES, _at(failed, place))


class EmbedFn(_SessionFn):
    """Embeds elements; see the module."""

    def teardown(self) -> None:
        """Let go of what a bundle that failed left in flight."""
        if hasattr(self, "_session"):
            self._session.close()

    def process(
        self,
        element: Any,
        timestamp: Timestamp = beam.DoFn.TimestampParam,  # type: ignore[assignment]
        window: BoundedWindow = beam.DoFn.WindowParam,  # type: ignore[assignment]
        pane: PaneInfo = beam.DoFn.PaneInfoParam,  # type: ignore[assignment]
    ) -> Iterable[Any]:
        """Take one element; give out those that are done, this one or others."""
        return self._push(element, Place(timestamp, window, pane))


class EmbedBatchFn(_SessionFn):
    """Embeds batches that were collected across bundles: see `waiting`."""

    def process(
        self,
        batch: Any,
        window: BoundedWindow = beam.DoFn.WindowParam,  # type: ignore[assignment]
    ) -> Iterable[Any]:
        """Take a batch, whose elements all stand in its window."""
        _, waited = batch
        return [
            output
            for element, timestamp, pane in waited
            for output in self._push(element, Place(timestamp, window, PaneInfo(*pane)))
        ]


def _at(value: Any, place: Place) -> WindowedValue:
    return WindowedValue(value, place.timestamp, (place.window,), place.pane)
