"""Jobs that rank documents' matches, or classify documents and rows: their files and their failures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import job_options
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from storage_helpers import photograph, text_vector
from storage_jobs import LABELS, REASON, SCORES, SPEC, do, expected, lines, photographs, run

from clipmill.datasets import plan_shards, read_dataset, read_failures, summarise
from clipmill.datasets.dataset import read_job
from clipmill.encoders import read_provenance
from clipmill.encoders.plans.classify_plan import SUFFIX, ClassifyPlan, DocumentClassifyPlan
from clipmill.encoders.plans.document_embed_plan import DocumentEmbedPlan
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.encoders.plans.labels import LabelSet
from clipmill.encoders.plans.rank_plan import DocumentRankPlan
from clipmill.errors import DatasetError

# --- documents -------------------------------------------------------------------------------------------------------

DOCUMENT = {
    "id": "q",
    "text": "one",
    "year": 1999,
    "matches": [{"text": "x"}, {"id": "bad", "uri": "/etc/hostname"}, {"text": "one"}, {"embedding": [1, 2, 3, 4]}],
}


def test_matches_are_written_sorted_with_scores_and_failures_in_their_place(tmp_path):
    """What failed says where it stood before the sorting; a vector that a line brings is used."""
    out = str(tmp_path / "out")
    (row,) = run(out, lines(tmp_path / "x.jsonl", DOCUMENT), DocumentRankPlan())
    matches = row["matches"]
    vectors = [text_vector("x"), text_vector("one"), [1, 2, 3, 4]]
    found = [(m["scores"]["position"], m["scores"]["clip_score"], m["scores"]["cosine"]) for m in matches[:3]]
    assert found == [([0, 2, 3][n], score, cosine) for n, score, cosine in expected(text_vector("one"), vectors)]
    assert [m["id"] for m in matches] == ["q@m[2]", "q@m[3]", "q@m[0]", "bad"]
    assert (matches[3]["scores"], matches[3]["failure"]["code"]) == (None, "forbidden_uri")
    assert all(m["failure"] is None for m in matches[:3])
    (failure,) = read_failures(out)
    assert (failure["row"], failure["column"], failure["id"], failure["uri"]) == ("q", "@m[1]", "bad", "/etc/hostname")
    assert (summarise(out).scored, summarise(out).given, summarise(out).failed_rows) == (3, 1, 0)


def test_columns_of_ranked_documents_follow_from_the_plan(tmp_path):
    given = lines(tmp_path / "x.jsonl", DOCUMENT)
    plain = ["id", "uri", "text", "mime_type", "tags"]
    for keep in (False, True):
        out = str(tmp_path / f"out-{keep}")
        do(out, given, DocumentRankPlan(keep_embeddings=keep))
        vectors = ["embedding"] if keep else []
        schema = read_dataset(out).schema
        match = schema.field("matches").type.value_type
        assert schema.names == [*plain, *vectors, "matches"]
        assert [field.name for field in match] == [*plain, *vectors, "scores", "failure"]
        assert (match.field("scores").type, match.field("failure").type) == (SCORES, REASON)
        assert read_provenance(out)["matches"]["scores"] == {"scale": 100.0, "score": "softmax", "top_k": None}
    (row,) = read_dataset(str(tmp_path / "out-True")).to_pylist()
    assert row["embedding"] == text_vector("one")
    assert [m["embedding"] for m in row["matches"]][:2] == [text_vector("one"), [1, 2, 3, 4]]


def test_a_document_without_matches_is_as_it_was_and_one_that_fails_can_be_ranked_again(tmp_path):
    out = str(tmp_path / "out")
    spec = dataclasses.replace(SPEC, allow_local_files=True)
    photo = tmp_path / "a.png"
    bad = {"id": "p", "uri": str(photo), "matches": [{"text": "x"}, {"text": "yy"}]}
    given = lines(tmp_path / "x.jsonl", {"id": "alone", "text": "t"}, bad)
    rows = run(out, given, DocumentRankPlan(), spec=spec)
    assert [(row["id"], row["matches"]) for row in rows] == [("alone", [])]
    (failure,) = read_failures(out)
    assert (failure["row"], failure["column"], failure["code"]) == ("p", None, "not_found")
    photo.write_bytes(photograph())
    (row,) = run(str(tmp_path / "again"), tmp_path / "out" / "_failures" / "*.jsonl", DocumentRankPlan(), spec=spec)
    assert row["id"] == "p" and {m["text"] for m in row["matches"]} == {"x", "yy"}
    assert sum(m["scores"]["clip_score"] for m in row["matches"]) == pytest.approx(1)


def test_only_json_lines_hold_documents_with_matches(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "text": ["t"]}), tmp_path / "x.parquet")
    for given in (tmp_path / "x.parquet", photographs(tmp_path)):
        with pytest.raises(DatasetError, match="has no documents with matches, which are JSON lines"):
            job_options.plan(SPEC, str(tmp_path / "out"), plan_shards([str(given)]), plan=DocumentRankPlan())


# --- labels ----------------------------------------------------------------------------------------------------------


WORDS = LabelSet.of(["one", "zz", "mmm"], templates=["{}"], top_k=2)


def best(vector: list[float]) -> list[dict]:
    """Return the two best of `WORDS`, computed from their vectors."""
    found = expected(vector, [text_vector(label) for label in WORDS.labels])[:2]
    return [{"label": WORDS.labels[n], "clip_score": score, "cosine": cosine} for n, score, cosine in found]


def test_documents_get_labels_as_a_column(tmp_path):
    out = str(tmp_path / "out")
    plan = DocumentClassifyPlan(DocumentEmbedPlan(), WORDS)
    rows = run(out, photographs(tmp_path), plan)
    assert [(Path(row["id"]).name, row["labels"]) for row in rows] == [
        ("a.png", best([4, 6, 255, 0])),
        ("b.png", best([4, 6, 0, 255])),
    ]
    schema = read_dataset(out).schema
    assert schema.names == ["id", "uri", "text", "mime_type", "tags", "labels"]
    assert schema.field("labels").type == LABELS
    assert [row["tags"] for row in rows] == [None, None]
    (failure,) = read_failures(out)
    assert Path(failure["row"]).name == "c.png"
    found = summarise(out)
    assert (found.rows, found.failed_rows, found.scored) == (2, 1, 2)
    about = read_provenance(out)["labels"]["scores"]
    assert (about["labels"], about["templates"], about["scale"]) == (3, ["{}"], 100.0)
    assert read_job(out)["plan"]["labels"]["labels"] == ["one", "zz", "mmm"]


def test_labels_that_documents_came_with_are_never_written_over(tmp_path):
    """`labels` of a line is a tag: such a document fails, and keeps it."""
    line = {"id": "r", "text": "one", "matches": [{"text": "zz", "labels": "mine"}, {"text": "zz"}, None]}
    out = str(tmp_path / "out")
    (row,) = run(out, lines(tmp_path / "x.jsonl", line), DocumentClassifyPlan(DocumentEmbedPlan("@r,m"), WORDS))
    assert row["labels"] == best(text_vector("one")) and row["tags"] is None
    failed, good, nothing = row["matches"]
    assert (failed["labels"], json.loads(failed["tags"])) == (None, {"labels": "mine"})
    assert good["labels"] == best(text_vector("zz"))
    assert nothing["labels"] is None
    failures = list(read_failures(out))
    assert [(f["column"], f["code"]) for f in failures] == [("@m[0]", "malformed"), ("@m[2]", "malformed")]
    assert "rename or remove it" in failures[0]["message"] and "is not a document but None" in failures[1]["message"]
    assert (summarise(out).scored, summarise(out).failed_rows) == (2, 1)


def test_vectors_that_are_there_are_classified_as_on_beam(tmp_path):
    line = {"id": "r", "embedding": text_vector("zz")}
    out = str(tmp_path / "out")
    (row,) = run(out, lines(tmp_path / "x.jsonl", line), DocumentClassifyPlan(DocumentEmbedPlan(), WORDS))
    assert row["labels"] == best(text_vector("zz")) and row["tags"] is None


def test_columns_of_rows_get_labels_arrays_too(tmp_path):
    words = pa.array([["one", "", None], [], None], pa.list_(pa.string()))
    pq.write_table(pa.table({"id": [1, 2, 3], "caption": ["zz", "", None], "words": words}), tmp_path / "x.parquet")
    columns = ColumnPlan.of({"caption": "text", "words": "text"}, spec=SPEC, suffix=SUFFIX)
    out = str(tmp_path / "out")
    rows = run(out, tmp_path / "x.parquet", ClassifyPlan(columns, WORDS))
    schema = read_dataset(out).schema
    assert (schema.field("caption_labels").type, schema.field("words_labels").type) == (LABELS, pa.list_(LABELS))
    assert [(row["id"], row["caption_labels"], row["words_labels"]) for row in rows] == [
        (1, best(text_vector("zz")), [best(text_vector("one")), None, None]),
        (3, None, None),
    ]
    failures = [(f["row"], f["column"], f["code"]) for f in read_failures(out)]
    assert failures == [("1", "words[1]", "empty"), ("2", "caption", "empty")]
    assert summarise(out).scored == 2
