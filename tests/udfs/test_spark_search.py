"""`search`: the contract of both engines, types, what is opened once in a worker, failures as asked for."""

from __future__ import annotations

import os

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from index_helpers import DIM, clustered, write_dataset
from pyspark.sql import functions as F
from search_contract import SearchContract, cloud, index, text_vectors, words  # noqa: F401 - fixtures

from clipmill.errors import SpecError
from clipmill.indexes.corpus import count_corpora_read
from clipmill.indexes.search_plan import SearchPlan
from clipmill.indexes.targets import find_target
from clipmill.udfs import register, search
from clipmill.udfs.search import search_array

TYPES = {"id": "string", "query": "string", "photo": "binary", "vector": "array<double>"}


class TestSearch(SearchContract):
    @pytest.fixture
    def find(self, spark):
        def run(rows, searched, *, query="query", **options):
            found = search(query, index=searched, failures="struct", **options)
            names = list(rows[0]) if rows else ["id", query]
            schema = ", ".join(f"{name} {TYPES[name]}" for name in names)
            df = spark.createDataFrame([tuple(row[name] for name in names) for row in rows], schema).repartition(3)
            made = {}
            for row in df.select("id", found.alias("found")).collect():
                result = row["found"]
                if result is None:
                    made[row["id"]] = None
                elif result["failure"] is not None:
                    assert result["hits"] is None
                    made[row["id"]] = result["failure"]["code"]
                else:
                    made[row["id"]] = [hit.asDict() for hit in result["hits"]]
            assert len(made) == len(rows)
            return made

        return run


@pytest.fixture
def small(tmp_path):
    vectors = clustered(200, seed=2)
    return str(write_dataset(tmp_path / "data", list(vectors))), vectors


def frame(spark, vectors):
    return spark.createDataFrame([(n, one.tolist()) for n, one in enumerate(vectors)], "id int, q array<float>")


def test_the_types_of_hits_and_their_name(spark, small) -> None:
    directory, vectors = small
    df = frame(spark, vectors[:3])
    found = df.select(search("q", index=directory, query_kind="vector", columns=["number", "uri"]))
    hit = "struct<position:bigint,id:string,score:double,number:int,uri:string>"
    assert found.schema.simpleString() == f"struct<hits:array<{hit}>>"
    reranked = df.select(search("q", index=directory, query_kind="vector", rerank=True))
    assert "score:double,cosine:double,clip_score:double" in reranked.schema.simpleString()


def test_what_became_of_a_bad_query(spark, small) -> None:
    """Null by default; `raise` ends the job and says which."""
    directory, vectors = small
    df = frame(spark, [vectors[0], vectors[1][:3]])
    rows = df.select("id", search("q", index=directory, query_kind="vector", top_k=1)).collect()
    assert {row["id"]: row["hits"] and row["hits"][0]["position"] for row in rows} == {0: 0, 1: None}
    raising = df.select(search("q", index=directory, query_kind="vector", failures="raise"))
    with pytest.raises(Exception, match="wrong_shape"):
        raising.collect()
    with pytest.raises(SpecError) as refused:
        search("q", index=directory, query_kind="vector", failures="drop")
    assert refused.value.option == "failures"


def test_a_column_of_vectors_needs_its_kind(spark, small) -> None:
    directory, vectors = small
    with pytest.raises(Exception, match="query_kind='vector'"):
        frame(spark, vectors[:1]).select(search("q", index=directory)).collect()


def test_a_worker_reads_a_dataset_once(spark, small) -> None:
    """Over many batches of several partitions: as many reads as worker processes."""
    directory, vectors = small
    plan = SearchPlan(find_target(directory), query_kind="vector", top_k=1).checked(None)

    def look(batches):
        for batch in batches:
            before = count_corpora_read()
            queries = pa.array(batch["q"].tolist(), pa.list_(pa.float32()))
            hits = search_array(queries, None, plan, "null").to_pylist()
            good = [found[0]["position"] for found in hits] == batch["id"].tolist()
            yield pd.DataFrame({"pid": [os.getpid()], "read": [count_corpora_read() - before], "good": [good]})

    df = frame(spark, vectors).repartition(6)
    rows = df.mapInPandas(look, "pid int, read int, good boolean").collect()
    assert len(rows) >= 12 and all(row["good"] for row in rows)
    by_process: dict[int, int] = {}
    for row in rows:
        by_process[row["pid"]] = by_process.get(row["pid"], 0) + row["read"]
    assert set(by_process.values()) == {1}


def test_a_filter_behind_it_computes_nothing_twice(spark, tmp_path) -> None:
    """Marked non-deterministic, as `embed_text` is."""
    vectors = clustered(20, seed=2)
    directory = str(write_dataset(tmp_path / "data", list(vectors)))
    df = frame(spark, vectors).withColumn("found", search("q", index=directory, query_kind="vector", top_k=1))
    kept = df.filter(F.col("found").isNotNull()).filter(F.size("found") > 0)
    assert kept.count() == 20
    plan = kept._jdf.queryExecution().executedPlan().toString()
    assert plan.count("search(") == 1


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (pa.uint64(), "is uint64, which Spark has no type for"),
        (pa.timestamp("ns"), r"holds timestamp\[ns\], which Spark would round"),
        (pa.list_(pa.duration("ns")), r"holds duration\[ns\], which Spark would round"),
        (pa.decimal256(60, 2), r"holds decimal256\(60, 2\), which Spark would round"),
    ],
    ids=str,
)
def test_a_type_that_spark_lacks_is_left_out(spark, tmp_path, kind, message) -> None:
    table = pa.table(
        {
            "id": ["a", "b"],
            "when": pa.nulls(2, kind),
            "embedding": pa.array(clustered(2).tolist(), pa.list_(pa.float32())),
        }
    )
    pq.write_table(table, tmp_path / "part-0.parquet")
    assert find_target(str(tmp_path)).dim == DIM
    with pytest.raises(SpecError, match=f"column 'when' {message}: leave it out"):
        search("q", index=str(tmp_path), query_kind="vector", top_k=1, columns=["when"])


def test_vectors_without_a_model_need_its_name(spark, tmp_path) -> None:
    """Of files that say nothing of it; vectors can be searched for all the same."""
    directory = str(write_dataset(tmp_path / "data", list(text_vectors(["one", "two"])), spec=None))
    with pytest.raises(SpecError, match="has no provenance, so its model is unknown"):
        search("q", index=directory, top_k=1)
    df = spark.createDataFrame([("two",)], "q string")
    (row,) = df.select(search("q", index=directory, top_k=1, model=f"fake::dim={DIM}")).collect()
    assert row["hits"][0]["id"] == "r1"
    with pytest.raises(SpecError, match=r"makes vectors of 8 values, and those of .* have 16"):
        search("q", index=directory, top_k=1, model="fake::dim=8")


def test_a_function_of_sql(spark, words) -> None:  # noqa: F811 - a fixture
    """Bound to an index when it is registered, by the same model as the other functions."""
    model = f"fake::dim={DIM}"
    names = register(spark, model=model, prefix="s_", index=words, columns=["text"], top_k=2)
    assert "s_search" in names
    spark.createDataFrame([("fig 2",), (None,)], "q string").createOrReplaceTempView("asked")
    rows = spark.sql("select q, s_search(q) as hits from asked").collect()
    found = {row["q"]: row["hits"] for row in rows}
    assert found[None] is None and len(found["fig 2"]) == 2 and found["fig 2"][0]["text"] == "fig 2"
    with pytest.raises(SpecError, match="model is 'demo' and was 'fake::dim=16'"):
        register(spark, model="demo", index=words)
    with pytest.raises(SpecError, match="columns without index"):
        register(spark, model=model, columns=["text"])
