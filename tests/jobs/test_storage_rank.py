"""Jobs that rank: what stands in their files, of which types, and what is said of what failed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import job_options
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from storage_helpers import photograph, text_vector
from storage_jobs import SPEC, do, expected, lines, ranked_of, run, scores_of

from clipmill.datasets import plan_shards, read_dataset, read_failures, rows_schema, summarise
from clipmill.datasets.dataset import read_job
from clipmill.encoders import read_provenance
from clipmill.encoders.plans.pair_plan import PairPlan
from clipmill.encoders.plans.rank_plan import DocumentRankPlan, RankPlan
from clipmill.errors import DatasetError, SpecError
from clipmill.jobs import JobOptions

ROWS = RankPlan("q", "c")


# --- rows ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Rows where all is well, a candidate fails, the query fails, there is no candidate, and no list."""
    pq.write_table(
        pa.table(
            {
                "id": [1, 2, 3, 4, 5],
                "q": ["one", "two", "", "four", "five"],
                "c": [["aa", "one", "z"], ["b", "", None, "cc"], ["x", "y"], [], None],
                "n": pa.array([1, 2, 3, 4, 5], pa.int16()),
            }
        ),
        tmp_path / "x.parquet",
    )
    return tmp_path / "x.parquet"


def test_rows_get_their_candidates_sorted_with_scores_of_fixed_types(table, tmp_path):
    out = str(tmp_path / "out")
    rows = {row["id"]: row for row in run(out, table, ROWS)}
    assert list(rows) == [1, 2, 4, 5]
    assert rows[1]["c"] == ["aa", "one", "z"] and rows[1]["n"] == 1
    candidates = [text_vector(text) for text in ("aa", "one", "z")]
    assert scores_of(rows[1]["ranked"]) == expected(text_vector("one"), candidates)
    assert [one["candidate"] for one in rows[1]["ranked"]] == ["one", "aa", "z"]
    assert (rows[4]["ranked"], rows[5]["ranked"]) == ([], None)
    schema = read_dataset(out).schema
    assert schema.names == ["id", "q", "c", "n", "ranked"]
    assert schema.field("ranked").type == ranked_of(pa.string())


def test_a_candidate_that_fails_stands_at_the_end_and_in_the_failures(table, tmp_path):
    out = str(tmp_path / "out")
    row = run(out, table, ROWS)[1]
    assert scores_of(row["ranked"][:2]) == [
        (place if place == 0 else 3, score, cosine)
        for place, score, cosine in expected(text_vector("two"), [text_vector("b"), text_vector("cc")])
    ]
    failed, null = row["ranked"][2:]
    assert (failed["candidate"], failed["position"], failed["cosine"], failed["clip_score"]) == ("", 1, None, None)
    assert (failed["failure"]["stage"], failed["failure"]["code"]) == ("tokenize", "empty")
    assert null == {"candidate": None, "position": 2, "clip_score": None, "cosine": None, "failure": None}
    failures = [(f["row"], f["id"], f["column"], f["code"], f["transient"]) for f in read_failures(out)]
    assert failures == [("2", "2", "c[1]", "empty", False), ("3", "3", "q", "empty", False)]
    found = summarise(out)
    assert (found.input_rows, found.failed_rows, found.rows, found.scored) == (5, 1, 4, 5)
    assert found.failed == {"empty": 2}


def test_types_of_candidates_are_those_of_the_input(tmp_path):
    """Bytes, structs and vectors stay what they were, and the same in a file whose rows are all null."""
    struct = pa.struct([("text", pa.string()), ("uri", pa.string()), ("n", pa.int32())])
    kinds = {
        "photos": (pa.binary(), [photograph("red"), photograph("lime", (3, 3)), b"no picture"]),
        "documents": (struct, [{"text": "a", "uri": None, "n": 1}, {"text": None, "uri": "data:,bb", "n": 2}]),
        "vectors": (pa.list_(pa.float32()), [[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]]),
    }
    for name, (kind, candidates) in kinds.items():
        column = pa.array([candidates, None], pa.list_(kind))
        pq.write_table(pa.table({"id": ["a", "b"], "q": ["q", None], "c": column}), tmp_path / f"{name}.parquet")
        plan = RankPlan("q", "c", candidate_kind="vector" if name == "vectors" else "auto")
        out = str(tmp_path / name)
        rows = run(out, tmp_path / f"{name}.parquet", plan, drop=["c"])
        assert read_dataset(out).schema.field("ranked").type == ranked_of(kind)
        assert {one["position"]: one["candidate"] for one in rows[0]["ranked"]} == dict(enumerate(candidates))
        assert "c" not in rows[0] and rows[1]["ranked"] is None
    (failure,) = read_failures(str(tmp_path / "photos"))
    assert (failure["column"], failure["code"]) == ("c[2]", "undecodable")
    assert "no picture" not in json.dumps(failure)
    found = summarise(str(tmp_path / "vectors"))
    assert (found.given, found.embedded, found.scored) == (2, 1, 2)


def test_what_a_second_try_needs_of_a_candidate_is_in_its_failure(tmp_path):
    """A URI, or the text and URI of a struct, and never a data: URI."""
    one = {"id": "a", "q": "q", "c": ["good", "/etc/hostname", "data:,"]}
    out = str(tmp_path / "out")
    do(out, lines(tmp_path / "x.jsonl", one), RankPlan("q", "c", candidate_kind="image"))
    failures = {f["column"]: f for f in read_failures(out)}
    assert failures["c[1]"]["uri"] == "/etc/hostname" and failures["c[1]"]["code"] == "forbidden_uri"
    assert "uri" not in failures["c[2]"] and "text" not in failures["c[2]"]
    struct = {"id": "a", "q": "q", "c": [{"uri": "/etc/hostname", "mime_type": "text/plain"}, {"text": "t"}]}
    again = str(tmp_path / "again")
    do(again, lines(tmp_path / "y.jsonl", struct), ROWS)
    (failure,) = read_failures(again)
    assert (failure["column"], failure["uri"]) == ("c[0]", "/etc/hostname")


def test_json_lines_keep_every_field_and_candidates_are_strings(tmp_path):
    records = [
        {"id": "a", "q": "one", "c": ["aa", {"text": "bb", "n": 1}], "year": 1999, "tags": {"x": [1]}},
        {"q": "two", "c": "no list"},
        {"q": "three"},
        {"q": "four", "c": ["d"]},
    ]
    given = lines(tmp_path / "x.jsonl", *records)
    out = str(tmp_path / "out")
    rows = run(out, given, ROWS)
    assert [row["id"] for row in rows] == ["a", f"{given}:4"]
    assert sorted(one["candidate"] for one in rows[0]["ranked"]) == ["aa", '{"text": "bb", "n": 1}']
    assert rows[0]["c"] == ["aa", '{"text": "bb", "n": 1}']
    assert json.loads(rows[0]["tags"]) == {"year": 1999, "x": [1]}
    assert scores_of(rows[0]["ranked"]) == expected(text_vector("one"), [text_vector("aa"), text_vector("bb")])
    failures = [(f["row"], f["column"], f["code"]) for f in read_failures(out)]
    assert failures == [(f"{given}:2", "c", "malformed"), (f"{given}:3", "c", "missing_column")]


def test_fields_of_json_lines_that_are_dropped_are_written_nowhere(tmp_path):
    given = lines(tmp_path / "x.jsonl", {"id": "1", "q": "a", "c": ["x", "yy"], "n": 3, "more": 4})
    (row,) = run(str(tmp_path / "out"), given, ROWS, drop=["q", "c", "more"])
    assert (set(row), row["id"], json.loads(row["tags"])) == ({"id", "tags", "ranked"}, "1", {"n": 3})


def test_a_field_of_the_new_columns_name_is_not_written_over(tmp_path):
    """Of a table the schema tells before the job; of JSON lines each line does."""
    mine = {"id": "1", "q": "a", "c": ["x"], "ranked": "mine"}
    given = lines(tmp_path / "x.jsonl", mine, {"id": "2", "q": "a", "c": ["x"]})
    (row,) = run(str(tmp_path / "out"), given, ROWS)
    assert row["id"] == "2"
    (failure,) = read_failures(str(tmp_path / "out"))
    assert (failure["id"], failure["column"], failure["code"]) == ("1", "ranked", "malformed")
    first, second = run(str(tmp_path / "dropped"), given, ROWS, drop=["ranked"])
    assert first["ranked"] == second["ranked"] and first["tags"] is None


def test_a_row_whose_query_fails_can_be_ranked_again_as_a_document(tmp_path):
    photo, spec = tmp_path / "a.png", dataclasses.replace(SPEC, allow_local_files=True)
    out = str(tmp_path / "out")
    plan = RankPlan("q", "c", query_kind="image")
    assert run(out, lines(tmp_path / "x.jsonl", {"id": "1", "q": str(photo), "c": ["x", "yy"]}), plan, spec=spec) == []
    photo.write_bytes(photograph())
    again = tmp_path / "out" / "_failures" / "*.jsonl"
    (row,) = run(str(tmp_path / "again"), again, DocumentRankPlan(), spec=spec)
    assert row["id"] == "1" and {match["text"] for match in row["matches"]} == {"x", "yy"}
    assert sum(match["scores"]["clip_score"] for match in row["matches"]) == pytest.approx(1)


def test_numbers_that_no_float_holds_fail_alone(tmp_path):
    given = lines(tmp_path / "x.jsonl", {"id": "1", "q": "one", "c": [[10**400, 1, 1, 1], [1, 2, 3, 4]]})
    (row,) = run(str(tmp_path / "out"), given, RankPlan("q", "c", candidate_kind="vector"))
    good, bad = row["ranked"]
    assert good["cosine"] is not None and bad["failure"]["code"] == "unsupported"


def test_failures_of_candidates_alone_cannot_be_ranked_again(table, tmp_path):
    do(str(tmp_path / "out"), table, ROWS)
    again = str(tmp_path / "again")
    do(again, tmp_path / "out" / "_failures" / "*.jsonl", DocumentRankPlan())
    candidate, query = read_failures(again)
    assert candidate["code"] == "malformed" and "rank its source again" in candidate["message"]
    assert (query["id"], query["code"], len(query["matches"])) == ("3", "empty", 2)


def test_the_same_files_as_json_lines(table, tmp_path):
    """Another format, the same rows, failures and manifests; nothing in the directory is Parquet."""
    parquet, text = tmp_path / "parquet", tmp_path / "lines"
    rows = run(str(parquet), table, ROWS)
    do(str(text), table, ROWS, format="jsonl")
    (part,) = text.glob("part-*")
    assert part.suffix == ".jsonl"
    assert [json.loads(line) for line in part.read_text().splitlines()] == rows
    assert list(read_failures(str(text))) == list(read_failures(str(parquet)))
    ours, theirs = (dataclasses.asdict(summarise(str(one))) for one in (text, parquet))
    timed = ("seconds", "active_seconds", "first_row_at", "last_row_at", "embedded", "cache_hits", "cache_misses")
    assert {n: v for n, v in ours.items() if n not in timed} == {n: v for n, v in theirs.items() if n not in timed}
    assert read_job(str(text))["rows_as"] == "jsonl" and read_job(str(text))["provenance"]["ranked"]["dim"] == 4
    with pytest.raises(DatasetError, match=r"holds no Parquet file; its rows are JSON lines"):
        read_dataset(str(text))
    with pytest.raises(DatasetError, match="is not empty"):
        do(str(text), table, ROWS)


def test_tags_are_objects_in_json_lines(tmp_path):
    given = lines(tmp_path / "x.jsonl", {"id": "a", "q": "one", "c": ["b"], "year": 1999})
    do(str(tmp_path / "out"), given, ROWS, format="jsonl")
    (part,) = (tmp_path / "out").glob("part-*")
    assert json.loads(part.read_text())["tags"] == {"year": 1999}


def test_files_say_what_made_the_scores(table, tmp_path):
    out = str(tmp_path / "out")
    do(out, table, dataclasses.replace(ROWS, scale=7.5, top_k=2, query_kind="text"))
    provenance = read_provenance(out)["ranked"]
    assert (provenance["model"], provenance["dim"]) == ("fake::dim=4", 4)
    expected = {"scale": 7.5, "score": "softmax", "top_k": 2, "query_kind": "text", "candidate_kind": "auto"}
    assert provenance["scores"] == expected
    plan = read_job(out)["plan"]
    assert (plan["name"], plan["query"], plan["candidates"], plan["scale"]) == ("RankPlan", "q", "c", 7.5)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (RankPlan("nothing", "c"), "no column 'nothing'; the columns are 'id', 'q', 'c', 'n'"),
        (RankPlan("q", "nothing"), "no column 'nothing'"),
        (RankPlan("q", "n"), r"'n' is int16, not a list; .*rank_groups"),
        (RankPlan("q", "c", output="n"), "'n' exists already; choose a name: output="),
        (PairPlan("q", "c", ("id",)), r"Rank\(by=…\) on Beam and clipmill.udfs.rank_groups\(by=…\) on Spark"),
    ],
    ids=["query", "candidates", "no list", "output", "flat"],
)
def test_what_cannot_work_fails_before_anything_runs(plan, message, table, tmp_path):
    with pytest.raises(SpecError, match=message):
        job_options.plan(SPEC, str(tmp_path / "out"), plan_shards([str(table)]), plan=plan)
    assert not (tmp_path / "out").exists()


def test_a_plan_is_not_given_beside_what_it_says_itself(table, tmp_path):
    with pytest.raises(TypeError, match="keep_content"):
        JobOptions(plan=ROWS, keep_content=True)
    with pytest.raises(SpecError) as refused:
        job_options.plan(SPEC, str(tmp_path / "out"), plan_shards([str(table)]), plan=ROWS, format="csv")
    assert refused.value.option == "format"


def test_a_scale_that_the_model_has_not_learnt_ends_the_job(table, tmp_path):
    with pytest.raises(SpecError, match="no learnt scale"):
        do(str(tmp_path / "out"), table, dataclasses.replace(ROWS, scale="model"))
    assert not list((tmp_path / "out").glob("part-*"))


def test_a_candidate_that_fails_ends_a_job_that_is_to_end_at_its_first_failure(table, tmp_path):
    with pytest.raises(DatasetError, match="2: empty at tokenize"):
        do(str(tmp_path / "out"), table, ROWS, fail_fast=True)
    assert not list((tmp_path / "out").glob("part-*"))


def test_a_row_whose_candidates_do_not_fit_the_type_of_all_files_costs_itself(tmp_path):
    """Whole numbers of one file become doubles with those of the other, which 2^60 + 1 has no place in."""
    schema = pa.struct([("text", pa.string()), ("n", pa.int64())])
    big = [{"text": "a", "n": 2**60 + 1}]
    small = [{"text": "a", "n": 1}, {"text": "b", "n": 2}]
    pq.write_table(
        pa.table({"id": [1, 2], "q": ["q", "q"], "c": pa.array([big, small], pa.list_(schema))}), tmp_path / "a.pq"
    )
    other = pa.struct([("text", pa.string()), ("n", pa.float64())])
    pq.write_table(
        pa.table({"id": [3], "q": ["q"], "c": pa.array([[{"text": "c", "n": 0.5}]], pa.list_(other))}),
        tmp_path / "b.pq",
    )
    out = str(tmp_path / "out")
    rows = run(out, tmp_path / "*.pq", ROWS, drop=["c"])
    assert [row["id"] for row in rows] == [2, 3]
    (failure,) = read_failures(out)
    assert (failure["row"], failure["code"]) == ("1", "malformed")
    found = summarise(out)
    assert (found.failed_rows, found.rows, found.scored) == (1, 2, 3)


def test_schemas_follow_from_the_arguments_alone():
    """The same whatever the rows hold; flat rows have columns of numbers."""
    base = pa.schema([("id", pa.int64()), ("q", pa.string()), ("c", pa.string())])
    flat = rows_schema(base, PairPlan("q", "c", ("id",), top_k=3), SPEC)
    assert [(field.name, field.type) for field in flat][3:] == [
        ("cosine", pa.float64()),
        ("clip_score", pa.float64()),
        ("rank", pa.int64()),
    ]
    assert rows_schema(base, PairPlan("q", "c", ("id",)), SPEC).names == ["id", "q", "c", "cosine", "clip_score"]
    with pytest.raises(SpecError, match="column 'cosine' exists already"):
        rows_schema(base.append(pa.field("cosine", pa.float32())), PairPlan("q", "c", ("id",)), SPEC)
