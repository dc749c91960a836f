"""Windows, timestamps and panes come out as they went in; `max_wait_s` collects batches across a stream's bundles."""

from __future__ import annotations

import time

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms import trigger
from apache_beam.transforms.window import FixedWindows, GlobalWindow, IntervalWindow, SlidingWindows, TimestampedValue
from beam_helpers import Keep, kept_in_time, pipeline

from clipmill.encoders import Document, unload_all
from clipmill.encoders.testing import fake_text_vector, read_log
from clipmill.transforms import Embed


@pytest.fixture(autouse=True)
def nothing_loaded():
    unload_all()


def streaming_pipeline() -> beam.Pipeline:
    return beam.Pipeline(options=PipelineOptions(["--streaming"], runner="BundleBasedDirectRunner"))


def places(directory):
    """Return (text, timestamp, window) of kept documents, checking their vectors."""
    found = kept_in_time(directory)
    for document, _, _ in found:
        assert (document.embedding == fake_text_vector(document.text)).all()
    return sorted((document.text, timestamp, window) for document, timestamp, window in found)


def at(text: str, seconds: float) -> TimestampedValue:
    return TimestampedValue(Document(text=text), seconds)


def test_fixed_windows_of_a_bounded_pipeline(tmp_path):
    with pipeline() as p:
        embedded = (
            p
            | beam.Create([at("a", 1), at("b", 61), at("c", 2), at("", 62)])
            | beam.Map(lambda document: document)
            | beam.WindowInto(FixedWindows(60))
            | Embed("fake::dim=8", max_batch_rows=3)
        )
        _ = embedded.rows | "Rows" >> Keep(tmp_path / "rows")
        _ = embedded.failures | "Failures" >> Keep(tmp_path / "failures")
    first, second = IntervalWindow(0, 60), IntervalWindow(60, 120)
    assert places(tmp_path / "rows") == [("a", 1, first), ("b", 61, second), ("c", 2, first)]
    ((_, timestamp, window),) = kept_in_time(tmp_path / "failures")
    assert (timestamp, window) == (62, second)


def test_sliding_windows_hold_an_element_once_each(tmp_path):
    with pipeline() as p:
        documents = p | beam.Create([at("a", 45)]) | beam.WindowInto(SlidingWindows(60, 30))
        _ = (documents | Embed("fake::dim=8")).rows | Keep(tmp_path)
    assert places(tmp_path) == [("a", 45, IntervalWindow(0, 60)), ("a", 45, IntervalWindow(30, 90))]


class PaneIndex(beam.DoFn):
    def process(self, element, pane=beam.DoFn.PaneInfoParam):
        yield TimestampedValue((element, pane.index, pane.is_last), 0)


@pytest.mark.parametrize("max_wait_s", [None, 5], ids=["in the bundle", "across bundles"])
def test_panes_survive(tmp_path, max_wait_s):
    stream = TestStream().add_elements([("k", "one")]).add_elements([("k", "two")]).advance_watermark_to_infinity()
    with streaming_pipeline() as p:
        _ = (
            p
            | stream
            | beam.WindowInto(
                FixedWindows(60),
                trigger=trigger.Repeatedly(trigger.AfterCount(1)),
                accumulation_mode=trigger.AccumulationMode.DISCARDING,
            )
            | beam.GroupByKey()
            | beam.FlatMap(lambda pair: [Document(text=text) for text in pair[1]]).with_output_types(Document)
            | Embed("fake::dim=8", max_wait_s=max_wait_s)
            | beam.Map(lambda _: _) if False else _panes(p, stream, max_wait_s, tmp_path)
        )
