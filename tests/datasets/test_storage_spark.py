"""Spark reads what the writer writes: vectors, nulls, nested documents and provenance."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill.datasets import (
    ShardWriter,
    documents_batch,
    documents_schema,
    prepare_directory,
    provenance_of,
    rows_batch,
    rows_schema,
    spark_metadata,
    with_provenance,
    write_job,
)
from clipmill.encoders import Document, EncoderSpec, read_provenance
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.encoders.plans.rank_plan import RankPlan

SPEC = EncoderSpec("fake::dim=4", device="cpu")
BASE = pa.schema(
    [
        ("id", pa.int64()),
        ("caption", pa.string()),
        ("words", pa.list_(pa.string())),
        ("when", pa.timestamp("us", "UTC")),
        ("price", pa.decimal128(9, 2)),
        ("page", pa.struct([("n", pa.int32())])),
        ("counts", pa.map_(pa.string(), pa.int16())),
        ("kind", pa.dictionary(pa.int32(), pa.string())),
    ]
)


def write(directory: str, batch: pa.RecordBatch) -> None:
    prepare_directory(directory)
    write_job(directory, {})
    with ShardWriter(directory, "00000-a", batch.schema) as writer:
        writer.write(batch)
        writer.fail({"row": "x"})
        writer.commit({})


@pytest.fixture(scope="module")
def rows_directory(tmp_path_factory):
    plan = ColumnPlan.of({"caption": "text", "words": "text"})
    schema = rows_schema(BASE, plan, SPEC)
    one = np.ones(4, np.float32)
    rows = [
        {"id": 1, "caption": "a", "caption_embedding": one, "words_embedding": [one, None], "page": {"n": 3}},
        {"id": 2, "caption": None, "caption_embedding": None, "words_embedding": None, "kind": "k"},
    ]
    directory = str(tmp_path_factory.mktemp("rows") / "dataset")
    write(directory, rows_batch(rows, schema, plan, 4))
    return directory


def test_vectors_and_nulls_are_the_same_for_spark(spark, rows_directory):
    frame = spark.read.parquet(rows_directory).orderBy("id")
    assert frame.schema["caption_embedding"].dataType.simpleString() == "array<float>"
    assert [
        (row.id, row.caption_embedding, row.words_embedding, row.page and row.page.n) for row in frame.collect()
    ] == [
        (1, [1, 1, 1, 1], [[1, 1, 1, 1], None], 3),
        (2, None, None, None),
    ]


def test_spark_sees_provenance_as_metadata_of_the_column(spark, rows_directory):
    frame = spark.read.parquet(rows_directory)
    provenance = provenance_of(SPEC, "text")
    assert json.loads(frame.schema["caption_embedding"].metadata["clipmill"]) == provenance
    assert frame.schema["caption"].metadata == {}
    assert read_provenance(frame) == {"caption_embedding": provenance, "words_embedding": provenance}
    assert read_provenance(frame.select("id", frame.words_embedding.alias("v"))) == {"v": provenance}


def test_provenance_survives_when_spark_writes_the_column(spark, rows_directory, tmp_path):
    spark.read.parquet(rows_directory).select("id", "caption_embedding").write.parquet(str(tmp_path / "again"))
    assert read_provenance(tmp_path / "again") == {"caption_embedding": provenance_of(SPEC, "text")}


def test_metadata_made_for_a_column_is_read_back(spark):
    provenance = provenance_of(SPEC, "image")
    frame = spark.range(1)
    stamped = frame.select(frame.id.alias("v", metadata=spark_metadata(provenance)))
    assert read_provenance(stamped) == {"v": provenance}
    assert read_provenance(frame) == {}


def test_nested_documents_are_structs_for_spark(spark, tmp_path):
    document = Document(id="q", text="t", embedding=np.ones(4, np.float32), tags={"x": 1})
    document.matches = [Document(id="m", text="u", embedding=np.zeros(4, np.float32)), Document(id="n")]
    schema = documents_schema(SPEC, access_paths="@r,m", tags={"x": pa.int32()})
    write(str(tmp_path / "d"), documents_batch([document, Document(id="r")], schema, 4))
    first, second = spark.read.parquet(str(tmp_path / "d")).orderBy("id").collect()
    assert (first.id, first.x, first.embedding) == ("q", 1, [1, 1, 1, 1])
    assert [(match.id, match.embedding) for match in first.matches] == [("m", [0, 0, 0, 0]), ("n", None)]
    assert (second.embedding, second.matches) == (None, [])


@pytest.mark.parametrize("kind", [pa.uint32(), pa.timestamp("ms"), pa.large_string(), pa.date32()], ids=str)
def test_columns_of_other_types_are_read_with_or_without_the_footer(spark, tmp_path, kind):
    """If Spark lacks a type, the footer is omitted, and Spark reads the file without it."""
    schema = with_provenance(pa.schema([("x", kind), ("v", pa.list_(pa.float32()))]), {"v": {"model": "m"}})
    pq.write_table(pa.table([pa.array([None], kind), pa.array([[1.0]])], schema=schema), tmp_path / "x.parquet")
    frame = spark.read.parquet(str(tmp_path / "x.parquet"))
    assert [(row.x, row.v) for row in frame.collect()] == [(None, [1.0])]
    assert read_provenance(frame) == ({} if kind == pa.uint32() else {"v": {"model": "m"}})


@pytest.mark.spark
def test_ranked_candidates_are_an_array_of_structs(spark, tmp_path):
    """With their types, nulls, failures and the provenance of the scores."""
    base = pa.schema([("id", pa.int64()), ("q", pa.string()), ("c", pa.list_(pa.binary()))])
    plan = RankPlan("q", "c", candidate_kind="image", scale=7.5)
    reason = {"stage": "decode", "code": "undecodable", "message": "no picture"}
    ranked = [
        {"candidate": b"a", "position": 1, "clip_score": 1.0, "cosine": 0.5, "failure": None},
        {"candidate": b"b", "position": 0, "clip_score": None, "cosine": None, "failure": reason},
    ]
    rows = [
        {"id": 1, "q": "x", "c": [b"b", b"a"], "ranked": ranked},
        {"id": 2, "ranked": []},
        {"id": 3, "ranked": None},
    ]
    out = str(tmp_path / "out")
    write(out, rows_batch(rows, rows_schema(base, plan, SPEC), plan, 4))
    frame = spark.read.parquet(out)
    assert dict(frame.dtypes)["ranked"] == (
        "array<struct<candidate:binary,position:int,clip_score:double,cosine:double,"
        "failure:struct<stage:string,code:string,message:string>>>"
    )
    assert read_provenance(frame)["ranked"]["scores"]["scale"] == 7.5
    found = {row.id: row.ranked and [one.asDict(recursive=True) for one in row.ranked] for row in frame.collect()}
    assert found == {1: ranked, 2: [], 3: None}
