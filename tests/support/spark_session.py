"""The Spark session of the tests: local, or of a cluster or Spark Connect where the environment asks for it.

There is one for each process.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

from places import SUPPORT
from pyspark.sql import SparkSession

CONNECT = "CLIPMILL_TEST_SPARK_CONNECT"
"""Set by `make test-connect`: the two kinds of session can't share a process. `1`, or the URL of a server."""
MASTER = "CLIPMILL_TEST_SPARK_MASTER"
"""The master of a cluster (`spark_cluster.py`), whose operator has given it settings."""

SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.log.level": "OFF",  # jobs that are meant to fail would fill the output
    # Batches so small that every test has several in a partition.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "16",
    # Test processes run side by side: a heap that is bounded, and folders of their own.
    "spark.driver.memory": "1g",
    "spark.sql.warehouse.dir": tempfile.gettempdir() + f"/clipmill-tests-warehouse-{os.getpid()}",
}


def open_session() -> SparkSession:
    """Start this process's session, or return the one that is there."""
    builder: Any = SparkSession.builder
    server = os.environ.get(CONNECT, "")
    if server:
        builder = builder.remote(server if server.startswith("sc://") else "local[2]")
    elif os.environ.get(MASTER):
        builder = builder.master(os.environ[MASTER]).appName("clipmill tests")
    else:
        builder = builder.master("local[2]").appName("clipmill tests")
        # Queries of a few rows cost what their code takes to compile; on Spark Connect the same contracts run compiled.
        builder = builder.config("spark.sql.codegen.wholeStage", "false")
        builder = builder.config("spark.sql.codegen.factoryMode", "NO_CODEGEN")
        # Workers of tasks that failed are replaced: see warm_daemon.py. Spark Connect's server does not take it.
        builder = builder.config("spark.python.daemon.module", "warm_daemon")
        builder = builder.config("spark.executorEnv.PYTHONPATH", str(SUPPORT))
    for name, value in SETTINGS.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()
