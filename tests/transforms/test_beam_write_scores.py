"""`WriteEmbeddings` behind `Rank` and `Classify`: scores of fixed types in files, failed candidates beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from beam_helpers import pipeline
from rank_expected import cosine_of, softmax_of

from clipmill.datasets import read_dataset, read_failures, read_job, summarise
from clipmill.datasets.tables.provenance import read_provenance
from clipmill.encoders.plans.embed_plan import Column
from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import SpecError
from clipmill.transforms import Classify, Document, Embed, Rank, WriteEmbeddings

MODEL = "fake::dim=8"
LIST = pa.schema([("id", pa.int64()), ("q", pa.string()), ("c", pa.list_(pa.string()))])
ROWS = [
    {"id": 1, "q": "one", "c": ["aa", "one", "z"]},
    {"id": 2, "q": "two", "c": ["b", "", None, "cc"]},
    {"id": 3, "q": "", "c": ["x"]},
    {"id": 4, "q": "four", "c": []},
    {"id": 5, "q": None, "c": ["x"]},
]


class Asked(NamedTuple):
    id: int
    q: str | None
    c: list[str | None] | None


class Pair(NamedTuple):
    id: int
    group: str
    q: str | None
    c: str | None


def write(directory: Path, elements: list, transform: beam.PTransform, **options: Any) -> dict[Any, dict]:
    """Send elements through a transform, write what comes out, and return the rows of the files by id."""
    with pipeline() as p:
        _ = p | beam.Create(elements) | transform | WriteEmbeddings(directory, **options)
    return {row["id"]: row for row in read_dataset(str(directory)).to_pylist()}


def expected(query: str, candidates: list[str]) -> list[tuple[str, float, float]]:
    """Return candidate, clip_score and cosine, best first, computed from the fake's vectors."""
    cosines = [cosine_of(fake_text_vector(query), fake_text_vector(one)) for one in candidates]
    scores = softmax_of([100 * one for one in cosines])
    found = sorted(zip(candidates, scores, cosines, strict=True), key=lambda one: -one[2])
    return [(one, pytest.approx(score, abs=1e-5), pytest.approx(cosine, abs=1e-6)) for one, score, cosine in found]


def check_lists(out: Path, rows: dict[Any, dict]) -> None:
    """Check what is written of `ROWS`, ranked."""
    assert sorted(rows) == [1, 2, 4, 5]
    found = [(one["candidate"], one["clip_score"], one["cosine"]) for one in rows[1]["ranked"]]
    assert found == expected("one", ["aa", "one", "z"])
    failed, null = rows[2]["ranked"][2:]
    assert (failed["candidate"], failed["position"], failed["failure"]["code"]) == ("", 1, "empty")
    assert (null["candidate"], null["position"], null["failure"]) == (None, 2, None)
    assert (rows[4]["ranked"], rows[5]["ranked"]) == ([], None)
    failures = sorted((f["row"], f["id"], f["column"], f["code"]) for f in read_failures(str(out)))
    assert failures == [("2", "2", "c[1]", "empty"), ("3", "3", "q", "empty")]
    summary = summarise(str(out))
    assert (summary.input_rows, summary.failed_rows, summary.rows, summary.scored) == (5, 1, 4, 5)
    assert (summary.failed, summary.complete) == ({"empty": 2}, True)
    candidate = read_dataset(str(out)).schema.field("ranked").type.value_type
    assert [(field.name, field.type) for field in candidate][:4] == [
        ("candidate", pa.string()),
        ("position", pa.int32()),
        ("clip_score", pa.float64()),
        ("cosine", pa.float64()),
    ]
    assert read_provenance(str(out))["ranked"]["scores"]["scale"] == 100.0
    assert read_job(str(out))["plan"]["candidates"] == "c"


def test_rows_with_a_schema_need_none(tmp_path):
    rows = write(tmp_path / "out", [Asked(**row) for row in ROWS], Rank(MODEL, query="q", candidates="c"))
    check_lists(tmp_path / "out", rows)


def test_dicts_come_with_the_schema_that_they_had(tmp_path):
    rank = Rank(MODEL, query="q", candidates="c")
    with pytest.raises(SpecError, match="dicts have no schema, and none is guessed"):
        write(tmp_path / "none", ROWS, rank)
    check_lists(tmp_path / "out", write(tmp_path / "out", ROWS, rank, schema=LIST))
    assert "c" not in write(tmp_path / "less", ROWS, Rank(MODEL, query="q", candidates="c"), schema=LIST, drop=["c"])[1]


def test_candidates_keep_their_type(tmp_path):
    """Vectors and structs, in beam.Rows too, are written as the schema says them."""
    struct = pa.struct([("text", pa.string()), ("uri", pa.string())])
    schema = pa.schema([("id", pa.int64()), ("q", pa.string()), ("c", pa.list_(struct))])
    mixed = [beam.Row(text="a", uri=None), beam.Row(text=None, uri="/etc/hostname")]
    rows = write(
        tmp_path / "out", [{"id": 1, "q": "q", "c": mixed}], Rank(MODEL, query="q", candidates="c"), schema=schema
    )
    assert [one["candidate"] for one in rows[1]["ranked"]] == [
        {"text": "a", "uri": None},
        {"text": None, "uri": "/etc/hostname"},
    ]
    (failure,) = read_failures(str(tmp_path / "out"))
    assert (failure["column"], failure["code"], failure["uri"]) == ("c[1]", "forbidden_uri", "/etc/hostname")
    schema = pa.schema([("id", pa.int64()), ("q", pa.string()), ("c", pa.list_(pa.list_(pa.float32())))])
    vectors = [[1.0] * 8, [2.0] + [0.0] * 7]
    rank = Rank(MODEL, query="q", candidates="c", candidate_kind="vector")
    rows = write(tmp_path / "vectors", [{"id": 1, "q": "q", "c": vectors}], rank, schema=schema)
    assert {one["position"]: one["candidate"] for one in rows[1]["ranked"]} == dict(enumerate(vectors))


def test_a_row_that_does_not_fit_the_schema_is_a_failure(tmp_path):
    schema = pa.schema([("id", pa.int64()), ("q", pa.string()), ("c", pa.list_(pa.binary()))])
    rows = [{"id": 1, "q": "q", "c": ["not bytes", 7]}, {"id": 2, "q": "q", "c": [b"\x89PNG"]}]
    found = write(tmp_path / "out", rows, Rank(MODEL, query="q", candidates="c"), schema=schema)
    assert sorted(found) == [2]
    failures = [(f["id"], f["column"], f["code"]) for f in read_failures(str(tmp_path / "out"))]
    assert ("1", None, "malformed") in failures
    summary = summarise(str(tmp_path / "out"))
    assert (summary.failed_rows, summary.rows, summary.scored) == (1, 1, 0)


def test_flat_rows_get_columns_of_numbers(tmp_path):
    texts = [("g", "one", "aa"), ("g", "one", "one"), ("g", "one", "z"), ("h", "two", "b"), ("h", "two", "")]
    pairs = [Pair(number, *texts_of) for number, texts_of in enumerate(texts)] + [Pair(5, "h", "two", None)]
    rank = Rank(MODEL, query="q", candidate="c", by="group", top_k=2)
    rows = write(tmp_path / "out", pairs, rank)
    assert sorted(rows) == [0, 1, 2, 3, 5]
    group = sorted((rows[n] for n in range(3)), key=lambda row: -row["cosine"])
    assert [(row["c"], row["clip_score"], row["cosine"]) for row in group] == expected("one", ["aa", "one", "z"])
    assert [row["rank"] for row in group] == [1, 2, None]
    assert (rows[3]["clip_score"], rows[3]["rank"], rows[5]["clip_score"]) == (1.0, 1, None)
    schema = read_dataset(str(tmp_path / "out")).schema
    assert [schema.field(name).type for name in ("cosine", "clip_score", "rank")] == [
        pa.float64(),
        pa.float64(),
        pa.int64(),
    ]
    assert [(f["row"], f["column"], f["code"]) for f in read_failures(str(tmp_path / "out"))] == [("4", "c", "empty")]
    summary = summarise(str(tmp_path / "out"))
    assert (summary.input_rows, summary.rows, summary.scored, summary.failed_rows) == (6, 5, 4, 1)


def test_documents_with_matches(tmp_path):
    def documents() -> list[Document]:
        matches = [Document(text="x", id="x"), Document(uri="/etc/hostname", id="bad"), Document(text="one", id="one")]
        return [
            Document(id="q", text="one", tags={"n": 1}, matches=matches),
            Document(id="fails", text="", matches=[Document(text="kept", id="m")]),
            Document(id="alone", text="alone"),
        ]

    rows = write(tmp_path / "out", documents(), Rank(MODEL))
    assert sorted(rows) == ["alone", "q"]
    assert [one["id"] for one in rows["q"]["matches"]] == ["one", "x", "bad"]
    assert [one["scores"] and one["scores"]["position"] for one in rows["q"]["matches"]] == [2, 0, None]
    assert rows["q"]["matches"][2]["failure"]["code"] == "forbidden_uri"
    assert "embedding" not in rows["q"] and rows["alone"]["matches"] == []
    failures = {f["row"]: f for f in read_failures(str(tmp_path / "out"))}
    assert (failures["q"]["column"], failures["q"]["id"], failures["q"]["transient"]) == ("@m[1]", "bad", False)
    assert failures["fails"]["matches"] == [{"id": "m", "text": "kept"}]
    summary = summarise(str(tmp_path / "out"))
    assert (summary.scored, summary.failed_rows, summary.failed) == (2, 1, {"empty": 1, "forbidden_uri": 1})
    rows = write(tmp_path / "vectors", documents(), Rank(MODEL, keep_embeddings=True))
    assert rows["q"]["matches"][0]["embedding"] == fake_text_vector("one").tolist()


def test_labels_of_documents_and_of_rows(tmp_path):
    labels = ["one", "zz"]
    texts = [Document(id="a", text="zz"), Document(id="b", text="")]
    rows = write(tmp_path / "documents", texts, Classify(labels, model=MODEL, templates=["{}"], top_k=1))
    assert [(name, row["labels"][0]["label"], row["tags"]) for name, row in rows.items()] == [("a", "zz", None)]
    assert [f["row"] for f in read_failures(str(tmp_path / "documents"))] == ["b"]
    assert summarise(str(tmp_path / "documents")).scored == 1
    classify = Classify(labels, model=MODEL, columns={"q": "text", "c": "text"}, templates=["{}"], top_k=1)
    rows = write(tmp_path / "rows", [Asked(1, "zz", ["one", ""]), Asked(2, None, None), Asked(3, "", None)], classify)
    assert sorted(rows) == [1, 2]
    assert [one["label"] for one in rows[1]["q_labels"]] == ["zz"]
    assert rows[1]["c_labels"][0][0]["label"] == "one" and rows[1]["c_labels"][1] is None
    assert (rows[2]["q_labels"], rows[2]["c_labels"]) == (None, None)
    assert read_provenance(str(tmp_path / "rows"))["q_labels"]["scores"]["labels"] == 2
    summary = summarise(str(tmp_path / "rows"))
    assert (summary.scored, summary.failed_rows, summary.failed) == (2, 2, {"empty": 2})


def test_flags_of_cut_texts_are_written_beside_vectors(tmp_path):
    embed = Embed(MODEL, columns={"q": Column("text", truncated="cut")})
    rows = write(tmp_path / "out", [Asked(1, "word " * 100, None), Asked(2, "short", None)], embed)
    assert [rows[n]["cut"] for n in (1, 2)] == [True, False]
    assert rows[2]["q_embedding"] == fake_text_vector("short").tolist()


def test_behind_other_steps_the_transform_is_asked_for(tmp_path):
    rank = Rank(MODEL, query="q", candidates="c")
    with pipeline() as p:
        rows = (p | beam.Create(ROWS[:1]) | rank).rows | beam.Filter(lambda row: True)
        with pytest.raises(SpecError, match=r"which model made these vectors or scores\? give the transform"):
            _ = rows | WriteEmbeddings(tmp_path / "out", schema=LIST)
        _ = rows | "Write" >> WriteEmbeddings(tmp_path / "out", schema=LIST, embed=rank)
    assert read_dataset(str(tmp_path / "out")).column("id").to_pylist() == [1]


@pytest.mark.parametrize("value", ["abc", 5, [], [1.5], {"a": 1}], ids=repr)
@pytest.mark.parametrize(
    "transform",
    [
        Embed("fake::dim=4", columns={"text": "text"}),
        Classify(["a", "b"], model="fake::dim=4", columns={"text": "text"}),
        Rank("fake::dim=4", query="text", candidates="texts"),
        Rank("fake::dim=4", query="text", candidate="other", by="id"),
    ],
    ids=["Embed", "Classify", "Rank", "Rank-by"],
)
def test_a_row_that_has_the_new_column_already_fails_alone(tmp_path, transform, value):
    """Whatever that column holds, it is not taken for what the transform makes."""
    row = {"id": "a", "text": "x", "texts": ["y"], "other": "z"}
    taken = transform.plan.new_names[0]
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("texts", pa.list_(pa.string()))])
    with pipeline() as p:
        both = p | beam.Create([row, row | {"id": "b", taken: value}]) | transform
        _ = both | WriteEmbeddings(tmp_path / "out", schema=schema.append(pa.field("other", pa.string())))
    found = summarise(str(tmp_path / "out"))
    assert (found.input_rows, found.failed_rows, found.failed) == (2, 1, {"malformed": 1})
    assert pq.read_table(tmp_path / "out")["id"].to_pylist() == ["a"]
