"""`embed_columns`: what goes in, what comes out, what is refused, and what it costs."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pyspark.sql import Observation
from pyspark.sql import functions as F
from pyspark.sql import types as T

from clipmill.encoders import read_provenance
from clipmill.encoders.plans.embed_plan import Column
from clipmill.encoders.testing import fake_text_vector, read_log
from clipmill.errors import SpecError, UnknownModelError
from clipmill.udfs import embed_columns

MODEL = "fake::dim=8"
FAILURES_DDL = "array<struct<column:string,stage:string,code:string,message:string>>"


def png(height, width, colour=(1, 2, 3)):
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def vector(text):
    return fake_text_vector(text).tolist()


@pytest.fixture(scope="module")
def captions(spark):
    return spark.createDataFrame([("a", "one"), ("b", None), ("c", ""), ("d", "four")], "id string, caption string")


def test_the_readme_example_in_a_chain(captions):
    rows = captions.transform(embed_columns, {"caption": "text"}, model=MODEL).collect()
    assert [row.caption_embedding for row in rows] == [vector("one"), None, None, vector("four")]
    assert [row.embedding_failures and [tuple(f) for f in row.embedding_failures] for row in rows] == [
        None,
        None,
        [("caption", "tokenize", "empty", "the text is empty")],
        None,
    ]


def test_the_schema_is_the_one_that_was_there_and_the_new_columns(spark):
    before = T.StructType(
        [
            T.StructField("caption", T.StringType(), False, {"note": "mine"}),
            T.StructField("tags", T.ArrayType(T.StringType())),
        ]
    )
    after = embed_columns(spark.createDataFrame([], before), {"caption": "text", "tags": "text"}, model=MODEL)
    assert after.schema.fields[:2] == before.fields
    assert {f.name: f.dataType.simpleString() for f in after.schema.fields[2:]} == {
        "caption_embedding": "array<float>",
        "tags_embedding": "array<array<float>>",
        "embedding_failures": FAILURES_DDL,
    }
    assert after.collect() == []


def test_rows_of_a_partition_stay_in_order_whatever_happens_to_them(spark):
    def photo(n):
        return {0: png(n + 1, 1), 1: None, 2: b"no picture"}[n % 3]

    def caption(n):
        return {0: f"caption {n}", 1: None, 2: "", 3: "x" * n}[n % 4]

    rows = [(n, caption(n), photo(n)) for n in range(150)]
    df = spark.createDataFrame(rows, "n long, caption string, photo binary").coalesce(1)
    found = embed_columns(df, {"caption": "text", "photo": "image"}, model=MODEL, max_batch_rows=7).collect()
    assert [row.n for row in found] == list(range(150))
    for row in found:
        assert row.caption_embedding == (vector(row.caption) if row.caption else None)
        assert (row.photo_embedding or [None])[0] == (row.n + 1 if row.n % 3 == 0 else None)
        codes = {(f.column, f.code) for f in row.embedding_failures or []}
        wanted = {("caption", "empty")} if row.n % 4 == 2 else set()
        assert codes == wanted | ({("photo", "undecodable")} if row.n % 3 == 2 else set())


def test_other_columns_pass_whatever_their_type(spark):
    df = spark.sql(
        "select 'one' caption, timestamp'2020-01-02 03:04:05' ts, timestamp_ntz'2020-01-02 03:04:05' tn,"
        " date'2020-01-01' d, 1.50BD dec, map('a', 1) m, struct(1 as a, 'x' as b) s, interval '1' day iv,"
        " 1Y b, null as nothing, array(struct(1 as q)) structs, double(0.1) f"
    )
    (before,), (after,) = df.collect(), embed_columns(df, {"caption": "text"}, model=MODEL).collect()
    assert after.asDict() == before.asDict() | {"caption_embedding": vector("one"), "embedding_failures": None}


def test_names_with_dots_and_names_that_come_twice(spark):
    df = spark.sql("select 1 as id, 'one' as `a.b`, 2 as id, struct('four' as c) as a")
    embedded = embed_columns(df, {"a.b": "text", "a.c": "text"}, model=MODEL)
    assert embedded.columns == ["id", "a.b", "id", "a", "a_b_embedding", "a_c_embedding", "embedding_failures"]
    (row,) = embedded.collect()
    assert (row[0], row[1], row[2], row[4], row[5]) == (1, "one", 2, vector("one"), vector("four"))


def test_chosen_names_and_flags_of_truncated_texts(spark):
    df = spark.createDataFrame([("short",), ("word " * 100,), (None,)], "caption string").coalesce(1)
    rows = embed_columns(df, {"caption": Column("text", output="v", truncated="was_cut")}, model=MODEL).collect()
    assert [(row.v is None, row.was_cut) for row in rows] == [(False, False), (False, True), (True, False)]


def test_arrays_of_images_and_null_arrays(spark):
    df = spark.createDataFrame([([png(2, 3), None, b""],), (None,), ([],)], "photos array<binary>").coalesce(1)
    rows = embed_columns(df, {"photos": "image"}, model=MODEL).collect()
    assert [row.photos_embedding for row in rows] == [[[2.0, 3.0, 1.0, 2.0, 3.0, 0.0, 0.0, 0.0], None, None], None, []]
    assert [(f.column, f.code) for f in rows[0].embedding_failures] == [("photos[2]", "empty")]


def test_a_string_that_is_not_utf8_fails_alone(spark):
    df = spark.sql(
        "select if(id = 1, cast(x'fffe' as string), 'one') as caption, array('a', cast(x'ff' as string)) as tags,"
        " struct(cast(x'fe' as string) as title) as page from range(0, 3, 1, 1)"
    )
    embedded = embed_columns(df, {"caption": "text", "tags": "text", "page.title": "text"}, model=MODEL)
    rows = embedded.drop("caption", "tags", "page").collect()
    assert [row.caption_embedding for row in rows] == [vector("one"), None, vector("one")]
    assert [row.tags_embedding for row in rows] == [[vector("a"), None]] * 3
    assert [row.page_title_embedding for row in rows] == [None] * 3
    assert [[(f.column, f.stage, f.code) for f in row.embedding_failures] for row in rows] == [
        [(name, "read", "malformed") for name in (*caption, "tags[1]", "page.title")]
        for caption in ([], ["caption"], [])
    ]
    assert embedded.selectExpr("hex(caption) as bytes").collect()[1].bytes == "FFFE"  # what came in goes out


def test_provenance_is_looked_up_once_for_a_kind(spark, monkeypatch):
    asked = []

    def provenance_of(spec, modality):
        asked.append(modality)
        return {"modality": modality}

    monkeypatch.setattr("clipmill.datasets.tables.new_columns.provenance_of", provenance_of)
    df = spark.createDataFrame([], "a string, b string, c binary, d binary")
    embedded = embed_columns(df, {"a": "text", "b": "text", "c": "image", "d": "image"}, model=MODEL)
    assert sorted(asked) == ["image", "text"]
    assert read_provenance(embedded) == {
        f"{name}_embedding": {"modality": kind}
        for name, kind in {"a": "text", "b": "text", "c": "image", "d": "image"}.items()
    }


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "names nothing to embed"),
        ({"captoin": "text"}, r"no column 'captoin'; there are 'id', 'caption', 'n', 'page'"),
        ({"page.photo": "image"}, r"no column 'page.photo'; there are 'title'"),
        ({"caption.x": "text"}, "'caption' is string, not a struct"),
        ({"n": "text"}, "column 'n' is bigint; text columns hold strings, or arrays of them"),
        ({"n": "image"}, "column 'n' is bigint; image columns hold binary"),
        ({"page": "image"}, "column 'page' is struct<title:string>; image columns hold binary"),
        ({"caption": "audio"}, "embeds image and text only"),
        ({"caption": "txt"}, "must be one of text, image, audio"),
        ({"caption": Column("text", output="ID")}, "'ID' exists already"),
        ({"caption": Column("text", output="embedding_failures")}, "'embedding_failures' exists already"),
    ],
)
def test_what_cannot_work_is_refused_at_the_call(spark, columns, message):
    df = spark.createDataFrame([], "id string, caption string, n long, page struct<title: string>")
    with pytest.raises(SpecError, match=message):
        embed_columns(df, columns, model=MODEL)


def test_a_column_that_is_there_twice_cannot_be_embedded(captions):
    with pytest.raises(SpecError, match="2 columns named 'caption': rename one"):
        embed_columns(captions.select("caption", "caption"), {"caption": "text"}, model=MODEL)


def test_a_second_call_needs_a_name_for_the_failures_of_the_first(captions):
    once = embed_columns(captions, {"caption": Column("text", output="first")}, model=MODEL)
    with pytest.raises(SpecError, match="rename it first"):
        embed_columns(once, {"caption": "text"}, model=MODEL)
    renamed = once.withColumnRenamed("embedding_failures", "first_failures")
    assert [
        row.first == row.caption_embedding for row in embed_columns(renamed, {"caption": "text"}, model=MODEL).collect()
    ]


def test_bad_models_and_options_are_refused_at_the_call(captions):
    with pytest.raises(UnknownModelError, match="ViT-B-32"):
        embed_columns(captions, {"caption": "text"}, model="ViT-B-33::openai")
    with pytest.raises(TypeError, match="'batch_size' is called 'max_batch_rows' here"):
        embed_columns(captions, {"caption": "text"}, model=MODEL, batch_size=3)
    with pytest.raises(TypeError, match="did you mean 'normalize'"):
        embed_columns(captions, {"caption": "text"}, model=MODEL, normalise=True)
    with pytest.raises(SpecError, match="Spark: it has no half type"):
        embed_columns(captions, {"caption": "text"}, model=MODEL, dtype="float16")


@pytest.fixture(params=["true", "false"], ids=["ansi", "not-ansi"])
def ansi(request, spark):
    """Before Spark 4.0 ANSI mode is off; then the size of a null array is -1."""
    before = spark.conf.get("spark.sql.ansi.enabled")
    spark.conf.set("spark.sql.ansi.enabled", request.param)
    yield
    spark.conf.set("spark.sql.ansi.enabled", before)


def test_an_observation_counts_rows_vectors_and_failures(spark, ansi):
    df = spark.createDataFrame(
        [("one", ["a", "", None]), (None, None), ("", ["b"])], "caption string, tags array<string>"
    )
    observation = Observation()
    embed_columns(df, {"caption": "text", "tags": "text"}, model=MODEL, observation=observation).collect()
    assert observation.get == {"rows": 3, "embedded": 3, "failed": 2}


def test_an_observation_of_no_rows(captions):
    observation = Observation()
    embed_columns(captions.limit(0), {"caption": "text"}, model=MODEL, observation=observation).collect()
    assert observation.get == {"rows": 0, "embedded": 0, "failed": 0}


def test_a_filter_on_the_vector_does_not_embed_twice(spark, tmp_path):
    df = spark.range(200).selectExpr("id", "concat('caption ', id) as caption")
    embedded = embed_columns(df, {"caption": "text"}, model=f"{MODEL}&log={tmp_path}")
    assert len(embedded.filter("caption_embedding is not null").filter("size(caption_embedding) = 8").collect()) == 200
    assert read_log(tmp_path).rows == 200


def test_who_takes_the_first_rows_does_not_wait_for_all(spark, tmp_path):
    # vectors large enough that what was not asked for can't hide in the buffers between Spark and Python
    df = spark.range(0, 4000, 1, 1).selectExpr("concat('caption ', id) as caption")
    embedded = embed_columns(df, {"caption": "text"}, model=f"fake::dim=8192&log={tmp_path}", max_batch_rows=8)
    assert len(embedded.limit(3).collect()) == 3
    assert 3 <= read_log(tmp_path).rows < 2000


def test_many_partitions_load_once_in_each_worker(spark, tmp_path):
    for time in ("first", "second"):
        df = spark.range(0, 320, 1, 16).selectExpr(f"concat('{time} caption ', id) as caption")
        embed_columns(df, {"caption": "text"}, model=f"{MODEL}&log={tmp_path}").write.format("noop").mode(
            "overwrite"
        ).save()
    log = read_log(tmp_path)
    assert log.rows == 640
    assert set(log.loads.values()) == {1}
    # a worker for each slot, and perhaps one that earlier tests left idle and that takes its turn
    assert len(log.loads) <= 2 * spark.sparkContext.defaultParallelism


def test_strings_and_bytes_of_the_large_arrow_types(spark):
    df = spark.createDataFrame([("one", png(2, 3))], "caption string, photo binary")
    spark.conf.set("spark.sql.execution.arrow.useLargeVarTypes", "true")
    try:
        (row,) = embed_columns(df, {"caption": "text", "photo": "image"}, model=MODEL).collect()
    finally:
        spark.conf.unset("spark.sql.execution.arrow.useLargeVarTypes")
    assert row.caption_embedding == vector("one")
    assert row.photo_embedding == [2.0, 3.0, 1.0, 2.0, 3.0, 0.0, 0.0, 0.0]


def test_vectors_are_float32_to_the_bit(spark):
    df = spark.createDataFrame([("one two three",)], "caption string")
    (row,) = embed_columns(df, {"caption": "text"}, model=MODEL, normalize=True).collect()
    plain = fake_text_vector("one two three")
    np.testing.assert_array_equal(np.float32(row.caption_embedding), plain / np.linalg.norm(plain))


def test_in_a_stream_of_files(spark, tmp_path):
    spark.createDataFrame([("one",), ("four",)], "caption string").write.parquet(str(tmp_path / "in"))
    stream = spark.readStream.schema("caption string").parquet(str(tmp_path / "in"))
    embedded = embed_columns(stream, {"caption": "text"}, model=MODEL)
    query = embedded.writeStream.format("memory").queryName("embedded").trigger(availableNow=True).start()
    query.awaitTermination()
    rows = spark.table("embedded").orderBy(F.col("caption").desc()).collect()
    assert [(row.caption, row.caption_embedding) for row in rows] == [("one", vector("one")), ("four", vector("four"))]
