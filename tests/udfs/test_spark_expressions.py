"""`embed_text`, `embed_image`, `register` and the pandas UDFs: single columns in expressions and in SQL."""

from __future__ import annotations

import pytest
from pyspark.errors import PythonException
from pyspark.sql import functions as F

from clipmill.encoders import EncoderSpec
from clipmill.encoders.testing import fake_text_vector, read_log
from clipmill.errors import SpecError, UnknownModelError
from clipmill.udfs import embed_image, embed_text, image_udf, register, text_udf

MODEL = "fake::dim=8"


def vector(text):
    return fake_text_vector(text).tolist()


@pytest.fixture(scope="module")
def captions(spark):
    df = spark.createDataFrame([("one",), (None,), ("",), ("four",)], "caption string").coalesce(1)
    df.createOrReplaceTempView("captions")
    return df


@pytest.fixture
def numbered(spark):
    return spark.range(0, 200, 1, 4).selectExpr("id", "concat('caption ', id) as caption")


@pytest.mark.parametrize("embed", [embed_text, lambda name, **options: text_udf(**options)(name)])
def test_bad_rows_give_null_by_default(captions, embed):
    rows = captions.select(embed("caption", model=MODEL)).collect()
    assert [row[0] for row in rows] == [vector("one"), None, None, vector("four")]


def test_a_struct_says_what_went_wrong(captions):
    rows = captions.select(embed_text("caption", model=MODEL, failures="struct").alias("v")).collect()
    assert [row.v and (row.v.embedding, row.v.failure and tuple(row.v.failure)) for row in rows] == [
        (vector("one"), None),
        None,
        (None, ("tokenize", "empty", "the text is empty")),
        (vector("four"), None),
    ]


@pytest.mark.parametrize("embed", [embed_text, lambda name, **options: text_udf(**options)(name)])
def test_raise_ends_the_job_at_a_bad_row(captions, embed):
    with pytest.raises(PythonException, match="EmbeddingError: row 2 could not be embedded: empty at tokenize"):
        captions.select(embed("caption", model=MODEL, failures="raise")).collect()
    good = captions.filter("length(caption) > 0").select(embed("caption", model=MODEL, failures="raise")).collect()
    assert [row[0] for row in good] == [vector("one"), vector("four")]


@pytest.mark.parametrize(("embed", "good"), [(embed_text, None), (embed_image, "forbidden_uri")])
def test_a_string_that_is_not_utf8_fails_alone(spark, embed, good):
    df = spark.sql("select explode(array('one', cast(x'fffe' as string), 'four')) as caption").coalesce(1)
    rows = df.select(embed("caption", model=MODEL, failures="struct").alias("v")).select("v.*").collect()
    assert [row.failure and row.failure.code for row in rows] == [good, "malformed", good]
    assert rows[1].failure.stage == "read"
    assert "not valid UTF-8" in rows[1].failure.message
    assert rows[0].embedding == (vector("one") if embed is embed_text else None)


def test_results_are_named_as_embed_columns_names_them(spark, captions):
    pages = spark.createDataFrame([(("one",),)], "page struct<title: string>")
    assert captions.select(embed_text("caption", model=MODEL)).columns == ["caption_embedding"]
    assert captions.select(embed_text(F.col("caption"), model=MODEL)).columns == ["caption_embedding"]
    assert captions.select(embed_text(F.upper("caption"), model=MODEL)).columns == ["upper(caption)_embedding"]
    assert captions.select(embed_text(F.upper("caption").alias("c"), model=MODEL)).columns == ["c_embedding"]
    assert pages.select(embed_text("page.title", model=MODEL)).collect()[0].asDict() == {
        "page_title_embedding": vector("one")
    }


@pytest.mark.parametrize("make", [embed_text, embed_image, lambda _, **o: text_udf(**o), lambda _, **o: image_udf(**o)])
def test_bad_models_and_options_are_refused_at_the_call(spark, make):
    with pytest.raises(UnknownModelError, match="ViT-B-32"):
        make("caption", model="ViT-B-33::openai")
    with pytest.raises(TypeError, match="'batch_size' is called 'max_batch_rows' here"):
        make("caption", model=MODEL, batch_size=3)
    with pytest.raises(SpecError, match="'nul' must be one of 'null', 'struct', 'raise'"):
        make("caption", model=MODEL, failures="nul")
    with pytest.raises(SpecError, match="no half type"):
        make("caption", model=MODEL, dtype="float16")


def test_an_array_is_sent_to_embed_columns(spark):
    df = spark.createDataFrame([(["one"], [b"x"])], "tags array<string>, photos array<binary>")
    for column in (
        embed_text("tags", model=MODEL),
        embed_image("photos", model=MODEL),
        text_udf(model=MODEL)("tags"),
        image_udf(model=MODEL)("photos"),
    ):
        with pytest.raises(PythonException, match=r"SpecError: .* use embed_columns"):
            df.select(column).collect()


def test_a_number_is_refused(spark):
    with pytest.raises(PythonException, match="embed_text takes a column of strings, got int64"):
        spark.range(3).select(embed_text("id", model=MODEL)).collect()


def test_a_filter_on_the_vector_does_not_embed_twice(numbered, tmp_path):
    embedded = numbered.withColumn("v", embed_text("caption", model=f"{MODEL}&log={tmp_path}"))
    assert len(embedded.filter("v is not null").collect()) == 200  # a count would not need the vector again
    assert read_log(tmp_path).rows == 200


@pytest.mark.parametrize(("deterministic", "rows"), [(False, 200), (True, 10)])
def test_deterministic_lets_spark_move_a_later_filter_before(numbered, tmp_path, deterministic, rows):
    column = embed_text("caption", model=f"{MODEL}&log={tmp_path}", deterministic=deterministic)
    assert len(numbered.withColumn("v", column).filter("id < 10").collect()) == 10
    assert read_log(tmp_path).rows == rows


def test_a_limit_is_pushed_below(numbered, tmp_path):
    rows = numbered.select("*", embed_text("caption", model=f"{MODEL}&log={tmp_path}")).limit(5).collect()
    assert [row.caption_embedding for row in rows] == [vector(row.caption) for row in rows]
    assert read_log(tmp_path).rows == 5


def test_two_expressions_of_one_select_share_worker_and_model(spark, tmp_path):
    df = spark.range(0, 64, 1, 8).selectExpr("concat('a ', id) as a", "concat('b ', id) as b")
    model = f"{MODEL}&log={tmp_path}"
    df.select(embed_text("a", model=model), embed_text("b", model=model, normalize=True)).collect()
    log = read_log(tmp_path)
    assert log.rows == 128
    assert set(log.loads.values()) == {1}
    assert len(log.loads) <= 4  # two slots; workers that earlier tests left idle may take their turn


def test_a_spec_and_options_that_win_over_it(captions):
    spec = EncoderSpec(MODEL, normalize=True)
    (row, *_) = captions.select(
        embed_text("caption", model=spec).alias("unit"), embed_text("caption", model=spec, normalize=False).alias("raw")
    ).collect()
    assert row.raw == vector("one")
    assert sum(value**2 for value in row.unit) == pytest.approx(1)


def test_functions_of_sql(spark, captions):
    names = ["clip_embed_text", "clip_embed_image", "clip_rank", "clip_similarity"]
    assert register(spark, model=MODEL, prefix="clip_") == names
    rows = spark.sql(
        "select clip_embed_text(caption) as v, clip_embed_image(binary(caption)) as w from captions"
    ).collect()
    assert [row.v for row in rows] == [vector("one"), None, None, vector("four")]
    assert [row.w for row in rows] == [None] * 4


def test_functions_of_sql_are_not_computed_twice(spark, numbered, tmp_path):
    register(spark, model=f"{MODEL}&log={tmp_path}", prefix="once_")
    numbered.createOrReplaceTempView("numbered")
    query = "select * from (select id, once_embed_text(caption) as v from numbered) where v is not null"
    assert len(spark.sql(query).collect()) == 200
    assert read_log(tmp_path).rows == 200


def test_functions_of_sql_with_failures(spark, captions):
    register(spark, model=MODEL, prefix="explained_", failures="struct")
    rows = spark.sql("select explained_embed_text(caption).failure.code as code from captions").collect()
    assert [row.code for row in rows] == [None, None, "empty", None]


def test_pandas_udfs_compose_with_functions_of_sql(spark, captions):
    spark.udf.register("pandas_embed_text", text_udf(model=MODEL))
    rows = spark.sql("select pandas_embed_text(upper(caption)) as v from captions").collect()
    assert [row.v for row in rows] == [vector("ONE"), None, None, vector("FOUR")]
