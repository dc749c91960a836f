"""Counts of the engines, measured by tests of both."""

from __future__ import annotations

import pytest

from clipmill.metrics.counts import by_engine_names

MODEL = "fake::dim=8"
ROWS = [
    {"id": str(number), "caption": None if number == 5 else "" if number % 7 == 0 else f"caption {number % 20}"}
    for number in range(60)
]
"""60 captions, of which 9 are empty and one is null; of the others some are equal."""
SCHEMA = "id string, caption string"
EMBEDDED = {"rows_in": 60, "embedded": 50, "nulls": 1, "failed_empty": 9}


def some_of(found: dict[str, float], wanted: dict[str, float]) -> dict[str, float | None]:
    return {name: found.get(name) for name in wanted}


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
