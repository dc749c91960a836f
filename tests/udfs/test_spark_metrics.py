"""What functions on Spark count, and how the counts come to the driver."""

from __future__ import annotations

import itertools

import pytest
from engine_counts import EMBEDDED, MODEL, ROWS, SCHEMA, some_of
from scrapes import samples

from clipmill.metrics.prometheus_text import metrics_text

pytest_plugins = ["engine_counts"]


def test_a_long_partition_is_counted_once(on_spark) -> None:
    from clipmill.udfs import embed_columns

    def embed(df):
        return embed_columns(df, {"caption": "text"}, model=MODEL, max_batch_rows=1, max_cache_bytes=0)

    found = on_spark(embed, ROWS, SCHEMA)
    assert some_of(found, EMBEDDED) == EMBEDDED
    assert found["batches"] == 50


@pytest.mark.parametrize("function", ["expression", "sql", "pandas"])
def test_expressions_sql_and_pandas_udfs_count(spark, on_spark, function) -> None:
    from clipmill.udfs import embed_text, register, text_udf

    def make(df):
        if function == "expression":
            return df.select(embed_text("caption", model=MODEL))
        if function == "pandas":
            return df.select(text_udf(model=MODEL)("caption"))
        register(spark, model=MODEL, prefix="counted_")
        df.createOrReplaceTempView("counted")
        return spark.sql("select counted_embed_text(caption) from counted")

    assert some_of(on_spark(make, ROWS, SCHEMA), EMBEDDED) == EMBEDDED


def test_failed_tasks_do_not_count(spark, on_spark) -> None:
    from clipmill.udfs import embed_text, metrics_of

    before = metrics_of(spark)
    with pytest.raises(Exception, match="EmbeddingError"):
        spark.createDataFrame([("",)], "caption string").select(
            embed_text("caption", model=MODEL, failures="raise")
        ).collect()
    assert metrics_of(spark).get("failed_empty") == before.get("failed_empty")


def test_the_driver_can_serve_what_spark_counted(spark, on_spark) -> None:
    from clipmill.udfs import embed_text, metrics_of, spark_counts

    on_spark(lambda df: df.select(embed_text("caption", model=MODEL)), ROWS, SCHEMA)
    found = samples(metrics_text(lambda: spark_counts(spark)))
    told = metrics_of(spark)
    assert found["clipmill_rows_in_total",] == told["rows_in"] >= 60
    assert found["clipmill_failed_total", "empty"] == told["failed_empty"]
    assert found["clipmill_batch_rows_sum",] == told["batch_rows_sum"]


def test_a_load_while_loads_are_told_is_told_once(monkeypatch) -> None:
    """Another thread loads a model between any two looks at the count."""
    from clipmill.udfs import meter

    looks = itertools.count(5)
    monkeypatch.setattr(meter, "_reported_loads", 5)
    monkeypatch.setattr(meter, "count_loads", lambda: next(looks))
    told = [sum(meter._new_loads().values()) for _ in range(4)]
    assert sum(told) == next(looks) - 1 - 5
