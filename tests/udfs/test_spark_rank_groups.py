"""`rank_groups`: columns that go in and come out, what is refused, what is counted, and groups of any size."""

from __future__ import annotations

import numpy as np
import pytest
from contract import png
from pyspark.sql import Observation, Row
from pyspark.sql import functions as F
from pyspark.sql import types as T
from rank_expected import cosine_of, softmax_of

from clipmill.encoders.testing import fake_image_vector, fake_text_vector, read_log
from clipmill.errors import SpecError, UnknownModelError
from clipmill.udfs import embed_columns, rank_groups

MODEL = "fake::dim=8"
FAILURES_DDL = "array<struct<column:string,stage:string,code:string,message:string>>"
SCORES = ["cosine", "clip_score", "embedding_failures"]


def cosine(query, candidate):
    return cosine_of(fake_text_vector(query), fake_text_vector(candidate))


@pytest.fixture
def flat(spark):
    rows = [("a", "red", "redder"), ("a", "red", "green"), ("b", "two", "two"), ("a", "red", ""), ("b", "two", None)]
    return spark.createDataFrame(
        [(n, *row) for n, row in enumerate(rows)], "n int, g string, query string, candidate string"
    )


def test_the_readme_example_in_a_chain(flat):
    scored = flat.transform(rank_groups, by="g", model=MODEL, top_k=1)
    rows = scored.orderBy("n").collect()
    cosines = [cosine("red", "redder"), cosine("red", "green")]
    powers = softmax_of([100 * one for one in cosines])
    assert [row.cosine for row in rows] == [*(pytest.approx(one, abs=1e-6) for one in cosines), 1, None, None]
    assert [row.clip_score for row in rows] == [*(pytest.approx(one, abs=1e-6) for one in powers), 1, None, None]
    best = int(np.argmax(cosines))
    assert [row["rank"] for row in rows] == [1 if n == best else None for n in range(2)] + [1, None, None]
    failures = [row.embedding_failures and [tuple(one) for one in row.embedding_failures] for row in rows]
    assert failures == [None, None, None, [("candidate", "tokenize", "empty", "the text is empty")], None]


def test_the_schema_is_the_one_that_was_there_and_the_new_columns(spark):
    before = T.StructType(
        [
            T.StructField("g", T.LongType(), False, {"note": "mine"}),
            T.StructField("query", T.StringType(), False),
            T.StructField("candidate", T.ArrayType(T.FloatType()), True, {"note": "vectors"}),
        ]
    )
    df = spark.createDataFrame([], before)
    options = {"by": "g", "candidate_kind": "vector", "model": MODEL}
    after = rank_groups(df, top_k=2, **options)
    assert after.schema.fields[:3] == before.fields
    added = {field.name: field.dataType.simpleString() for field in after.schema.fields[3:]}
    assert added == {"cosine": "double", "clip_score": "double", "rank": "int", "embedding_failures": FAILURES_DDL}
    assert rank_groups(df, **options).columns == [*before.names, *SCORES]
    assert after.collect() == []


def test_names_with_dots_names_that_come_twice_and_paths(spark):
    df = spark.sql("select 1 as id, 'red' as `q.x`, 2 as id, struct('redder' as c, struct(7 as k) as i) as s, 'o' as O")
    scored = rank_groups(df, by=["s.i.k", "q.x"], query="q.x", candidate="s.c", model=MODEL, top_k=1)
    assert scored.columns == ["id", "q.x", "id", "s", "O", "cosine", "clip_score", "rank", "embedding_failures"]
    (row,) = scored.collect()
    assert (row[0], row[1], row[2], row[4]) == (1, "red", 2, "o")
    assert (row[5], row[6], row[7]) == (pytest.approx(cosine("red", "redder"), abs=1e-6), 1, 1)


def test_groups_by_what_paths_name(spark):
    rows = [(n, Row(k=n % 2, o=n), "red", f"candidate {n}") for n in range(8)]
    df = spark.createDataFrame(rows, "n int, s struct<k: int, o: int>, query string, candidate string")
    found = rank_groups(df, by="s.k", model=MODEL, scale=1).collect()
    for half in (0, 1):
        members = sorted((row for row in found if row.s.k == half), key=lambda row: row.n)
        powers = softmax_of([cosine("red", row.candidate) for row in members])
        assert [row.clip_score for row in members] == pytest.approx(powers, abs=1e-6)


def test_other_columns_pass_whatever_their_type(spark):
    df = spark.sql(
        "select 'q' query, 'c' candidate, timestamp'2020-01-02 03:04:05' ts, date'2020-01-01' d, 1.50BD dec,"
        " map('a', 1) m, struct(1 as a, 'x' as b) s, 1Y b, null as nothing, array(struct(1 as q)) structs"
    )
    (before,) = df.collect()
    (after,) = rank_groups(df, by=["d", "dec", "s", "nothing"], model=MODEL).collect()
    assert {name: after[name] for name in df.columns} == before.asDict()
    assert after.clip_score == 1


def test_pictures_and_vectors_and_documents(spark, tmp_path):
    struct = "struct<text: string, blob: binary, embedding: array<float>>"
    given = [float(n) for n in range(8)]
    values = [(png(9, 60, (1, 2, 3)), ("red", None, None)), (png(9, 60, (1, 2, 3)), (None, None, given))]
    df = spark.createDataFrame([(n, *row) for n, row in enumerate(values)], f"n int, p binary, d {struct}").coalesce(1)
    model = f"{MODEL}&log={tmp_path}"
    rows = rank_groups(df, by="p", query="p", candidate="d", model=model).orderBy("n").collect()
    picture = fake_image_vector(np.full((9, 60, 3), (1, 2, 3), np.uint8))
    cosines = [cosine_of(picture, fake_text_vector("red")), cosine_of(picture, given)]
    assert [row.cosine for row in rows] == pytest.approx(cosines, abs=1e-6)
    assert [row.clip_score for row in rows] == pytest.approx(softmax_of([100 * one for one in cosines]), abs=1e-6)
    assert sorted(read_log(tmp_path).batches) == [("image", 1), ("text", 1)]


def test_what_it_made_can_be_embedded_and_ranked_further(flat):
    scored = rank_groups(flat, by="g", model=MODEL, top_k=1).withColumnRenamed("embedding_failures", "of_ranking")
    best = embed_columns(scored.filter("rank = 1"), {"candidate": "text"}, model=MODEL)
    assert {row.g: row.candidate_embedding for row in best.collect()}["b"] == fake_text_vector("two").tolist()


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "h"}, r"no column 'h'; there are 'n', 'g', 'query', 'candidate'"),
        ({"by": []}, r"by=\(\) names no columns"),
        ({"by": [""]}, r"by=\('',\) names no columns"),
        ({"query": "q"}, r"no column 'q'"),
        ({"candidate": "g.x"}, r"no column 'g\.x': 'g' is string, not a struct"),
        ({"query": "n"}, r"column 'n' is int, and query_kind='auto' takes strings"),
        (
            {"candidate": "n", "candidate_kind": "vector"},
            r"column 'n' is int, and candidate_kind='vector' takes arrays",
        ),
        ({"candidate_kind": "vector"}, r"column 'candidate' is string, and candidate_kind='vector' takes arrays"),
        ({"query_kind": "audio"}, r"query_kind='audio': fake::dim=8 embeds image and text"),
        ({"dtype": "float16"}, r"no half type"),
    ],
)
def test_what_cannot_work_is_refused_at_the_call(flat, options, message):
    with pytest.raises(SpecError, match=message):
        rank_groups(flat, **{"by": "g", "model": MODEL, **options})


def test_unknown_models_and_options_are_refused(flat):
    with pytest.raises(UnknownModelError, match="ViT-B-32"):
        rank_groups(flat, by="g", model="ViT-B-33::openai")
    with pytest.raises(TypeError, match="'batch_size' is called 'max_batch_rows' here"):
        rank_groups(flat, by="g", model=MODEL, batch_size=3)


UNGROUPABLE = [
    "map('a', 1)",
    "struct(array(map('a', 1)) as a)",
    *(["parse_json('1')"] if hasattr(F, "parse_json") else []),
]


@pytest.mark.parametrize("type_", UNGROUPABLE)
def test_columns_that_spark_cannot_group_by_are_refused(spark, type_):
    df = spark.sql(f"select 'q' query, 'c' candidate, {type_} as g")
    with pytest.raises(SpecError, match=r"by: column 'g' is .*, whose values Spark cannot group by"):
        rank_groups(df, by="g", model=MODEL)


@pytest.mark.parametrize("name", ["cosine", "Clip_Score", "embedding_failures"])
def test_names_that_are_taken_are_refused(flat, name):
    with pytest.raises(SpecError, match=f"column '{name.lower()}' exists already; rename it first"):
        rank_groups(flat.withColumn(name, F.lit(1)), by="g", model=MODEL)


def test_rank_is_taken_only_where_it_is_added(flat):
    ranked = flat.withColumn("Rank", F.lit("mine"))
    assert {row.Rank for row in rank_groups(ranked, by="g", model=MODEL).collect()} == {"mine"}
    with pytest.raises(SpecError, match="column 'rank' exists already"):
        rank_groups(ranked, by="g", model=MODEL, top_k=1)


# --- what is computed and counted ------------------------------------------------------------------------------------


def test_an_observation_counts_rows(flat):
    observation = Observation()
    more = flat.union(flat.selectExpr("n + 10", "g", "''", "' '"))
    assert len(rank_groups(more, by="g", model=MODEL, observation=observation).collect()) == 10
    assert observation.get == {"rows": 10, "scored": 3, "failed": 6}


@pytest.mark.parametrize("then", ["filter", "sort"])
def test_what_follows_does_not_embed_twice(spark, tmp_path, then):
    df = spark.range(200).selectExpr("id % 3 as g", "concat('query ', id) as query", "concat('text ', id) as candidate")
    scored = rank_groups(df, by="g", model=f"{MODEL}&log={tmp_path}", top_k=2)
    done = scored.filter("cosine is not null and clip_score > 0") if then == "filter" else scored.orderBy("clip_score")
    assert len(done.collect()) == 200
    assert read_log(tmp_path).rows == 400


def test_many_partitions_load_once_in_each_worker_and_encode_labels_once(spark, tmp_path):
    df = spark.range(0, 800, 1, 8).selectExpr(
        "id div 50 as g", "concat('query ', id div 50) as query", "concat('label ', id % 50) as candidate"
    )
    scored = rank_groups(df, by="g", model=f"{MODEL}&log={tmp_path}", max_batch_rows=8)
    assert sum(row.clip_score for row in scored.collect()) == pytest.approx(16)
    log = read_log(tmp_path)
    assert set(log.loads.values()) == {1}
    assert 66 <= log.rows <= 66 * len(log.loads)


def test_one_group_of_many_batches_of_spark(spark):
    """Its shuffle and windows are Spark's, which spill; no row of it is grouped in Python."""
    rows = 30_000
    df = spark.range(rows).selectExpr("'g' as g", "'red' as query", "concat('candidate ', id % 500) as candidate")
    scored = rank_groups(df, by="g", model=MODEL, top_k=3, scale=1)
    (found,) = scored.agg(
        F.count("cosine"), F.sum("clip_score"), F.min("rank"), F.max("rank"), F.max("cosine")
    ).collect()
    best = max(cosine("red", f"candidate {n}") for n in range(500))
    assert found[0] == rows
    assert found[1] == pytest.approx(1, abs=1e-9)
    assert (found[2], found[3]) == (1, 1)  # sixty of the best share it
    assert found[4] == pytest.approx(best, abs=1e-6)
