"""What is particular to Spark Connect: `make test-connect` runs these, with what both kinds of session promise."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from contract import WITH_SOUNDS, vector_of_wav, wav
from pyspark.sql import Observation
from pyspark.sql import functions as F
from rank_expected import cosine_of, softmax_of

from clipmill.datasets.tables.provenance import provenance_of
from clipmill.encoders import EncoderSpec, read_provenance
from clipmill.encoders.testing import fake_text_vector, read_log
from clipmill.errors import SpecError
from clipmill.udfs import (
    audio_udf,
    classify,
    clip_similarity,
    embed_columns,
    embed_text,
    metrics_of,
    rank,
    rank_groups,
    register,
    stamp_provenance,
    text_udf,
)

pytestmark = pytest.mark.connect_only

MODEL = "fake::dim=8"
TEXT = provenance_of(EncoderSpec(MODEL), "text")


def vector(text):
    return fake_text_vector(text).tolist()


@pytest.fixture
def captions(spark):
    df = spark.createDataFrame([("a", "one"), ("b", None), ("c", ""), ("d", "four")], "id string, caption string")
    df.createOrReplaceTempView("captions")
    return df.coalesce(1)


def test_this_is_connect(spark):
    assert type(spark).__module__.startswith("pyspark.sql.connect")
    assert not hasattr(spark, "_jsparkSession")


def test_an_observation_counts(captions):
    observation = Observation()
    embed_columns(captions, {"caption": "text"}, model=MODEL, observation=observation).collect()
    assert observation.get == {"rows": 4, "embedded": 2, "failed": 1}


def test_there_are_no_accumulators_and_it_is_said(spark, captions):
    embed_columns(captions, {"caption": "text"}, model=MODEL).collect()
    with pytest.raises(SpecError, match=r"Spark Connect, which has no accumulators: embed_columns\(observation="):
        metrics_of(spark)


def test_functions_of_sql(spark, captions):
    names = ["clip_embed_text", "clip_embed_image", "clip_rank", "clip_similarity"]
    assert register(spark, model=MODEL, prefix="clip_") == names
    rows = spark.sql("select clip_embed_text(caption) as v from captions order by id").collect()
    assert [row.v for row in rows] == [vector("one"), None, None, vector("four")]


def test_functions_of_sql_and_pandas_udfs_for_sounds(spark):
    sounds = {"short": wav(30), "stereo": wav(40, 2), "noise": b"no sound", "null": None}
    df = spark.createDataFrame(list(sounds.items()), "id string, sound binary")
    df.createOrReplaceTempView("sounds")
    names = [f"audio_embed_{kind}" for kind in ("text", "image", "audio")]
    assert register(spark, model=WITH_SOUNDS, prefix="audio_") == [*names, "audio_rank", "audio_similarity"]
    in_sql = spark.sql("select id, audio_embed_audio(sound) as v from sounds")
    in_pandas = df.select("id", audio_udf(model=WITH_SOUNDS)("sound").alias("v"))
    expected = {"short": vector_of_wav(30).tolist(), "stereo": vector_of_wav(40, 2).tolist(), "noise": None}
    for made in (in_sql, in_pandas):
        assert {row.id: row.v for row in made.collect()} == {**expected, "null": None}


def test_pandas_udfs(captions):
    rows = captions.select(text_udf(model=MODEL)("caption").alias("v")).collect()
    assert [row.v for row in rows] == [vector("one"), None, None, vector("four")]


def test_results_are_named_as_on_classic(captions):
    assert captions.select(embed_text(F.col("caption"), model=MODEL)).columns == ["caption_embedding"]
    assert captions.select(embed_text(F.upper("caption"), model=MODEL)).columns == ["upper(caption)_embedding"]
    assert captions.select(embed_text(F.upper("caption").alias("c"), model=MODEL)).columns == ["c_embedding"]


def test_bad_rows_raise_where_asked_for(captions):
    with pytest.raises(Exception, match="EmbeddingError: row 2 could not be embedded: empty at tokenize"):
        captions.select(embed_text("caption", model=MODEL, failures="raise")).collect()


def test_a_string_that_is_not_utf8_fails_alone(spark):
    df = spark.sql("select explode(array('one', cast(x'fffe' as string))) as caption").coalesce(1)
    rows = embed_columns(df, {"caption": "text"}, model=MODEL).drop("caption").collect()
    assert [row.caption_embedding for row in rows] == [vector("one"), None]
    assert [row.embedding_failures and row.embedding_failures[0].code for row in rows] == [None, "malformed"]


def test_names_with_dots_and_names_that_come_twice(spark):
    df = spark.sql("select 1 as id, 'one' as `a.b`, 2 as id, struct('four' as c) as a")
    (row,) = embed_columns(df, {"a.b": "text", "a.c": "text"}, model=MODEL).collect()
    assert (row[0], row[1], row[2], row[4], row[5]) == (1, "one", 2, vector("one"), vector("four"))


@pytest.mark.parametrize("whole", [True, False], ids=["embed_columns", "embed_text"])
def test_a_filter_on_the_vector_does_not_embed_twice(spark, tmp_path, whole):
    df = spark.range(200).selectExpr("id", "concat('caption ', id) as caption")
    model = f"{MODEL}&log={tmp_path}"
    if whole:
        embedded = embed_columns(df, {"caption": "text"}, model=model)
    else:
        embedded = df.select("*", embed_text("caption", model=model))
    assert len(embedded.filter("caption_embedding is not null").collect()) == 200
    assert read_log(tmp_path).rows == 200


def test_many_partitions_load_once_in_each_worker(spark, tmp_path):
    df = spark.range(0, 320, 1, 16).selectExpr("concat('caption ', id) as caption")
    embed_columns(df, {"caption": "text"}, model=f"{MODEL}&log={tmp_path}").collect()
    log = read_log(tmp_path)
    assert log.rows == 320
    assert set(log.loads.values()) == {1}
    assert len(log.loads) <= 4  # two slots; workers that earlier tests left idle may take their turn


def test_provenance_travels_into_files(spark, captions, tmp_path):
    path = str(tmp_path / "vectors")
    embedded = embed_columns(captions, {"caption": "text"}, model=MODEL)
    assert read_provenance(embedded) == {"caption_embedding": TEXT}
    embedded.write.parquet(path)
    assert read_provenance(path) == read_provenance(spark.read.parquet(path)) == {"caption_embedding": TEXT}
    assert pq.read_table(path).column("caption_embedding").null_count == 2


def test_provenance_of_expressions(captions):
    assert read_provenance(captions.select("*", embed_text("caption", model=MODEL))) == {"caption_embedding": TEXT}
    added = captions.withColumn("v", embed_text("caption", model=MODEL))
    assert read_provenance(stamp_provenance(added, "v", MODEL, modality="text")) == {"v": TEXT}


# --- ranking and classifying; the contract runs above ----------------------------------------------------------------


@pytest.fixture
def asked(spark):
    rows = [("red", ["green", "redder", ""]), (None, ["x"]), ("one", [])]
    df = spark.createDataFrame(rows, "q string, c array<string>").coalesce(1)
    df.createOrReplaceTempView("asked")
    return df


def test_ranking_in_sql_is_what_the_expression_gives(spark, asked):
    names = register(spark, model=MODEL, prefix="sql_", labels=["red", "blue"], candidate_type="string")
    assert names[2:] == ["sql_rank", "sql_similarity", "sql_classify"]
    query = "select sql_rank(q, c), sql_similarity(q, c[0]) , sql_classify(q) from asked where size(c) > 0"
    here = asked.filter("size(c) > 0").select(
        rank("q", "c", model=MODEL),
        clip_similarity("q", F.get("c", 0), model=MODEL),
        classify("q", labels=["red", "blue"], model=MODEL),
    )
    assert here.columns == ["ranked", "clip_similarity", "q_labels"]
    assert [tuple(row) for row in spark.sql(query).collect()] == [tuple(row) for row in here.collect()]
    (row, null) = here.collect()
    order = sorted((cosine_of(vector("red"), vector(text)), text) for text in ("green", "redder"))[::-1]
    assert [one.candidate for one in row.ranked] == [order[0][1], order[1][1], ""]
    assert row.ranked[2].failure.code == "empty"
    assert tuple(null) == (None, None, None)
    assert [r.place for r in spark.sql("select rank() over (order by q) as place from asked").collect()] == [1, 2, 3]


def test_a_filter_on_the_ranking_does_not_rank_twice(spark, tmp_path):
    df = spark.range(100).selectExpr("concat('query ', id) as q", "array('one', 'two') as c")
    ranked = df.withColumn("r", rank("q", "c", model=f"{MODEL}&log={tmp_path}", max_cache_bytes=0))
    assert len(ranked.filter("size(r) > 0").collect()) == 100
    assert read_log(tmp_path).rows == 300


def test_groups_are_counted_and_other_columns_keep_their_metadata(spark):
    rows = [(n, f"g{n % 2}", "red", f"text {n}" if n else "") for n in range(6)]
    df = spark.createDataFrame(rows, "n int, g string, query string, candidate string")
    embedded = embed_columns(df, {"candidate": "text"}, model=MODEL).drop("embedding_failures")
    observation = Observation()
    kinds = {"candidate": "candidate_embedding", "candidate_kind": "vector"}
    scored = rank_groups(embedded, by="g", model=MODEL, top_k=1, observation=observation, **kinds)
    found = scored.orderBy("n").collect()
    assert read_provenance(scored) == {"candidate_embedding": TEXT}
    assert observation.get == {"rows": 6, "scored": 5, "failed": 0}
    odd = [row for row in found if row.g == "g1"]
    cosines = [cosine_of(vector("red"), vector(row.candidate)) for row in odd]
    assert [row.clip_score for row in odd] == pytest.approx(softmax_of([100 * one for one in cosines]), abs=1e-5)
    assert [row["rank"] for row in odd] == [1 if one == max(cosines) else None for one in cosines]
    assert (found[0].cosine, found[0].clip_score, found[0]["rank"], found[0].embedding_failures) == (None,) * 4
