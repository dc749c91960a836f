"""The same numbers under the same names on both engines."""

from __future__ import annotations

import apache_beam as beam
from beam_helpers import pipeline
from engine_counts import EMBEDDED, MODEL, ROWS, SCHEMA, some_of

from clipmill.encoders import unload_all
from clipmill.metrics.counts import by_engine_names, process_counts
from clipmill.transforms import Classify, Embed, Rank
from clipmill.transforms import metrics_of as beam_metrics

pytest_plugins = ["engine_counts"]


def without_times(found: dict[str, float]) -> dict[str, float]:
    return {name: number for name, number in found.items() if not name.endswith("_msec")}


# --- transforms and functions ----------------------------------------------------------------------------------------


def on_beam(transform: beam.PTransform, rows: list[dict]) -> dict[str, float]:
    unload_all()
    p = pipeline()
    _ = p | beam.Create(rows, reshuffle=False) | transform
    result = p.run()
    result.wait_until_finish()
    return beam_metrics(result)


def test_beam_and_spark_count_the_same_under_the_same_names(on_spark) -> None:
    """Equal but for times and for loads, which follow from the processes that there are."""
    from clipmill.udfs import embed_columns

    beam_found = on_beam(Embed(MODEL, columns={"caption": "text"}), ROWS)
    spark_found = on_spark(
        lambda df: embed_columns(df, {"caption": "text"}, model=MODEL, max_cache_bytes=0),
        ROWS,
        SCHEMA,
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
