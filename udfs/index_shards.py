"""`index_shards`: the shards of an index, each a task of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import SparkSession

from ..encoders.index.shard import IndexJob, IndexShard, build_shard


def index_shards(spark: SparkSession, shards: Iterable[IndexShard], job: IndexJob) -> list[dict[str, Any]]:
    """Build and write the shards of an index, one Spark task for each, so that Spark retries them one by one.

    Args:
        spark: A classic or a Connect session.
        shards: What is read; small, since they travel with the function.
        job: What is made of each.

    Returns:
        What `build_shard` reported, in the order of the shards.
    """
    shards = list(shards)
    if not shards:
        return []
    numbers = spark.range(0, len(shards), 1, len(shards))
    rows = numbers.mapInArrow(_partition_function(shards, job), "number long, report string").collect()
    reports = {row["number"]: json.loads(row["report"]) for row in rows}
    return [reports[number] for number in range(len(shards))]


def _partition_function(
    shards: Sequence[IndexShard], job: IndexJob
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def build(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        task = TaskContext.get()
        cpus = task.cpus() if task is not None else None
        for batch in batches:
            for number in batch.column(0).to_pylist():
                report = json.dumps(build_shard(shards[number], job, cpus=cpus))
                yield pa.RecordBatch.from_pydict(
                    {"number": pa.array([number], pa.int64()), "report": pa.array([report], pa.string())}
                )

    return build
