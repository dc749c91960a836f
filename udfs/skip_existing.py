"""`write_skip_lists`: finds by a join which rows of a job's shards have their vectors in other datasets already."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from ..datasets.inputs.shards import Shard
from ..datasets.replacing import folder_written
from ..jobs.embedded_keys import embedded_keys
from ..jobs.job import Job
from ..jobs.row_keys import keys_wanted
from ..jobs.skip_existing import stored_parts
from ..jobs.skip_lists import write_skip_list
from .pieces import pieces_of, spread

if TYPE_CHECKING:
    import pandas as pd

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


def write_skip_lists(spark: SparkSession, shards: Sequence[Shard], job: Job) -> None:
    """Write for every shard the list of its rows to skip, found by a join of DataFrames."""
    assert job.skip_existing is not None
    together = _SHARDS_PER_TASK if job.skip_existing.by == "id" else 1  # by content all files are fetched
    wanted = _each(spark, shards, together, _WANTED, lambda n, shard: ((*one, n) for one in keys_wanted(shard, job)))
    there = _each(
        spark,
        stored_parts(job.skip_existing, folder_written(job.directory)),
        _SHARDS_PER_TASK,
        _THERE,
        lambda _, part: ((key, *said) for key, said in embedded_keys(part, job)),
    )
    # what `is_embedded` says of one digest: it has a vector in some dataset where nothing of it failed. One grouping by
    # the digest alone, whose shuffle serves the join too.
    made = F.collect_set(F.when(F.col("has_vector"), F.col("dataset")))
    failed = F.collect_set(F.when(~F.col("has_vector"), F.col("dataset")))
    whole = there.groupBy("digest").agg(F.array_except(made, failed).alias("datasets")).filter(F.size("datasets") > 0)
    found = wanted.join(whole.select("digest"), "digest", "left_semi").select("shard", "mark")
    every = spread(spark, len(shards), _tasks_of(len(shards), _SHARDS_PER_TASK)).withColumnRenamed("id", "shard")
    both = found.unionByName(every, allowMissingColumns=True)
    both.groupBy("shard").applyInPandas(_writing(shards, job), "shard long").collect()


def _each(
    spark: SparkSession,
    pieces: Sequence[Any],
    together: int,
    columns: _Columns,
    rows: Callable[[int, Any], Iterator[tuple[Any, ...]]],
) -> DataFrame:
    """Return the rows that a function makes of each piece and its number, so many pieces together in a task."""

    def task(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number, piece in pieces_of(batches, pieces):
            made = rows(number, piece)
            while some := list(itertools.islice(made, _BATCH_ROWS)):
                arrays = [
                    pa.array(values, field.type)
                    for values, field in zip(zip(*some, strict=True), columns.arrow, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(arrays, schema=columns.arrow)

    return spread(spark, len(pieces), _tasks_of(len(pieces), together)).mapInArrow(task, columns.spark)


def _tasks_of(pieces: int, together: int) -> int:
    return max(math.ceil(pieces / together), 1)


def _writing(shards: Sequence[Shard], job: Job) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def write(found: pd.DataFrame) -> pd.DataFrame:  # Spark 3.5 groups into no tables of Arrow
        shard = shards[int(found["shard"].iloc[0])]  # every shard has one row without a mark
        write_skip_list(job, shard.name, found["mark"].dropna().tolist())
        return found[["shard"]].head(0)  # nothing that the driver would collect

    return write
