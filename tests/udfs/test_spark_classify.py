"""`classify`: labels of columns in expressions and in SQL, what is refused, and what is encoded."""

from __future__ import annotations

import numpy as np
import pytest
from classify_contract import labelled
from contract import png, vector_of_png, vector_of_text
from pyspark.errors import PythonException
from pyspark.sql import Row
from pyspark.sql import functions as F

from clipmill.encoders.testing import read_log
from clipmill.errors import SpecError, UnknownModelError
from clipmill.udfs import classify, register

MODEL = "fake::dim=8"
LABELS = ["red", "a green thing", "blue", "two circles", "grey", "yellow and black"]
TEMPLATES = ["{}", "one {} more"]
TYPE = "array<struct<label:string,clip_score:double,cosine:double>>"


def expected(vector, count=5, scale=100.0):
    best = labelled(vector, LABELS, TEMPLATES, scale=scale)[:count]
    return [pytest.approx((cosine, clip_score), abs=1e-5) for _, cosine, clip_score in best], [one[0] for one in best]


def told(labels):
    return [(one.cosine, one.clip_score) for one in labels], [one.label for one in labels]


@pytest.fixture
def captions(spark):
    df = spark.createDataFrame([("one red thing",), (None,), ("",), ("blue",)], "caption string").coalesce(1)
    df.createOrReplaceTempView("classified_captions")
    return df


def test_the_best_labels_under_the_columns_name(captions):
    made = captions.select(classify("caption", labels=LABELS, templates=TEMPLATES, model=MODEL))
    assert made.schema.simpleString() == f"struct<caption_labels:{TYPE}>"
    first, null, empty, last = (row[0] for row in made.collect())
    assert (null, empty) == (None, None)
    assert told(first) == expected(vector_of_text("one red thing"))
    assert told(last) == expected(vector_of_text("blue"))


def test_a_struct_says_what_went_wrong(captions):
    made = captions.select(classify("caption", labels=LABELS, model=MODEL, failures="struct").alias("v"))
    assert made.schema["v"].dataType.simpleString().startswith(f"struct<labels:{TYPE},failure:struct<stage:string")
    rows = [row.v for row in made.collect()]
    assert [row and row.failure and tuple(row.failure) for row in rows] == [
        None,
        None,
        ("tokenize", "empty", "the text is empty"),
        None,
    ]
    assert [row and row.labels and len(row.labels) for row in rows] == [5, None, None, 5]


def test_raise_ends_the_job_at_a_bad_row(captions):
    column = classify("caption", labels=LABELS, model=MODEL, failures="raise")
    with pytest.raises(PythonException, match="EmbeddingError: row 2 could not be embedded: empty at tokenize"):
        captions.select(column).collect()
    assert len(captions.filter("length(caption) > 0").select(column).collect()) == 2


def test_every_kind_of_column(spark, tmp_path):
    given = [float(n) for n in range(8)]
    picture = png(9, 60, (1, 2, 3))
    row = Row(p=picture, v=given, d=Row(text=None, blob=picture), s=Row(inner="blue"), i=None)
    types = "p binary, v array<float>, d struct<text: string, blob: binary>, s struct<inner: string>, i binary"
    df = spark.createDataFrame([row], types)
    options = {"labels": LABELS, "templates": TEMPLATES, "model": f"{MODEL}&log={tmp_path}", "top_k": 2}
    made = df.select(
        classify("p", **options),
        classify("v", kind="vector", **options),
        classify("d", **options),
        classify("s.inner", **options),
        classify(F.upper("s.inner"), kind="text", **options).alias("upper"),
        classify("i", **options),
    )
    assert made.columns == ["p_labels", "v_labels", "d_labels", "s_inner_labels", "upper", "i_labels"]
    (found,) = made.collect()
    of_picture = vector_of_png(9, 60, (1, 2, 3))
    vectors = [of_picture, given, of_picture, vector_of_text("blue"), vector_of_text("BLUE")]
    for labels, vector in zip(found, vectors, strict=False):
        assert told(labels) == expected(vector, 2)
    assert found.i_labels is None
    log = read_log(tmp_path)
    assert sum(rows for kind, rows in log.batches if kind == "image") == 1
    assert log.rows == 1 + 2 + len(LABELS) * len(TEMPLATES)  # labels are not looked for among the values


@pytest.mark.parametrize(("rows", "labels"), [(200, 50)])
def test_labels_are_encoded_once_in_each_worker(spark, tmp_path, rows, labels):
    df = spark.range(0, rows, 1, 8).selectExpr("concat('caption ', id) as caption")
    names = [f"label {n}" for n in range(labels)]
    column = classify("caption", labels=names, templates=["{}"], model=f"{MODEL}&log={tmp_path}", max_batch_rows=8)
    assert {len(row[0]) for row in df.select(column).collect()} == {5}
    log = read_log(tmp_path)
    assert set(log.loads.values()) == {1}
    assert log.rows == rows + labels * len(log.loads)


def test_a_file_of_labels_is_read_where_the_job_is_planned(captions, tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LABELS), encoding="utf-8")
    column = classify("caption", labels=path, templates=TEMPLATES, model=MODEL)
    path.unlink()
    assert told(captions.select(column).collect()[3][0]) == expected(vector_of_text("blue"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "picture"}, r"kind='picture' must be one of 'auto'"),
        ({"kind": "audio"}, r"kind='audio': fake::dim=8 embeds image and text"),
        ({"failures": "nul"}, r"failures='nul' must be one of"),
        ({"top_k": None}, r"top_k=None: give the number"),
        ({"dtype": "float16"}, r"no half type"),
        ({"templates": ["no place"]}, r"'no place' has no \{\}"),
        ({"labels": "nowhere/labels.txt"}, r"cannot be read as a file of labels"),
    ],
)
def test_what_cannot_work_is_refused_at_the_call(spark, options, message):
    with pytest.raises(SpecError, match=message):
        classify("caption", **{"labels": LABELS, "model": MODEL, **options})


def test_unknown_models_and_options_are_refused(spark):
    with pytest.raises(UnknownModelError, match="ViT-B-32"):
        classify("caption", labels=LABELS, model="ViT-B-33::openai")
    with pytest.raises(TypeError, match="'batch_size' is called 'max_batch_rows' here"):
        classify("caption", labels=LABELS, model=MODEL, batch_size=3)


def test_types_that_cannot_work_and_labels_that_cannot_be_embedded_end_the_job(spark, captions):
    with pytest.raises(PythonException, match=r"SpecError: the column is int64, and kind='auto' takes strings"):
        spark.range(1).select(classify("id", labels=LABELS, model=MODEL)).collect()
    with pytest.raises(PythonException, match=r"SpecError: the column is list<.*kind='vector'"):
        spark.sql("select array(1.0f) as v").select(classify("v", labels=LABELS, model=MODEL)).collect()
    with pytest.raises(PythonException, match=r"SpecError: the label 'a poison' cannot be embedded: encode_failed"):
        captions.select(
            classify("caption", labels=["a poison", "x"], templates=["{}"], model=f"{MODEL}&bad=poison")
        ).collect()


@pytest.mark.parametrize(("deterministic", "rows"), [(False, 96), (True, 10)])
def test_deterministic_lets_spark_move_a_later_filter_before(spark, tmp_path, deterministic, rows):
    df = spark.range(0, 96, 1, 2).selectExpr("id", "concat('caption ', id) as caption")
    options = {"templates": ["{}"], "model": f"{MODEL}&log={tmp_path}", "deterministic": deterministic}
    classified = df.withColumn("v", classify("caption", labels=LABELS, **options))
    assert len(classified.filter("id < 10").collect()) == 10
    log = read_log(tmp_path)
    assert log.rows - len(LABELS) * len(log.loads) == rows


def test_a_filter_on_the_labels_does_not_classify_twice(spark, tmp_path):
    df = spark.range(0, 96, 1, 2).selectExpr("concat('caption ', id) as caption")
    column = classify("caption", labels=LABELS, templates=["{}"], model=f"{MODEL}&log={tmp_path}", max_cache_bytes=0)
    assert len(df.withColumn("v", column).filter("v is not null and v[0].clip_score > 0").collect()) == 96
    log = read_log(tmp_path)
    assert log.rows == 96 + len(LABELS) * len(log.loads)


def test_classify_in_sql(spark, captions, tmp_path):
    path = tmp_path / "labels.json"
    path.write_text('["red", "blue"]', encoding="utf-8")
    names = register(spark, model=MODEL, labels=path, templates=["{}"], top_k=1, prefix="told_", failures="struct")
    assert names == ["told_embed_text", "told_embed_image", "told_rank", "told_similarity", "told_classify"]
    rows = spark.sql(
        "select v.labels[0].label, v.failure.code from (select told_classify(caption) as v from classified_captions)"
    )
    here = captions.select(classify("caption", labels=path, templates=["{}"], top_k=1, model=MODEL)).collect()
    assert [tuple(row) for row in rows.collect()] == [
        (here[0][0][0].label, None),
        (None, None),
        (None, "empty"),
        ("blue", None),
    ]
    assert register(spark, model=MODEL, labels=["x"])[-1] == "clip_classify"
    with pytest.raises(SpecError, match="labels: there are none"):
        register(spark, model=MODEL, labels=[])


def test_scale_changes_the_softmax_alone(captions):
    options = {"labels": LABELS, "templates": TEMPLATES, "model": MODEL, "scale": 2}
    (row, *_) = captions.select(classify("caption", **options)).collect()
    assert told(row[0]) == expected(vector_of_text("one red thing"), scale=2)
    assert np.ptp([one.clip_score for one in row[0]]) < 0.5
