"""`index_shards`: the shards of an index, each a task of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyspark import TaskContext
from pyspark.sql import SparkSession

from ..indexes.shard import IndexJob, IndexShard, build_shard
from .payloads import report_each


def index_shards(spark: SparkSession, shards: Iterable[IndexShard], job: IndexJob) -> list[dict[str, Any]]:
    """Build and write the shards of an index, one Spark task for each, so that Spark retries them one by one.

    Args:
        spark: A classic or a Connect session.
        shards: The shards to read; each task receives only its own.
        job: What is made of each.

    Returns:
        What `build_shard` reported, in the order of the shards.
    """

    def build(shard: IndexShard) -> dict[str, Any]:
        task = TaskContext.get()
        return build_shard(shard, job, cpus=task.cpus() if task is not None else None)

    return report_each(spark, list(shards), build)
