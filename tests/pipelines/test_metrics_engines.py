"""The same numbers under the same names on both engines: of transforms, of functions of Spark, of jobs."""

from __future__ import annotations

import itertools

import apache_beam as beam
import pytest
from beam_helpers import pipeline
from scrapes import samples

from clipmill.encoders import unload_all
from clipmill.metrics.counts import by_engine_names, process_counts
from clipmill.metrics.prometheus_text import metrics_text
from clipmill.transforms import Classify, Embed, Rank
from clipmill.transforms import metrics_of as beam_metrics

MODEL = "fake::dim=8"
ROWS = [
    {"id": str(number), "caption": None if number == 5 else "" if number % 7 == 0 else f"caption {number % 20}"}
    for number in range(60)
]
"""60 captions, of which 9 are empty and one is null; of the others some are equal."""

EMBEDDED = {"rows_in": 60, "embedded": 50, "nulls": 1, "failed_empty": 9}


def without_times(found: dict[str, float]) -> dict[str, float]:
    return {name: number for name, number in found.items() if not name.endswith("_msec")}


def some_of(found: dict[str, float], wanted: dict[str, float]) -> dict[str, float | None]:
    return {name: found.get(name) for name in wanted}


# --- transforms and functions ----------------------------------------------------------------------------------------


def on_beam(transform: beam.PTransform, rows: list[dict]) -> dict[str, float]:
    unload_all()
    p = pipeline()
    _ = p | beam.Create(rows, reshuffle=False) | transform
    result = p.run()
    result.wait_until_finish()
    return beam_metrics(result)


@pytest.fixture
def on_spark(spark):
    """Return what a function of one DataFrame adds to the application's numbers."""
    from clipmill.udfs import spark_counts

    def measure(make, rows, schema):
        df = spark.createDataFrame([tuple(row.values()) for row in rows], schema).coalesce(1)
        before = spark_counts(spark)
        make(df).collect()
        return by_engine_names({key: n - before.get(key, 0) for key, n in spark_counts(spark).items()})

    return measure


def test_beam_and_spark_count_the_same_under_the_same_names(on_spark) -> None:
    """Equal but for times and for loads, which follow from the processes that there are."""
    from clipmill.udfs import embed_columns

    beam_found = on_beam(Embed(MODEL, columns={"caption": "text"}), ROWS)
    spark_found = on_spark(
        lambda df: embed_columns(df, {"caption": "text"}, model=MODEL, max_cache_bytes=0),
        ROWS,
        "id string, caption string",
    )
    assert some_of(beam_found, EMBEDDED) == some_of(spark_found, EMBEDDED) == EMBEDDED
    uncached = on_beam(Embed(MODEL, columns={"caption": "text"}, max_cache_bytes=0), ROWS)
    beam_names, spark_names = without_times(uncached), without_times(spark_found)
    assert beam_names.pop("models_loaded") == 1
    assert spark_names.pop("models_loaded", 0) <= 1  # a worker that an earlier test left may have it
    assert spark_names.keys() == beam_names.keys()
    assert {"batches", "batch_rows_count", "batch_rows_sum", "batch_rows_min", "batch_rows_max"} <= beam_names.keys()
    for name in ("batch_rows_min", "batch_rows_max"):  # of all that the application did, other tests' jobs too
        del spark_names[name], beam_names[name]
    assert spark_names == beam_names
    assert beam_found["cache_hits"] > 0 and "cache_hits" not in beam_names  # the names tell the two runs apart


def test_a_bundle_that_takes_long_tells_its_numbers_on_the_way() -> None:
    """And none of them twice: 60 calls of the model in one bundle."""
    found = on_beam(Embed(MODEL, columns={"caption": "text"}, max_batch_rows=1, max_cache_bytes=0), ROWS)
    assert some_of(found, EMBEDDED) == EMBEDDED
    assert (found["batches"], found["batch_rows_sum"]) == (50, 50)


def test_this_process_counts_what_beam_counted_in_it() -> None:
    before = process_counts()
    on_beam(Embed(MODEL, columns={"caption": "text"}), ROWS)
    after = by_engine_names({key: n - before.get(key, 0) for key, n in process_counts().items()})
    assert some_of(after, EMBEDDED) == EMBEDDED


def test_a_long_partition_is_counted_once(on_spark) -> None:
    from clipmill.udfs import embed_columns

    def embed(df):
        return embed_columns(df, {"caption": "text"}, model=MODEL, max_batch_rows=1, max_cache_bytes=0)

    found = on_spark(embed, ROWS, "id string, caption string")
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

    assert some_of(on_spark(make, ROWS, "id string, caption string"), EMBEDDED) == EMBEDDED


PAIRS = [{"q": "a", "c": ["b", "", "c"]}, {"q": "", "c": ["d"]}, {"q": "e", "c": []}]


def test_ranking_counts_its_failures_on_both(on_spark) -> None:
    from clipmill.udfs import rank

    beam_found = on_beam(Rank(MODEL, query="q", candidates="c", max_cache_bytes=0), [{"id": "1", **p} for p in PAIRS])
    schema = "q string, c array<string>"
    spark_found = on_spark(lambda df: df.select(rank("q", "c", model=MODEL, max_cache_bytes=0)), PAIRS, schema)
    wanted = {"rows_in": 3, "failed_empty": 2}
    assert some_of(beam_found, wanted) == some_of(spark_found, wanted) == wanted
    assert beam_found["embedded"] == spark_found["embedded"] > 0


def test_pairs_and_labels_count_on_spark_and_labels_are_nobodys_rows(on_spark) -> None:
    from clipmill.udfs import classify, clip_similarity, rank_groups

    rows = [{"g": "1", "query": "a", "candidate": "b"}, {"g": "1", "query": "a", "candidate": ""}]
    schema = "g string, query string, candidate string"
    wanted = {"rows_in": 2, "failed_empty": 1}
    similar = on_spark(lambda df: df.select(clip_similarity("query", "candidate", model=MODEL)), rows, schema)
    grouped = on_spark(lambda df: rank_groups(df, by="g", model=MODEL), rows, schema)
    labelled = on_spark(lambda df: df.select(classify("candidate", labels=["x", "y"], model=MODEL)), rows, schema)
    assert [some_of(found, wanted) for found in (similar, grouped, labelled)] == [wanted] * 3
    assert labelled["embedded"] == 1
    beam_found = on_beam(Classify(model=MODEL, labels=["x", "y"], columns={"candidate": "text"}), rows)
    assert some_of(beam_found, wanted) == wanted and beam_found["embedded"] == 1


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

    on_spark(lambda df: df.select(embed_text("caption", model=MODEL)), ROWS, "id string, caption string")
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
