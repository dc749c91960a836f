"""`find_existing`: which rows of a job's shards have their vectors in other datasets already, by a join."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from ..encoders.storage.existing import parts_of
from ..encoders.storage.existing_rows import keys_there
from ..encoders.storage.job import Job
from ..encoders.storage.row_keys import keys_wanted
from ..encoders.storage.shards import Shard
from ..encoders.storage.skip_lists import write_skip_list

_BATCH_ROWS = 4096
_SHARDS_PER_TASK = 16
"""Of those of which little is read: the start of a task costs more than one of them."""


class _Columns(NamedTuple):
    """The columns of a DataFrame, as Spark and as Arrow call them."""

    spark: str
    arrow: pa.Schema


_WANTED = _Columns(
    "digest binary, mark binary, shard long",
    pa.schema([("digest", pa.binary()), ("mark", pa.binary()), ("shard", pa.int64())]),
)
_THERE = _Columns(
    "digest binary, dataset long, has_vector boolean",
    pa.schema([("digest", pa.binary()), ("dataset", pa.int64()), ("has_vector", pa.bool_())]),
)


def find_existing(spark: SparkSession, shards: Sequence[Shard], job: Job) -> None:
    """Write for every shard the list of its rows that are passed over, found by a join of DataFrames.

    Args:
        spark: A classic or a Connect session.
        shards: What is read; small, since they travel with the function.
        job: Whose `existing` names the datasets.
    """
    assert job.existing is not None
    parts = parts_of(job.existing)
    together = _SHARDS_PER_TASK if job.existing.by == "id" else 1  # by content all files are fetched
    tasks = math.ceil(len(shards) / together)
    wanted = _each(spark, len(shards), tasks, _WANTED, lambda n: ((*one, n) for one in keys_wanted(shards[n], job)))
    tasks = math.ceil(len(parts) / _SHARDS_PER_TASK)
    there = _each(spark, len(parts), tasks, _THERE, lambda n: ((key, *said) for key, said in keys_there(parts[n], job)))
    # what `is_there` says of one digest: it has a vector in some dataset where nothing of it failed. One grouping by
    # the digest alone, whose shuffle serves the join too.
    made = F.collect_set(F.when(F.col("has_vector"), F.col("dataset")))
    failed = F.collect_set(F.when(~F.col("has_vector"), F.col("dataset")))
    whole = there.groupBy("digest").agg(F.array_except(made, failed).alias("datasets")).filter(F.size("datasets") > 0)
    found = wanted.join(whole.select("digest"), "digest", "left_semi").select("shard", "mark")
    every = spark.range(len(shards)).select(F.col("id").alias("shard"), F.lit(None).cast("binary").alias("mark"))
    found.unionByName(every).groupBy("shard").applyInArrow(_writing(shards, job), "shard long").collect()


def _each(
    spark: SparkSession, count: int, tasks: int, columns: _Columns, rows: Callable[[int], Iterator[tuple[Any, ...]]]
) -> DataFrame:
    """Return the rows that a function makes of each number below `count`, by so many tasks."""

    def task(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                made = rows(number)
                while some := list(itertools.islice(made, _BATCH_ROWS)):
                    arrays = [
                        pa.array(values, field.type)
                        for values, field in zip(zip(*some, strict=True), columns.arrow, strict=True)
                    ]
                    yield pa.RecordBatch.from_arrays(arrays, schema=columns.arrow)

    return spark.range(0, count, 1, max(tasks, 1)).mapInArrow(task, columns.spark)


def _writing(shards: Sequence[Shard], job: Job) -> Callable[[pa.Table], pa.Table]:
    def write(found: pa.Table) -> pa.Table:
        number = found.column("shard")[0].as_py()
        write_skip_list(job, shards[number].name, found.column("mark").drop_null().to_pylist())
        return found.select(["shard"]).slice(0, 1)

    return write
