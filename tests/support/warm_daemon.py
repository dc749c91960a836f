"""Spark's daemon for Python workers, with everything imported that workers import: each starts as a copy of it.

A worker whose task fails is thrown away, and many tests are about tasks that fail: the next one would spend two seconds
on imports.
"""

from __future__ import annotations

import pandas  # noqa: F401
import pyarrow.compute  # noqa: F401
import pyspark.sql.pandas.serializers
import pyspark.worker  # noqa: F401
from pyspark import daemon

import clipmill.datasets
import clipmill.encoders.encoder
import clipmill.jobs
import clipmill.udfs  # noqa: F401

if __name__ == "__main__":
    daemon.manager()
