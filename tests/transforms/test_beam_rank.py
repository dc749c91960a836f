"""`Rank` on documents with matches and on rows with lists: what Beam adds to the contract of `rank_contract.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.coders.row_coder import RowCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.transforms import error_handling
from apache_beam.transforms.window import FixedWindows, IntervalWindow, TimestampedValue
from beam_helpers import Keep, counters, kept, kept_in_time, pipeline
from contract import png, tone, vector_of_png, vector_of_text, vector_of_wav
from places import SUPPORT
from rank_expected import assert_places, places, text_places

from clipmill.encoders import Code, Document, Failure, Stage, unload_all
from clipmill.encoders.testing import read_log
from clipmill.errors import SpecError
from clipmill.transforms import Embed, Rank
from clipmill.transforms.rows import STRUCTS, row_fields

RED, BLUE = (200, 10, 10), (10, 10, 200)


@pytest.fixture(autouse=True)
def _nothing_loaded():
    unload_all()


def rank(directory, elements, model="fake::dim=8", **options):
    """Run `Rank` and return its rows, its failures and the finished pipeline."""
    p = pipeline()
    ranked = p | beam.Create(elements) | Rank(model, **options)
    _ = ranked.rows | "KeepRows" >> Keep(directory / "rows")
    _ = ranked.failures | "KeepFailures" >> Keep(directory / "failures")
    result = p.run()
    result.wait_until_finish()
    return kept(directory / "rows"), kept(directory / "failures"), result


def query_with(*matches: Document, **fields: Any) -> Document:
    return Document(**({"text": "red", "id": "query"} | fields), matches=list(matches))


def assert_matches(found: Document, expected, ids: Sequence[str]) -> None:
    """Assert order, scores and failures of a document's matches, whose ids were `ids` before."""
    assert [match.id for match in found.matches] == [ids[place.position] for place in expected]
    for match, place in zip(found.matches, expected, strict=True):
        assert [str(failure.code) for failure in match.failures] == ([place.code] if place.code else [])
        if place.cosine is None:
            assert match.scores == {}
        else:
            wanted = {"clip_score": place.clip_score, "cosine": place.cosine, "position": place.position}
            assert match.scores == pytest.approx(wanted, abs=1e-5)


# --- documents --------------------------------------------------------------------------------------------------------


def test_matches_of_any_kind_come_out_sorted(tmp_path):
    """A picture is asked, and texts, pictures and a sound answer."""
    samples = tone(50)[:, 0]
    matches = [
        Document(text="green", id="text"),
        Document(blob=png(3, 50, BLUE), id="picture"),
        Document(tensor=samples, tags={"sample_rate": 8000}, id="sound"),
        Document(uri="data:text/plain,red", id="uri"),
    ]
    question = query_with(*matches, text=None, blob=png(30, 9, RED))
    model = "fake::dim=8&modalities=text,image,audio"
    (found,), failures, _ = rank(tmp_path, [question], model)
    assert failures == []
    vectors = [vector_of_text("green"), vector_of_png(3, 50, BLUE), vector_of_wav(50), vector_of_text("red")]
    expected = places(vector_of_png(30, 9, RED), vectors)
    assert_matches(found, expected, ["text", "picture", "sound", "uri"])
    assert (found.embedding, found.blob) == (None, None)
    assert [match.embedding for match in found.matches] == [None] * 4
    assert [match.tensor for match in found.matches] == [None] * 4
    assert {match.id: match.mime_type for match in found.matches}["uri"] == "text/plain"
    assert [match.id for match in question.matches] == ["text", "picture", "sound", "uri"], "the caller's stays"


def test_a_sound_is_asked(tmp_path):
    texts = ["one", "two tones", "red"]
    question = query_with(*map(Document, texts), text=None, tensor=tone(70)[:, 0], tags={"sample_rate": 8000})
    (found,), _, _ = rank(tmp_path, [question], "fake::dim=8&modalities=text,image,audio")
    expected = places(vector_of_wav(70), [vector_of_text(text) for text in texts])
    assert [match.text for match in found.matches] == [texts[place.position] for place in expected]


def test_embeddings_and_content_stay_where_they_are_asked_for(tmp_path):
    question = query_with(Document(text="a"), Document(blob=png(2, 2, RED)))
    (found,), _, _ = rank(tmp_path, [question], keep_embeddings=True, keep_content=True)
    np.testing.assert_array_equal(found.embedding, vector_of_text("red"), strict=True)
    by_text = {match.text: match for match in found.matches}
    np.testing.assert_array_equal(by_text["a"].embedding, vector_of_text("a"), strict=True)
    np.testing.assert_array_equal(by_text[None].embedding, vector_of_png(2, 2, RED), strict=True)
    assert by_text[None].blob == png(2, 2, RED)


def test_embeddings_that_are_there_are_used_and_not_made_again(tmp_path):
    vectors = [np.eye(8, dtype=np.float32)[n] + 0.1 * n for n in range(4)]
    matches = [Document(text="never read", embedding=vector) for vector in vectors[1:]]
    model = f"fake::dim=8&log={tmp_path / 'log'}"
    (found,), _, result = rank(tmp_path, [query_with(*matches, embedding=vectors[0])], model)
    expected = places(vectors[0], vectors[1:])
    assert [match.scores["position"] for match in found.matches] == [place.position for place in expected]
    assert read_log(tmp_path / "log").batches == []
    assert counters(result, "given_vectors") == 4
    assert counters(result, "embedded") == 0
    np.testing.assert_array_equal(found.embedding, vectors[0], strict=True)  # the query's own was there before


def test_a_match_that_fails_stands_at_the_end_and_the_rest_is_ranked(tmp_path):
    unread = Document(id="unread", failures=(Failure(Stage.READ, Code.MALFORMED, "not JSON"),))
    matches = [
        Document(blob=b"no picture", id="bad"),
        Document(text="blue", id="b"),
        unread,
        Document(text="x", id="x"),
    ]
    (found,), failures, result = rank(tmp_path, [query_with(*matches)], top_k=1)
    assert failures == []
    vectors = ["undecodable", vector_of_text("blue"), "malformed", vector_of_text("x")]
    expected = places(vector_of_text("red"), vectors)
    assert_matches(found, [expected[0], *expected[2:]], ["bad", "b", "unread", "x"])
    assert [(f.row, f.column) for match in found.matches for f in match.failures] == [
        ("query", "@m[0]"),
        ("query", "@m[2]"),
    ]
    assert (counters(result, "failed_undecodable"), counters(result, "failed_malformed")) == (1, 1)


def test_a_query_that_fails_is_a_failure_with_its_matches(tmp_path):
    good = query_with(Document(text="a"), id="good")
    rows, (failed,), _ = rank(tmp_path, [query_with(Document(text="a"), text=" ", id="bad"), good])
    assert [row.id for row in rows] == ["good"]
    assert [(f.row, f.code) for f in failed.failures] == [("bad", Code.EMPTY)]
    assert [(match.text, match.scores) for match in failed.row.matches] == [("a", {})]


def test_documents_without_matches_come_out_as_they_are(tmp_path):
    rows, failures, result = rank(tmp_path, [Document(text="lonely", id="a"), Document(text=" ", id="b")])
    assert sorted(row.id for row in rows) == ["a", "b"]
    assert failures == []
    assert counters(result, "rows_in") == 2
    assert counters(result, "batches") == 0


def test_what_is_no_document_or_was_not_read_is_a_failure(tmp_path):
    unread = Document(id="x:3", failures=(Failure(Stage.READ, Code.MALFORMED, "not JSON", row="x:3"),))
    rows, failures, _ = rank(tmp_path, [{"q": 1}, unread])
    assert rows == []
    messages = sorted(failure.message for failed in failures for failure in failed.failures)
    assert messages == [
        "expected a Document, got dict; for rows give query= and candidates=, or query=, candidate= and by=",
        "not JSON",
    ]


def test_raising_ends_the_job_at_the_failure_of_a_match_too(tmp_path):
    bad = query_with(Document(text="a"), Document(text=" "))
    with pytest.raises(Exception, match=r"row 'query', column '@m\[1\]' failed at tokenize with empty"):
        rank(tmp_path, [bad], on_failure="raise")
    with pytest.raises(Exception, match=r"row 'r', column 'c\[1\]' failed at tokenize with empty"):
        rank(tmp_path, [{"id": "r", "q": "a", "c": ["b", ""]}], query="q", candidates="c", on_failure="raise")


def test_an_error_handler_gets_the_failures(tmp_path):
    with pipeline() as p, error_handling.ErrorHandler("KeepFailures" >> Keep(tmp_path / "failures")) as handler:
        documents = p | beam.Create([query_with(Document(text="a")), query_with(Document(text="a"), text="")])
        rows = documents | Rank("fake::dim=8").with_error_handler(handler)
        assert isinstance(rows, beam.PCollection)
        _ = rows | Keep(tmp_path / "rows")
    assert len(kept(tmp_path / "rows")) == len(kept(tmp_path / "failures")) == 1


# --- rows -------------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    text: str | None
    embedding: Sequence[float] | None


class Question(NamedTuple):
    id: int
    asked: Mapping[str, Any]
    answers: Sequence[Answer]


def test_named_tuples_become_rows_with_a_schema(tmp_path):
    """Structs in structs too; the list comes through a shuffle as the same Python values."""
    answers = [Answer("blue", None), Answer("red", None), Answer("", None), Answer("seen", [1.0] + [0.0] * 7)]
    made = beam.Create([Question(7, {"text": "reddish"}, answers)]).with_output_types(Question)
    with pipeline() as p:
        ranked = p | made | Rank("fake::dim=8", query="asked.text", candidates="answers", output="best")
        _ = ranked.rows | "Now" >> Keep(tmp_path / "now")
        _ = ranked.rows | beam.Reshuffle() | "Later" >> Keep(tmp_path / "later")
    kinds = dict(row_fields(ranked.rows.element_type))
    assert list(kinds) == ["id", "asked", "answers", "best"]
    assert (
        kinds["best"] == dict(row_fields(beam.typehints.row_type.RowTypeConstraint.from_fields([("b", STRUCTS)])))["b"]
    )
    assert isinstance(beam.coders.registry.get_coder(ranked.rows.element_type), RowCoder)
    (now,), (later,) = kept(tmp_path / "now"), kept(tmp_path / "later")
    assert type(now) is beam.Row
    vectors = [vector_of_text("blue"), vector_of_text("red"), "empty", np.array([1.0] + [0.0] * 7)]
    for row in (now, later):
        assert_places(row.best, places(vector_of_text("reddish"), vectors))
        assert [one["candidate"] for one in row.best] == [answers[one["position"]]._asdict() for one in row.best]
    assert now.best == later.best


def test_vectors_of_an_earlier_embed_are_not_made_again(tmp_path):
    model = f"fake::dim=8&log={tmp_path / 'log'}"
    rows = [{"id": n, "q": f"query {n}", "c": [f"{n} one", f"{n} and two"]} for n in range(3)]
    with pipeline() as p:
        embedded = p | beam.Create(rows) | Embed(model, columns={"q": "text", "c": "text"})
        ranked = (
            embedded.rows
            | beam.Reshuffle()
            | Rank(model, query="q_embedding", candidates="c_embedding", query_kind="vector", candidate_kind="vector")
        )
        _ = ranked.rows | Keep(tmp_path / "rows")
    for row in kept(tmp_path / "rows"):
        assert_places(row["ranked"], text_places(row["q"], row["c"]))
    assert read_log(tmp_path / "log").rows == 9


def test_a_list_that_is_there_already_is_refused_or_fails(tmp_path):
    p = pipeline()
    rows = p | beam.Create([beam.Row(q="a", c=["b"], ranked=1)])
    with pytest.raises(SpecError, match="column 'ranked' exists already; choose a name: output=…"):
        _ = rows | Rank("fake::dim=8", query="q", candidates="c")
    made = [{"id": 1, "q": "a", "c": ["b"], "ranked": "mine"}, {"id": 2, "q": "a", "c": ["b"]}]
    (row,), (failed,), _ = rank(tmp_path, made, query="q", candidates="c")
    assert row["id"] == 2
    assert failed.row == made[0]
    assert [(f.row, f.column, f.code) for f in failed.failures] == [("1", "ranked", Code.MALFORMED)]


def test_a_missing_column_is_refused_or_fails(tmp_path):
    p = pipeline()
    rows = p | beam.Create([beam.Row(q="a", c=["b"])])
    with pytest.raises(SpecError, match="the rows have no column 'd'; they have 'q', 'c'"):
        _ = rows | Rank("fake::dim=8", query="q", candidates="d")
    made = [{"id": 1, "q": "a"}, {"id": 2, "q": "a", "c": "no list"}]
    rows, failures, result = rank(tmp_path, made, query="q", candidates="c")
    assert rows == []
    assert {(f.row, f.column, f.code) for failed in failures for f in failed.failures} == {
        ("1", "c", Code.MISSING_COLUMN),
        ("2", "c", Code.MALFORMED),
    }
    assert all(failed.row["ranked"] is None for failed in failures)
    assert (counters(result, "failed_missing_column"), counters(result, "failed_malformed")) == (1, 1)


def test_what_is_no_row_is_a_failure(tmp_path):
    rows, failures, _ = rank(tmp_path, ["text", 5], query="q", candidates="c")
    assert rows == []
    assert sorted(str(failed.row) for failed in failures) == ["5", "text"]


def test_metrics_count_what_the_cache_saved(tmp_path):
    """Five queries against the same ten texts; a vector of the wrong shape is counted though no session saw it fail."""
    texts = [f"label {n}" for n in range(10)]
    rows = [{"id": n, "q": f"query {n}", "c": [*texts, {"embedding": [1.0, 2.0]}, None]} for n in range(5)]
    model = f"fake::dim=8&log={tmp_path / 'log'}"
    found, failures, result = rank(tmp_path, rows, model, query="q", candidates="c", max_batch_rows=4)
    assert (len(found), failures) == (5, [])
    counted = {name: count for name, count in counters(result).items() if not name.endswith("_msec")}
    assert counted == {
        "rows_in": 5,
        "embedded": 55,
        "nulls": 5,
        "given_vectors": 5,
        "failed_wrong_shape": 5,
        "batches": 4,
        "cache_misses": 15,
        "cache_hits": 40,
        "models_loaded": 1,
    }
    assert [size for _, size in read_log(tmp_path / "log").batches] == [4, 4, 4, 3]


# --- windows, streams, runners ----------------------------------------------------------------------------------------

FIRST, SECOND = IntervalWindow(0, 60), IntervalWindow(60, 120)


@pytest.mark.parametrize(("max_wait_s", "calls"), [(None, 4), (5, 1)], ids=["in the bundle", "across bundles"])
def test_windows_and_timestamps_of_a_stream(tmp_path, max_wait_s, calls):
    stream = test_stream.TestStream()
    for second in (1, 59, 2, 61):
        row = {"id": second, "q": f"query {second}", "c": [f"{second} x", f"y {second}"]}
        stream = stream.add_elements([TimestampedValue(row, second)])
    stream = stream.advance_watermark_to(130).advance_watermark_to_infinity()
    transform = Rank(f"fake::dim=8&log={tmp_path / 'log'}", query="q", candidates="c", max_wait_s=max_wait_s)
    with beam.Pipeline(options=PipelineOptions(["--streaming"])) as p:
        ranked = p | stream | beam.WindowInto(FixedWindows(60)) | transform
        _ = ranked.rows | Keep(tmp_path / "rows")
    found = kept_in_time(tmp_path / "rows")
    assert sorted((row["id"], timestamp, window) for row, timestamp, window in found) == [
        (1, 1, FIRST),
        (2, 2, FIRST),
        (59, 59, FIRST),
        (61, 61, SECOND),
    ]
    for row, _, _ in found:
        assert_places(row["ranked"], text_places(row["q"], row["c"]))
    assert len(read_log(tmp_path / "log").batches) == calls


def test_workers_that_are_processes_rank_alike(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    p = pipeline("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    texts = [f"{'abcdefg'[n % 7]} {n * n}" for n in range(10)]
    rows = [{"id": n, "q": f"query {n}", "c": texts[n % 3 :]} for n in range(100)]
    model = f"fake::dim=8&log={tmp_path / 'log'}"
    ranked = p | beam.Create(rows) | beam.Reshuffle() | Rank(model, query="q", candidates="c", max_batch_rows=16)
    _ = ranked.rows | Keep(tmp_path / "rows")
    result = p.run()
    result.wait_until_finish()
    found = kept(tmp_path / "rows")
    assert sorted(row["id"] for row in found) == list(range(100))
    for row in found:
        assert_places(row["ranked"], text_places(row["q"], row["c"]))
    log = read_log(tmp_path / "log")
    assert list(log.loads.values()) == [1, 1]
    assert log.rows == 100 + 10 * 2
    assert counters(result, "cache_misses") == 120


def test_two_ranks_in_one_pipeline_do_not_clash(tmp_path):
    with pipeline() as p:
        rows = p | beam.Create([{"id": "a", "q": "red", "c": ["red", "x"], "d": ["yy", "z"]}])
        first = rows | Rank("fake::dim=8", query="q", candidates="c")
        second = first.rows | Rank("fake::dim=8", query="q", candidates="d", output="others")
        _ = second.rows | Keep(tmp_path)
    (row,) = kept(tmp_path)
    assert_places(row["ranked"], text_places("red", ["red", "x"]))
    assert_places(row["others"], text_places("red", ["yy", "z"]))
