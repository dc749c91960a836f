"""The `DoFn` that embeds elements, and ranks, compares or classifies them.

Fetching, decoding, encoding and scoring are one stage, which collects batches within a bundle. Texts, images, queries
and candidates of all elements share micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from apache_beam.pvalue import TaggedOutput

from ..encoders.plans.runner import Done, PlanRunner, PlanSession
from ..metrics.stats import Stats
from ..models.spec import EncoderSpec
from ..threads import Cores
from .elements import Elements, source_bytes
from .failed_row import FailedRow
from .meter import BundleMeter
from .windowed import REJECTED, InBatches, OneByOne, OnFailure, Place, PlacedFn

_REPORTED_BATCHES = 16
"""Calls of the model after which the counts of a bundle are reported."""


class _SessionFn(PlacedFn):
    """Embeds elements. A session lives as long as a bundle, the model as long as the process."""

    def __init__(self, spec: EncoderSpec, elements: Elements, *, on_failure: OnFailure, cores: Cores) -> None:
        """Store what is sent to workers: no weights."""
        super().__init__(spec.model, on_failure)
        self._spec = spec
        self._elements = elements
        self._cores = cores

    def setup(self) -> None:
        """Load the model and embed labels, unless another of these in this process did."""
        self._meter = BundleMeter()
        self._runner = PlanRunner(self._elements.plan, self._meter.load(self._spec, cpus=self._cores.here()))

    def start_bundle(self) -> None:
        """Start with nothing in flight, even if the last bundle failed."""
        self.teardown()
        self._stats = Stats()
        self._session: PlanSession = self._runner.session(self._stats)

    def teardown(self) -> None:
        """Release what a failed bundle left in flight."""
        if hasattr(self, "_session"):
            self._session.close()

    def finish_bundle(self) -> Iterable[Any]:
        """Output the rest, each in its window, and count."""
        outputs = [self._output(done) for done in self._session.flush()]
        self._meter.report(self._stats.take())
        return outputs

    def _push(self, element: Any, place: Place) -> list[Any]:
        if self._stats.batches >= _REPORTED_BATCHES:  # a bundle may take an hour
            self._meter.report(self._stats.take())
        source = self._elements.read(element)
        if isinstance(source, FailedRow):
            return [self._refused(source, place)]
        pushed = self._session.push((element, place), source, nbytes=source_bytes(source))
        return [self._output(done) for done in pushed]

    def _output(self, done: Done) -> Any:
        place: Place = done.token[1]
        row, (_, failures, inner) = self._elements.output(done), done.result
        if failures or (inner and self._on_failure == "raise"):
            return self._failed(FailedRow(row, (*failures, *inner)), place)
        if self._elements.plan.rejection(done.result.value) is not None:
            return TaggedOutput(REJECTED, place.at(row))
        return place.at(row)


class EmbedFn(_SessionFn, OneByOne):
    """Embeds elements; see the module."""


class EmbedBatchFn(_SessionFn, InBatches):
    """Embeds batches of elements."""
