"""`Rank` on flat rows: groups of any size whose rows are never gathered, their keys, and their windows."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.transforms import trigger
from apache_beam.transforms.window import FixedWindows, IntervalWindow, Sessions, SlidingWindows, TimestampedValue
from apache_beam.typehints import typehints
from beam_helpers import Keep, kept, kept_in_time, pipeline
from contract import png
from flat_rank_contract import assert_pairs, flat, text_pairs
from places import SUPPORT
from rank_expected import RED, Scored, assert_places, text_places

from clipmill.encoders import Code, unload_all
from clipmill.encoders.plans.ranking import GroupTotals
from clipmill.errors import SpecError
from clipmill.failures import RowError
from clipmill.transforms import Rank
from clipmill.transforms import groups as groups_module
from clipmill.transforms.groups import TotalsFn, group_key
from clipmill.transforms.rows import row_fields

BY_GROUP: dict[str, Any] = {"query": "query", "candidate": "candidate", "by": "group"}
FIRST, SECOND = IntervalWindow(0, 60), IntervalWindow(60, 120)


@pytest.fixture(autouse=True)
def _nothing_loaded():
    unload_all()


def rank(directory, made, *, options=(), **arguments):
    """Run `Rank` on what a transform makes; return rows with their times and windows, and failures."""
    with pipeline(*options) as p:
        ranked = p | made | Rank("fake::dim=8", **(BY_GROUP | arguments))
        _ = ranked.rows | "KeepRows" >> Keep(directory / "rows")
        _ = ranked.failures | "KeepFailures" >> Keep(directory / "failures")
    return kept_in_time(directory / "rows"), kept(directory / "failures")


def as_result(found) -> Scored:
    return Scored([row for row, _, _ in found], [])


# --- nothing of a group but numbers is gathered -----------------------------------------------------------------------


def groupings(p: beam.Pipeline, label: str) -> tuple[list[Any], list[Any]]:
    """Return what combines and what groups below a label, without the groupings inside of the combiners."""
    transforms = p.to_runner_api().components.transforms.values()
    below = [t for t in transforms if t.unique_name.startswith(label)]
    combining = [t for t in below if "combine_per_key" in t.spec.urn]
    within = tuple(f"{t.unique_name}/" for t in combining)
    return combining, [t for t in below if "group_by_key" in t.spec.urn and not t.unique_name.startswith(within)]


def test_no_row_goes_through_a_group_by_key():
    """Every grouping of the graph stands inside the combiner, and what goes into that are keys and numbers."""
    p = pipeline()
    rows = p | beam.Create(flat(4, 2))
    _ = rows | Rank("fake::dim=8", **BY_GROUP, top_k=2)
    (combining,), grouping = groupings(p, "Rank(")
    assert grouping == []
    components = p.to_runner_api().components
    (combined,) = combining.inputs.values()
    coder = components.coders[components.pcollections[combined].coder_id]
    parts = [components.coders[part].spec.urn for part in coder.component_coder_ids]
    assert (coder.spec.urn, parts) == ("beam:coder:kv:v1", ["beam:coder:bytes:v1", "beam:coder:double:v1"])
    # what this looks for, it finds
    _ = rows | beam.Map(lambda row: (1, row)) | "Gathered" >> beam.GroupByKey()
    assert len(groupings(p, "Gathered")[1]) == 1


def test_sigmoids_need_nothing_of_their_group(tmp_path):
    """Unless rows get a rank."""
    rows = [{"group": n % 2, "query": "red", "candidate": png(9, 10 + n, RED)} for n in range(4)]
    options = {**BY_GROUP, "query_kind": "text", "candidate_kind": "image", "score": "sigmoid"}
    for top_k, combiners in ((2, 1), (None, 0)):
        p = pipeline()
        _ = p | beam.Create(rows) | Rank("fake::dim=8&scale=4&bias=-2", **options, top_k=top_k)
        combining, grouping = groupings(p, "Rank(")
        assert (len(combining), grouping) == (combiners, [])
    with pipeline() as p:
        ranked = p | beam.Create(rows) | Rank("fake::dim=8&scale=4&bias=-2", **options)
        _ = ranked.rows | Keep(tmp_path / "rows")
    found = kept(tmp_path / "rows")
    assert len(found) == len(rows)
    for row in found:
        assert row["clip_score"] == pytest.approx(1 / (1 + math.exp(2 - 4 * row["cosine"])), rel=1e-9)


def test_sums_are_looked_up_by_key_and_not_brought_whole():
    p = pipeline()
    _ = p | beam.Create(flat(4, 2)) | Rank("fake::dim=8", **BY_GROUP)
    from apache_beam.portability.api import beam_runner_api_pb2

    found = []
    for transform in p.to_runner_api().components.transforms.values():
        if transform.spec.urn == "beam:transform:pardo:v1" and transform.unique_name.startswith("Rank("):
            pardo = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
            found += [side.access_pattern.urn for side in pardo.side_inputs.values()]
    assert found == ["beam:side_input:multimap:v1"]


def test_an_accumulator_stays_small_whatever_the_group():
    combine = TotalsFn(10)
    accumulator = combine.create_accumulator()
    numbers = np.random.default_rng(5).normal(20, 5, 50_000).tolist()
    largest = 0
    for logit in numbers:
        accumulator = combine.add_input(accumulator, logit)
        largest = max(largest, len(accumulator[0][2]) + len(accumulator[1]))
    assert largest < 1100
    totals = GroupTotals(*combine.extract_output(accumulator))
    assert totals.best == tuple(sorted(numbers, reverse=True)[:10])
    assert math.log(totals.total) + totals.highest == pytest.approx(np.logaddexp.reduce(numbers), rel=1e-12)


def test_sums_do_not_depend_on_how_a_group_lies_about():
    """Parts of any size, in any order, compacted or not, empty ones among them."""
    draw = random.Random(3)
    numbers = [
        draw.choice([1.0, 2.5, 80.0, 99.0, 100.0, -100.0]) + draw.random() * draw.choice([0, 1]) for _ in range(200)
    ]
    whole = GroupTotals.of(numbers, 7)
    for _ in range(20):
        draw.shuffle(numbers)
        combine = TotalsFn(7)
        parts = [combine.create_accumulator() for _ in range(draw.randint(1, 30))]
        for logit in numbers:
            number = draw.randrange(len(parts))
            parts[number] = combine.add_input(parts[number], logit)
        parts = [combine.compact(part) if draw.random() < 0.5 else part for part in parts]
        found = GroupTotals(*combine.extract_output(combine.merge_accumulators(parts)))
        assert (found.highest, found.best) == (whole.highest, whole.best)
        assert found.total == pytest.approx(whole.total, rel=1e-12)
    empty = TotalsFn(7)
    assert GroupTotals(*empty.extract_output(empty.merge_accumulators([]))) == GroupTotals()


def test_a_worker_that_may_hold_few_groups_asks_again(tmp_path, monkeypatch):
    monkeypatch.setattr(groups_module, "_HELD_NUMBERS", 1)
    rows = flat(40, 7)
    found, _ = rank(tmp_path, beam.Create(rows), top_k=2)
    assert_pairs(as_result(found), text_pairs(rows, top_k=2), ranks=True)


def test_flat_rows_and_lists_have_the_same_scores(tmp_path):
    texts = ["red", "a red circle", "blue", "x", "yellow and black"]
    rows = [{"id": str(n), "group": 1, "query": "red!", "candidate": text} for n, text in enumerate(texts)]
    found, _ = rank(tmp_path, beam.Create(rows), top_k=5)
    by_rank = sorted((row for row, _, _ in found), key=lambda row: row["rank"])
    as_list = [
        {"candidate": r["candidate"], "position": int(r["id"]), "clip_score": r["clip_score"], "cosine": r["cosine"]}
        | {"failure": None}
        for r in by_rank
    ]
    assert_places(as_list, text_places("red!", texts))


# --- rows -------------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    id: str
    group: int | None
    query: str
    candidate: str


def test_named_tuples_become_rows_with_a_schema(tmp_path):
    pairs = [Pair("0", 1, "red", "reddish"), Pair("1", 1, "red", "blue"), Pair("2", None, "red", "x")]
    with pipeline() as p:
        ranked = p | beam.Create(pairs).with_output_types(Pair) | Rank("fake::dim=8", **BY_GROUP, top_k=1)
        _ = ranked.rows | beam.Reshuffle() | Keep(tmp_path)
    kinds = dict(row_fields(ranked.rows.element_type))
    number = typehints.Optional[float]
    assert list(kinds) == [*Pair._fields, "cosine", "clip_score", "rank"]
    assert (kinds["cosine"], kinds["clip_score"], kinds["rank"]) == (number, number, typehints.Optional[int])
    found = [row._asdict() for row in kept(tmp_path)]
    expected = text_pairs([pair._asdict() for pair in pairs], top_k=1)
    assert_pairs(Scored(found, []), expected, ranks=True)
    assert {type(row["rank"]) for row in found} == {int, type(None)}


def test_a_group_may_be_named_by_a_path_into_a_struct(tmp_path):
    rows = [row | {"of": {"query": row["group"]}, "group": "all"} for row in flat(10, 2)]
    found, _ = rank(tmp_path, beam.Create(rows), by="of.query")
    expected = text_pairs([row | {"group": row["of"]["query"]} for row in rows])
    assert_pairs(as_result(found), expected, ranks=False)


def test_columns_that_are_there_already_are_refused_or_fail(tmp_path):
    p = pipeline()
    rows = p | beam.Create([beam.Row(query="a", candidate="b", group=1, rank=3)])
    _ = rows | Rank("fake::dim=8", **BY_GROUP)  # without top_k no rank is written
    message = "column 'rank' exists already; ranking adds a column of that name: rename yours first"
    with pytest.raises(SpecError, match=message):
        _ = rows | "Again" >> Rank("fake::dim=8", **BY_GROUP, top_k=1)
    mine = {"id": "mine", "query": "a", "candidate": "b", "group": 1, "cosine": 0.5}
    found, (failed,) = rank(tmp_path, beam.Create([mine, *flat(2, 1)]))
    assert sorted(row["id"] for row, _, _ in found) == ["0", "1"]
    assert failed.row == mine
    assert [(f.row, f.column, f.code) for f in failed.failures] == [("mine", "cosine", Code.MALFORMED)]


def test_columns_that_are_not_there_are_refused_or_fail(tmp_path):
    p = pipeline()
    rows = p | beam.Create([beam.Row(query="a", candidate="b")])
    with pytest.raises(SpecError, match="the rows have no column 'group'; they have 'query', 'candidate'"):
        _ = rows | Rank("fake::dim=8", **BY_GROUP)
    found, (failed,) = rank(tmp_path, beam.Create([{"id": 1, "query": "a", "candidate": "b"}, *flat(2, 1)]), top_k=1)
    assert len(found) == 2
    assert [(f.row, f.column, f.code) for f in failed.failures] == [("1", "group", Code.MISSING_COLUMN)]
    assert failed.row == {"id": 1, "query": "a", "candidate": "b", "cosine": None, "clip_score": None, "rank": None}


def test_what_is_no_row_is_a_failure(tmp_path):
    found, (failed,) = rank(tmp_path, beam.Create([5]))
    assert found == []
    assert failed.failures[0].message.startswith("expected a dict, a beam.Row or a NamedTuple, got int")


def test_raising_ends_the_job():
    p = pipeline()
    rows = p | beam.Create([{"id": "bad", "group": 1, "query": " ", "candidate": "x"}])
    _ = rows | Rank("fake::dim=8", **BY_GROUP, on_failure="raise")
    with pytest.raises(Exception, match="row 'bad', column 'query' failed at tokenize with empty"):
        p.run().wait_until_finish()


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [[1], {"a": 1}, (1, 2), np.zeros(2), object(), {1}, 1j, np.longdouble(1)], ids=lambda v: type(v).__name__
)
def test_what_names_no_group_fails_alone(tmp_path, value):
    with pytest.raises(RowError, match="rows of a query share a text, bytes, a number, a date or time"):
        group_key(["g"], [value])
    odd = {"id": "odd", "group": [value], "query": "red", "candidate": "x"}
    rows = flat(6, 2)
    found, (failed,) = rank(tmp_path, beam.Create([odd, *rows]))
    assert_pairs(as_result(found), text_pairs(rows), ranks=False)
    assert [(f.row, f.code) for f in failed.failures] == [("odd", Code.UNSUPPORTED)]
    assert "in 'group'; got list" in failed.failures[0].message
    assert failed.row["clip_score"] is None


def test_an_array_is_refused_as_a_group_where_the_schema_says_so():
    p = pipeline()
    fields = [("query", str), ("candidate", str), ("group", Sequence[int])]
    rows = p | beam.Create([]).with_output_types(beam.typehints.row_type.RowTypeConstraint.from_fields(fields))
    with pytest.raises(SpecError) as refused:
        _ = rows | Rank("fake::dim=8", **BY_GROUP)
    assert refused.value.option == "by"


# --- windows and runners ----------------------------------------------------------------------------------------------


def timed(rows, windows, **options):
    """Return a transform that makes rows, each at the time of its id, in windows."""

    class Made(beam.PTransform):
        def expand(self, p):
            at = beam.Map(lambda row: TimestampedValue(row, int(row["id"]))).with_output_types(dict[str, Any])
            return p | beam.Create(rows) | at | beam.WindowInto(windows, **options)

    return Made()


TRIGGERED = {
    "trigger": trigger.Repeatedly(trigger.AfterCount(1)),
    "accumulation_mode": trigger.AccumulationMode.ACCUMULATING,
}


@pytest.mark.parametrize("options", [{}, TRIGGERED], ids=["default trigger", "a trigger for each row"])
def test_each_window_has_its_own_groups(tmp_path, options):
    rows = flat(120, 2)
    found, _ = rank(tmp_path, timed(rows, FixedWindows(60), **options), top_k=3)
    assert all(
        (timestamp, window) == (int(r["id"]), FIRST if int(r["id"]) < 60 else SECOND) for r, timestamp, window in found
    )
    expected = text_pairs(rows[:60], top_k=3) | text_pairs(rows[60:], top_k=3)
    assert_pairs(as_result(found), expected, ranks=True)


def test_a_row_in_two_windows_is_ranked_in_each(tmp_path):
    rows = flat(90, 2)
    found, _ = rank(tmp_path, timed(rows, SlidingWindows(60, 30)))
    for start in (-30, 0, 30, 60):
        members = [row for row in rows if start <= int(row["id"]) < start + 60]
        own = [
            (row, timestamp, window) for row, timestamp, window in found if window == IntervalWindow(start, start + 60)
        ]
        assert_pairs(as_result(own), text_pairs(members), ranks=False)
        assert all(timestamp == int(row["id"]) for row, timestamp, _ in own)
    assert len(found) == 180


def test_session_windows_are_refused():
    """They would grow only if rows were grouped: each row's groups would be those of its own little window."""
    p = pipeline()
    with pytest.raises(SpecError, match="Sessions windows grow when rows are grouped"):
        _ = p | timed(flat(4, 2), Sessions(10)) | Rank("fake::dim=8", **BY_GROUP)


def test_streams_are_refused_with_the_way_out():
    p = beam.Pipeline(options=PipelineOptions(["--streaming"]))
    stream = p | test_stream.TestStream().advance_watermark_to_infinity() | beam.WindowInto(FixedWindows(60))
    with pytest.raises(SpecError, match=r"the rows of a stream are never all there.* give query= and candidates="):
        _ = stream | Rank("fake::dim=8", **BY_GROUP)


@pytest.mark.parametrize("mode", ["multi_threading", "multi_processing"])
def test_a_group_whose_rows_lie_on_several_workers(tmp_path, mode, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    rows = flat(200, 3)
    options = (f"--direct_running_mode={mode}", "--direct_num_workers=2")

    class Spread(beam.PTransform):
        def expand(self, p):
            return p | beam.Create(rows) | beam.Reshuffle()

    found, failures = rank(tmp_path, Spread(), options=options, top_k=4)
    assert failures == []
    assert_pairs(as_result(found), text_pairs(rows, top_k=4), ranks=True)
