"""Windows, timestamps and panes come out as they went in; `max_wait_s` collects batches across a stream's bundles."""

from __future__ import annotations

import pickle
import time

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.transforms import trigger
from apache_beam.transforms.window import FixedWindows, IntervalWindow, SlidingWindows, TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import PaneInfo
from beam_helpers import Keep, kept, kept_in_time, pipeline

from clipmill.encoders import Document, unload_all
from clipmill.encoders.testing import fake_text_vector, read_log
from clipmill.transforms import Embed, waiting

FIRST, SECOND = IntervalWindow(0, 60), IntervalWindow(60, 120)


@pytest.fixture(autouse=True)
def _nothing_loaded():
    unload_all()


def streaming() -> beam.Pipeline:
    return beam.Pipeline(options=PipelineOptions(["--streaming"]))  # a TestStream decides for its runner by itself


def after_all_waiting() -> int:
    """Return seconds from the test clock's zero, 1970, to after every timer that is set now."""
    return int(time.time()) + 1000


def places(directory):
    """Return (text, timestamp, window) of kept documents, checking their vectors."""
    found = kept_in_time(directory)
    for document, _, _ in found:
        assert (document.embedding == fake_text_vector(document.text)).all()
    return sorted((document.text, timestamp, window) for document, timestamp, window in found)


def at(text: str, seconds: float) -> TimestampedValue:
    return TimestampedValue(text, seconds)


def to_documents() -> beam.PTransform:
    return beam.Map(lambda text: Document(text=text)).with_output_types(Document)


def test_fixed_windows_of_a_bounded_pipeline(tmp_path):
    with pipeline() as p:
        embedded = (
            p
            | beam.Create([("a", 1), ("b", 61), ("c", 2), ("", 62)])
            | beam.Map(lambda pair: TimestampedValue(Document(text=pair[0]), pair[1])).with_output_types(Document)
            | beam.WindowInto(FixedWindows(60))
            | Embed("fake::dim=8", max_batch_rows=3)
        )
        _ = embedded.rows | "Rows" >> Keep(tmp_path / "rows")
        _ = embedded.failures | "Failures" >> Keep(tmp_path / "failures")
    assert places(tmp_path / "rows") == [("a", 1, FIRST), ("b", 61, SECOND), ("c", 2, FIRST)]
    ((failed, timestamp, window),) = kept_in_time(tmp_path / "failures")
    assert (failed.row.text, timestamp, window) == ("", 62, SECOND)


def test_an_element_of_two_sliding_windows_comes_out_in_both(tmp_path):
    with pipeline() as p:
        documents = (
            p
            | beam.Create(["a"])
            | beam.Map(lambda text: TimestampedValue(Document(text=text), 45)).with_output_types(Document)
            | beam.WindowInto(SlidingWindows(60, 30))
        )
        _ = (documents | Embed("fake::dim=8")).rows | Keep(tmp_path)
    assert places(tmp_path) == [("a", 45, IntervalWindow(0, 60)), ("a", 45, IntervalWindow(30, 90))]


@pytest.mark.parametrize("max_wait_s", [None, 5], ids=["in the bundle", "across bundles"])
def test_fixed_windows_of_a_stream(tmp_path, max_wait_s):
    stream = (
        test_stream.TestStream()
        .add_elements([at("late in time", 59), at("next", 61)])
        .add_elements([at("early", 1), at("", 2)])
        .advance_watermark_to(130)
        .advance_watermark_to_infinity()
    )
    with streaming() as p:
        embedded = (
            p
            | stream
            | to_documents()
            | beam.WindowInto(FixedWindows(60))
            | Embed("fake::dim=8", max_wait_s=max_wait_s)
        )
        _ = embedded.rows | "Rows" >> Keep(tmp_path / "rows")
        _ = embedded.failures | "Failures" >> Keep(tmp_path / "failures")
    assert places(tmp_path / "rows") == [("early", 1, FIRST), ("late in time", 59, FIRST), ("next", 61, SECOND)]
    ((failed, timestamp, window),) = kept_in_time(tmp_path / "failures")
    assert (failed.row.text, timestamp, window) == ("", 2, FIRST)


def test_a_lone_element_waits_no_longer_than_it_may(tmp_path):
    """The watermark stands still, and the second element comes when the first has been given out already."""
    stream = (
        test_stream.TestStream()
        .add_elements([at("lone", 1)])
        .advance_processing_time(after_all_waiting())
        .add_elements([at("second", 2)])
        .advance_watermark_to_infinity()
    )
    with streaming() as p:
        documents = p | stream | to_documents() | beam.WindowInto(FixedWindows(60))
        embedded = documents | Embed(f"fake::dim=8&log={tmp_path / 'log'}", max_wait_s=5)
        _ = embedded.rows | Keep(tmp_path / "rows")
    assert places(tmp_path / "rows") == [("lone", 1, FIRST), ("second", 2, FIRST)]
    assert read_log(tmp_path / "log").batches == [("text", 1), ("text", 1)]


@pytest.mark.parametrize(
    ("max_wait_s", "batches"), [(None, [1, 1, 1, 1]), (5, [4])], ids=["in the bundle", "across bundles"]
)
def test_waiting_puts_several_bundles_into_one_batch(tmp_path, max_wait_s, batches):
    stream = test_stream.TestStream()
    for second in range(4):
        stream = stream.add_elements([at(f"text {second}", second)])
    stream = stream.advance_processing_time(after_all_waiting()).advance_watermark_to_infinity()
    with streaming() as p:
        documents = p | stream | to_documents() | beam.WindowInto(FixedWindows(60))
        embedded = documents | Embed(f"fake::dim=8&log={tmp_path / 'log'}", max_wait_s=max_wait_s)
        _ = embedded.rows | Keep(tmp_path / "rows")
    assert places(tmp_path / "rows") == [(f"text {second}", second, FIRST) for second in range(4)]
    assert [rows for _, rows in read_log(tmp_path / "log").batches] == batches


def test_a_full_batch_does_not_wait(tmp_path):
    stream = test_stream.TestStream().add_elements([at("a", 1), at("b", 2), at("c", 3)]).advance_watermark_to_infinity()
    with streaming() as p:
        documents = p | stream | to_documents()
        embedded = documents | Embed(f"fake::dim=8&log={tmp_path / 'log'}", max_wait_s=5, max_batch_rows=2)
        _ = embedded.rows | Keep(tmp_path / "rows")
    assert [text for text, _, _ in places(tmp_path / "rows")] == ["a", "b", "c"]
    assert read_log(tmp_path / "log").batches == [("text", 2), ("text", 1)]


class _WithPane(beam.DoFn):
    def process(self, element, pane=beam.DoFn.PaneInfoParam):
        yield element.text, pane.index, pane.is_first


@pytest.mark.parametrize("max_wait_s", [None, 5], ids=["in the bundle", "across bundles"])
def test_panes_survive(tmp_path, max_wait_s):
    stream = test_stream.TestStream()
    for text in ("one", "two", "three"):
        stream = stream.add_elements([at(("key", text), 1)])
    with streaming() as p:
        documents = (
            p
            | stream.advance_watermark_to_infinity()
            | beam.WindowInto(
                FixedWindows(60),
                trigger=trigger.Repeatedly(trigger.AfterCount(1)),
                accumulation_mode=trigger.AccumulationMode.DISCARDING,
            )
            | beam.GroupByKey()
            | beam.FlatMapTuple(lambda _, texts: texts)
            | to_documents()
        )
        embedded = documents | Embed("fake::dim=8", max_wait_s=max_wait_s)
        _ = embedded.rows | beam.ParDo(_WithPane()) | Keep(tmp_path)
    assert sorted(kept(tmp_path)) == [("one", 0, True), ("three", 2, False), ("two", 1, False)]


def test_waiting_says_nothing_in_a_bounded_pipeline(tmp_path):
    """Batches there are large without it, and a shuffle would cost."""
    p = pipeline()
    _ = p | beam.Create([Document(text="a")]) | Embed("fake::dim=8", max_wait_s=5)
    proto = p.to_runner_api()
    names = [transform.unique_name for transform in proto.components.transforms.values()]
    assert any("Embed(" in name for name in names)
    assert not [name for name in names if "WaitForBatches" in name]


def test_batches_go_to_different_keys_and_each_is_filled_by_elements_that_follow_one_another():
    fn = pickle.loads(pickle.dumps(waiting._KeepTimeAndPane(rows=3)))
    panes = PaneInfo(True, True, 0, 0, 0)
    keys = []
    for number in range(3 * waiting._KEYS * 2):
        if number % 2:
            fn = pickle.loads(pickle.dumps(fn))  # as runners do that make one for each bundle
        ((key, _),) = fn.process(number, Timestamp(0), panes, FIRST)
        _ = list(fn.process(number, Timestamp(60), panes, SECOND))  # those of other windows fill other batches
        keys.append(key)
    runs = [keys[at : at + 3] for at in range(0, len(keys), 3)]
    assert all(len(set(run)) == 1 for run in runs)
    assert len({run[0] for run in runs[: waiting._KEYS]}) == waiting._KEYS
    assert [run[0] for run in runs[waiting._KEYS :]] == [run[0] for run in runs[: waiting._KEYS]]
