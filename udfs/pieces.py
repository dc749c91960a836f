"""Work that the driver cuts into pieces, each of which a Spark task finds by its number.

Only numbers travel, and the address of the list: pieces that travelled with the function would be pickled for every
task and unpickled whole by it: n tasks, n times n pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from ..errors import options_noted

T = TypeVar("T")


def spread(spark: SparkSession, pieces: int, tasks: int) -> DataFrame:
    """Return the numbers of pieces as rows, cut in order into so many tasks, of equal numbers of them.

    A range keeps its partitions: rows that `createDataFrame` or `repartition` spreads are not one in each. A shuffle
    would place them too (`repartitionById`); but tasks that run behind one are restarted when an executor is lost that
    had written for it, and these tasks may take hours.

    Args:
        spark: A classic or a Connect session.
        pieces: How many there are.
        tasks: At least 1.

    Returns:
        `id`, the number of each piece from 0, which `pieces_of` reads.
    """
    return spark.range(0, pieces, 1, tasks)


def pieces_of(batches: Iterable[pa.RecordBatch], pieces: Sequence[T]) -> Iterator[tuple[int, T]]:
    """Yield the numbers and pieces of a task, in `mapInArrow` over the result of `spread`."""
    for batch in batches:
        for number in batch.column(0).to_pylist():
            yield number, pieces[number]


def do_each(spark: SparkSession, pieces: Sequence[T], work: Callable[[T], Any]) -> None:
    """Do something with each piece, in a task of its own, so that Spark retries them one by one.

    Nothing comes back to the driver: what the work makes is in files.

    Args:
        spark: A classic or a Connect session.
        pieces: A list that pickles to its address; see `files.parted_list`.
        work: What is done with each.
    """
    if not len(pieces):
        return

    def task(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _, piece in pieces_of(batches, pieces):
            with options_noted():
                work(piece)
        yield from ()

    spread(spark, len(pieces), len(pieces)).mapInArrow(task, "number long").collect()
