"""The classic Spark session that test modules share: one for each process, started when a test first asks for it."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.log.level": "OFF",  # jobs that are meant to fail would fill the output
    # Batches so small that every test has several in a partition.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "16",
}
"""Settings of the tests' sessions, classic and Connect."""


@pytest.fixture(scope="session")
def spark():
    builder = SparkSession.builder.master("local[2]").appName("clipmill tests")
    for name, value in SETTINGS.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()  # never stopped: it ends with the process, and other modules have the same one
