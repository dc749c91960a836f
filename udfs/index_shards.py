"""`index_shards`: the shards of an index, each a task of its own."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark import TaskContext
from pyspark.sql import SparkSession

from ..indexes.shard import IndexJob, IndexShard, build_shard
from .pieces import do_each


def index_shards(spark: SparkSession, shards: Sequence[IndexShard], job: IndexJob) -> None:
    """Build and write the shards of an index, one Spark task for each, so that Spark retries them one by one.

    Args:
        spark: A classic or a Connect session.
        shards: The shards to read, in a list that pickles to its address; tasks get their numbers.
        job: What is made of each.
    """

    def build(shard: IndexShard) -> None:
        task = TaskContext.get()
        build_shard(shard, job, cpus=task.cpus() if task is not None else None)

    do_each(spark, shards, build)
