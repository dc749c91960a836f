"""Columns that only travel along: every type of Spark arrives unchanged, or is refused by name at the call."""

from __future__ import annotations

import random
from inspect import signature

import pytest
from pyspark.errors import PySparkException
from pyspark.ml.linalg import Vectors
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_type
from spark_types import BEYOND_PYTHON, MODEL, SIMPLE, assert_carried, drawn_expression, drawn_type

from clipmill.errors import SpecError
from clipmill.udfs import embed_columns, rank_groups
from clipmill.udfs.schema import check_carried


@pytest.fixture(autouse=True)
def _with_previews(spark):
    """Switch on types that some versions of Spark have as previews."""
    names = ("spark.sql.timeType.enabled", "spark.sql.geospatial.enabled")
    for name in names:
        spark.conf.set(name, "true")
    yield
    for name in names:
        spark.conf.unset(name)


def test_every_type_arrives_unchanged(spark):
    draw = random.Random(16)
    assert_carried(spark, [*SIMPLE.values(), *(drawn_expression(draw, draw.randint(1, 3)) for _ in range(5))])


def test_values_that_python_cannot_hold_arrive_unchanged(spark):
    assert_carried(spark, list(BEYOND_PYTHON.values()), as_text=True)


def test_vectors_of_spark_ml_arrive_unchanged(spark):
    vectors = [Vectors.dense([1.0, 2.0]), Vectors.sparse(3, {1: 4.0}), None]
    df = spark.createDataFrame([("one", vector) for vector in vectors], ["caption", "features"])
    assert [row.features for row in embed_columns(df, {"caption": "text"}, model=MODEL).collect()] == vectors


REFUSED = {
    "interval '1-2' year to month": "interval year to month",
    "make_interval(1, 2, 3, 4, 5, 6, 7.5)": "interval",
    "array(interval '1' year)": "interval year",
    "map(1, named_struct('x', make_interval(1)))": "interval",
    "struct(1 as a, 'x' as a)": "a struct with 2 fields named 'a'",
    "array(map('k', struct(1 as a, 2 as b, 3 as a)))": "a struct with 2 fields named 'a'",
    "map()": "a map without a type of keys",
}
if not hasattr(T, "CalendarIntervalType"):  # before Spark 4.0, whose own schema fails with these
    REFUSED = {expression: problem for expression, problem in REFUSED.items() if "make_interval" not in expression}


@pytest.mark.parametrize(("expression", "problem"), REFUSED.items(), ids=list(REFUSED))
def test_a_type_that_spark_cannot_hand_to_python_is_refused_by_name(spark, expression, problem):
    df = spark.sql(f"select 'one' as caption, 'x' as candidate, {expression} as v")
    with pytest.raises(SpecError, match=rf"column 'v' is .*, and Spark cannot convert {problem} to Arrow") as refused:
        embed_columns(df, {"caption": "text"}, model=MODEL)
    assert "df.drop('v')" in str(refused.value)
    with pytest.raises(SpecError, match="column 'v' is"):
        rank_groups(df, by="caption", query="caption", candidate="candidate", model=MODEL)
    assert embed_columns(df.drop("v"), {"caption": "text"}, model=MODEL).count() == 1


def test_intervals_pass_as_the_message_says(spark):
    df = spark.sql("select 'one' as caption, interval '1-2' year to month as v")
    with pytest.raises(SpecError, match="cast it to string"):
        embed_columns(df, {"caption": "text"}, model=MODEL)
    (row,) = embed_columns(df.withColumn("v", F.col("v").cast("string")), {"caption": "text"}, model=MODEL).collect()
    assert row.v == "INTERVAL '1-2' YEAR TO MONTH"


def test_just_what_spark_itself_cannot_convert_is_refused():
    draw = random.Random(16)
    options = {"error_on_duplicated_field_names_in_struct": True, "timezone": "UTC"}
    options = {name: value for name, value in options.items() if name in signature(to_arrow_type).parameters}
    refused = 0
    for _ in range(1000):
        kind = drawn_type(draw, 3)
        try:
            to_arrow_type(kind, **options)
        except (PySparkException, ValueError):
            refused += 1
            with pytest.raises(SpecError, match="column 'v' is"):
                check_carried(T.StructType([T.StructField("v", kind)]))
        else:
            check_carried(T.StructType([T.StructField("v", kind)]))
    assert 200 < refused < 800
