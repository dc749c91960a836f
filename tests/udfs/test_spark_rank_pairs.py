"""`clip_similarity`: the cosine of a pair of columns, and what becomes of pairs that fail."""

from __future__ import annotations

import pytest
from contract import png, vector_of_png
from pyspark.errors import PythonException
from rank_expected import cosine_of

from clipmill.encoders.testing import fake_text_vector, read_log
from clipmill.errors import SpecError
from clipmill.udfs import clip_similarity

MODEL = "fake::dim=8"


def texts(*values):
    return [fake_text_vector(value) for value in values]


PAIRS = [("red", "redder"), (None, "x"), ("x", None), ("", "x"), ("x", " "), ("", None), ("", " "), ("same", "same")]


@pytest.fixture
def paired(spark):
    df = spark.createDataFrame([(n, *pair) for n, pair in enumerate(PAIRS)], "n int, a string, b string").coalesce(1)
    df.createOrReplaceTempView("paired")
    return df


def test_similarity_is_the_cosine(paired):
    made = paired.select(clip_similarity("a", "b", model=MODEL))
    assert made.schema.simpleString() == "struct<clip_similarity:double>"
    cosine = cosine_of(*texts("red", "redder"))
    assert [row[0] for row in made.collect()] == [pytest.approx(cosine, abs=1e-6), *[None] * 6, 1]


def test_similarity_with_its_failure(paired):
    rows = paired.select(clip_similarity("a", "b", model=MODEL, failures="struct").alias("s")).collect()
    assert [row.s is None for row in rows] == [False, True, True, False, False, True, False, False]
    found = [row.s and row.s.failure and tuple(row.s.failure) for row in rows]
    empty = ("tokenize", "empty")
    assert found[3] == (*empty, "a: the text is empty") and found[4] == (*empty, "b: the text is empty")
    assert found[6] == found[3]
    assert found[0] is None and rows[0].s.similarity == pytest.approx(cosine_of(*texts("red", "redder")), abs=1e-6)


def test_a_column_that_cannot_be_compared_is_named(spark):
    df = spark.createDataFrame([("x", 1)], "image string, extra long")
    with pytest.raises(PythonException, match="SpecError: column 'extra' is int64, and b_kind='auto' takes"):
        df.select(clip_similarity("image", "extra", model=MODEL)).collect()


def test_a_threshold_is_a_filter_of_the_column():
    with pytest.raises(TypeError, match="there is no option 'min_score' here: filter the column of scores"):
        clip_similarity("a", "b", model=MODEL, min_score=0.3)


def test_similarity_that_raises(paired):
    with pytest.raises(
        PythonException,
        match=r"EmbeddingError: row 3 could not be embedded \(and 2 more\): empty at tokenize: a: .*failures='struct'",
    ):
        paired.select(clip_similarity("a", "b", model=MODEL, failures="raise")).collect()
    good = paired.filter("n in (0, 7)").select(clip_similarity("a", "b", model=MODEL, failures="raise")).collect()
    assert len(good) == 2 and good[1][0] == 1
    with pytest.raises(SpecError, match="'nul' must be one of 'null', 'struct', 'raise'"):
        clip_similarity("a", "b", model=MODEL, failures="nul")


def test_similarity_of_pictures_texts_and_vectors(spark, tmp_path):
    given = [float(n) for n in range(8)]
    df = spark.createDataFrame(
        [("red", png(9, 60, (1, 2, 3)), given, [1.0])], "t string, p binary, v array<float>, w array<float>"
    )
    model = f"{MODEL}&log={tmp_path}"
    (row,) = df.select(
        clip_similarity("p", "t", a_kind="image", b_kind="text", model=model),
        clip_similarity("t", "v", b_kind="vector", model=model),
        clip_similarity("w", "v", a_kind="vector", b_kind="vector", model=model, failures="struct"),
    ).collect()
    picture = vector_of_png(9, 60, (1, 2, 3))
    assert row[0] == pytest.approx(cosine_of(picture, *texts("red")), abs=1e-6)
    assert row[1] == pytest.approx(cosine_of(given, *texts("red")), abs=1e-6)
    assert (row[2].similarity, row[2].failure.code) == (None, "wrong_shape")
    assert read_log(tmp_path).rows == 2  # the picture and the text, once
    with pytest.raises(PythonException, match=r"SpecError: column 'v' is list<.*b_kind='vector'"):
        df.select(clip_similarity("t", "v", model=MODEL)).collect()
