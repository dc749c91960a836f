"""`Similarity`: the contract of scores of pairs, and rows that are rejected: each is kept, rejected or failed once."""

from __future__ import annotations

import json

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from apache_beam.transforms.error_handling import ErrorHandler
from beam_helpers import Keep, counters, kept, pipeline
from beam_rows import TYPES, to_dicts, to_rows
from rank_expected import MODEL, Scored, cosine_of
from similarity_contract import SimilarityContract

from clipmill.datasets import read_dataset, read_failures, summarise
from clipmill.encoders import read_provenance, unload_all
from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import SpecError
from clipmill.transforms import Similarity, WriteEmbeddings
from clipmill.transforms.rows import plain

PAIRS = {"same": ("one", "one"), "other": ("one", "xyz"), "null": (None, "x"), "bad": ("", "x")}
ROWS = [{"id": name, "query": left, "caption": right} for name, (left, right) in PAIRS.items()]
OTHER = cosine_of(fake_text_vector("one"), fake_text_vector("xyz"))
LEAST = (1 + OTHER) / 2
"""A threshold between the two scores."""


def comparing(directory, make, *, shuffled):
    def compare(rows, a, b, *, model=MODEL, **options):
        unload_all()
        with pipeline() as p:
            made = p | beam.Create(rows) | make(list(rows[0]) if rows else [])
            compared = made | Similarity(model, a=a, b=b, **options)
            out = compared.rows | beam.Reshuffle() if shuffled else compared.rows
            _ = out | "KeepRows" >> Keep(directory / "rows")
            _ = compared.failures | "KeepFailures" >> Keep(directory / "failures")
            _ = compared.rejected | "KeepRejected" >> Keep(directory / "rejected")
        failed = kept(directory / "failures")
        found = [*kept(directory / "rows"), *(one.row for one in failed)]
        assert kept(directory / "rejected") == [], "without min_score none is rejected"
        for path in directory.glob("*/*"):
            path.unlink()  # a test may run more than one
        told = [(failure.row, failure.column, str(failure.code)) for one in failed for failure in one.failures]
        return Scored([plain(row) for row in found], told)

    return compare


class TestSimilarityOfDicts(SimilarityContract):
    @pytest.fixture
    def compare(self, tmp_path):
        return comparing(tmp_path / "kept", to_dicts, shuffled=False)


class TestSimilarityOfRowsAfterAShuffle(SimilarityContract):
    @pytest.fixture
    def compare(self, tmp_path):
        return comparing(tmp_path / "kept", to_rows, shuffled=True)


# --- rejected rows ----------------------------------------------------------------------------------------------------


def split(directory, make=to_dicts, rows=ROWS, **options):
    """Return the rows of the three outputs by id, each through a shuffle, and the counters."""
    unload_all()
    p = pipeline()
    given = p | beam.Create(rows) | make(list(rows[0]))
    compared = given | Similarity(MODEL, a="query", b="caption", **options)
    for name, pcoll in compared._asdict().items():
        shuffled = pcoll | f"Shuffle {name}" >> beam.Reshuffle()
        _ = shuffled | f"Keep {name}" >> Keep(directory / name)
    result = p.run()
    result.wait_until_finish()
    found = {name: kept(directory / name) for name in compared._fields}
    found["failures"] = [one.row for one in found["failures"]]
    return {name: {row["id"]: row for row in map(plain, rows)} for name, rows in found.items()}, counters(result)


@pytest.mark.parametrize("make", [to_dicts, to_rows])
def test_every_row_is_kept_rejected_or_failed_once(make, tmp_path):
    found, counts = split(tmp_path, make, min_score=LEAST)
    assert {name: sorted(rows) for name, rows in found.items()} == {
        "rows": ["same"],
        "failures": ["bad"],
        "rejected": ["null", "other"],
    }
    assert found["rows"]["same"] == {**ROWS[0], "similarity": pytest.approx(1.0)}
    assert found["failures"]["bad"] == {**ROWS[3], "similarity": None}
    other = {**ROWS[1], "similarity": pytest.approx(OTHER, abs=1e-6), "rejection": "below_min_score"}
    assert found["rejected"]["other"] == other
    assert found["rejected"]["null"] == {**ROWS[2], "similarity": None, "rejection": "no_score"}
    assert (counts["rows_in"], counts["rows_rejected"], counts["failed_empty"]) == (4, 2, 1)


@pytest.mark.parametrize(
    ("score", "least", "names"),
    [
        ("cosine", -1.0, ["other", "same"]),
        ("cosine", 1.0, ["same"]),
        ("clip_score", 2.5 * LEAST, ["same"]),
        ("clip_score", 2.5 * OTHER - 1e-3, ["other", "same"]),
    ],
)
def test_the_threshold_itself_is_kept(score, least, names, tmp_path):
    """In the units of the score: a row with just the least score is kept."""
    found, _ = split(tmp_path, score=score, min_score=least)
    assert sorted(found["rows"]) == names
    assert sorted(found["rejected"]) == sorted({"other", "same", "null"} - set(names))


def test_a_column_that_rejected_rows_would_overwrite(tmp_path):
    rows = [{**ROWS[0], "rejection": "theirs"}]
    found, _ = split(tmp_path / "split", rows=rows, min_score=0.5)
    assert sorted(found["failures"]) == ["same"] and not found["rows"] and not found["rejected"]
    found, _ = split(tmp_path / "all", rows=rows)
    assert found["rows"]["same"]["rejection"] == "theirs", "without min_score the name is free"


def test_the_name_is_free_in_rows_with_a_schema(tmp_path, monkeypatch):
    monkeypatch.setitem(TYPES, "rejection", str)
    rows = [{**ROWS[0], "rejection": "theirs"}]
    found, _ = split(tmp_path, to_rows, rows=rows)
    assert found["rows"]["same"]["rejection"] == "theirs" and not found["rejected"]


def test_rejected_rows_do_not_end_a_job_that_allows_no_failure(tmp_path):
    found, _ = split(tmp_path / "good", rows=ROWS[:3], min_score=LEAST, on_failure="raise")
    assert sorted(found["rejected"]) == ["null", "other"]
    with pytest.raises(Exception, match=r"column 'query' failed at tokenize"):
        split(tmp_path / "bad", min_score=LEAST, on_failure="raise")


def test_an_error_handler_takes_failures_alone(tmp_path):
    with pipeline() as p:
        rows = p | beam.Create(ROWS) | to_dicts(None)
        with ErrorHandler(Keep(tmp_path / "handled")) as handler:
            found = rows | Similarity(MODEL, a="query", b="caption", min_score=LEAST).with_error_handler(handler)
            alone = rows | "All" >> Similarity(MODEL, a="query", b="caption").with_error_handler(handler)
        assert isinstance(alone, beam.PCollection)
        for name, pcoll in (*found._asdict().items(), ("alone", alone)):
            _ = pcoll | f"Keep {name}" >> Keep(tmp_path / name)
    ids = {name: sorted(row["id"] for row in kept(tmp_path / name)) for name in ("rows", "rejected", "alone")}
    assert ids == {"rows": ["same"], "rejected": ["null", "other"], "alone": ["null", "other", "same"]}
    assert [one.row["id"] for one in kept(tmp_path / "handled")] == ["bad", "bad"]


def test_all_three_outputs_are_written(tmp_path):
    out = tmp_path / "out"
    transform = Similarity(MODEL, a="query", b="caption", min_score=LEAST)
    with pipeline() as p:
        rows = p | beam.Create(ROWS) | to_rows(list(ROWS[0]))
        _ = rows | transform | WriteEmbeddings(out)
    assert read_dataset(str(out)).to_pylist() == [{**ROWS[0], "similarity": pytest.approx(1.0)}]
    rejected = pq.read_table(out / "_rejected")
    reasons = {row["id"]: (row["similarity"], row["rejection"]) for row in rejected.to_pylist()}
    assert reasons == {"other": (pytest.approx(OTHER), "below_min_score"), "null": (None, "no_score")}
    assert [failure["row"] for failure in read_failures(str(out))] == ["bad"]
    found = summarise(str(out))
    assert (found.input_rows, found.rows, found.rejected, found.failed_rows, found.scored) == (4, 1, 2, 1, 2)
    for schema in (read_dataset(str(out)).schema, rejected.schema):
        assert read_provenance(schema)["similarity"]["scores"]["min_score"] == LEAST
    description = json.loads((out / "_job.json").read_text())
    assert description["plan"]["name"] == "SimilarityPlan" and description["plan"]["score"] == "cosine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_score": 1.5}, r"min_score=1\.5 is not a number from -1 to 1, as the score 'cosine'"),
        ({"min_score": float("nan")}, r"min_score=nan"),
        ({"min_score": "0.3"}, r"min_score='0\.3'"),
        ({"min_score": True}, r"min_score=True"),
        ({"min_score": 2.6, "score": "clip_score"}, r"from 0 to 2\.5"),
        ({"min_score": -0.1, "score": "sigmoid"}, r"from 0 to 1"),
        ({"min_score": float("inf"), "score": "logit"}, r"is not a finite number"),
        ({"b": "a"}, r"a='a' and b='a' are the same column"),
        ({"b": ""}, r"b='' names no column"),
        ({"min_score": 0.5, "output": "rejection"}, r"'rejection' is the name of the column with the reason"),
        ({"output": "a", "rows": True}, r"column 'a' exists already"),
        ({"rows": True, "b": "missing"}, r"no column 'missing'"),
    ],
    ids=str,
)
def test_options_that_cannot_work_are_refused_at_once(options, message):
    with_rows = options.pop("rows", False) if (options := dict(options)) else False
    with pytest.raises(SpecError, match=message):
        transform = Similarity(MODEL, **{"a": "a", "b": "b", **options})
        if with_rows:
            with pipeline() as p:
                _ = p | beam.Create([beam.Row(a="x", b="y")]) | transform


def test_documents_are_told_what_is_missing(tmp_path):
    with pytest.raises(TypeError, match="min_scor"):
        Similarity(MODEL, a="a", b="b", min_scor=0.5)
