"""Work that the driver cuts into pieces; each Spark task receives only its own pieces.

A list that travelled with the function would be pickled for every task and unpickled whole by it: n tasks, n times n
pieces.
"""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from ..errors import options_noted

_NUMBER, _PAYLOAD = "number", "payload"
_REPORT = pa.schema([("number", pa.int64()), ("report", pa.string())])


def spread(spark: SparkSession, payloads: Sequence[Any], tasks: int) -> DataFrame:
    """Return payloads as rows, cut in order into so many tasks, of equal numbers of them.

    They are joined to a range, which keeps its partitions: rows that `createDataFrame` or `repartition` spreads are not
    one in each. A shuffle would place them too (`repartitionById`); but tasks that run behind one are restarted when
    an executor is lost that had written for it, and these tasks may take hours.

    Args:
        spark: A classic or a Connect session.
        payloads: What pickles. The JVM of each executor holds them once, as compressed bytes.
        tasks: At least 1.

    Returns:
        `number` (the place among the payloads, from 0) and `payload`, which `payloads_of` reads.
    """
    packed = pa.array((_pack(payload) for payload in payloads), pa.binary(), size=len(payloads))
    numbers = pa.array(range(len(payloads)), pa.int64())
    table = pa.Table.from_arrays([numbers, packed], [_NUMBER, _PAYLOAD])
    rows = spark.createDataFrame(table, f"{_NUMBER} long, {_PAYLOAD} binary")  # Connect infers no type without a row
    wanted = spark.range(0, len(payloads), 1, tasks).withColumnRenamed("id", _NUMBER)
    return wanted.join(F.broadcast(rows), _NUMBER).select(_NUMBER, _PAYLOAD)


def payloads_of(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, Any]]:
    """Yield the numbers and payloads of a task, in `mapInArrow` over the result of `spread`."""
    for batch in batches:
        for number, payload in zip(*batch.columns, strict=True):
            yield number.as_py(), pickle.loads(zlib.decompress(payload.as_buffer()))


def _pack(payload: Any) -> bytes:
    return zlib.compress(pickle.dumps(payload), 1)  # shards of folders are lists of files, which look alike


def report_each(
    spark: SparkSession, payloads: Sequence[Any], work: Callable[[Any], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Do something with each payload, in a task of its own, so that Spark retries them one by one.

    The reports, which can be said in JSON, come in the order of the payloads.
    """
    if not payloads:
        return []

    def task(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number, payload in payloads_of(batches):
            with options_noted():
                report = work(payload)
            yield pa.RecordBatch.from_pylist([{"number": number, "report": json.dumps(report)}], _REPORT)

    rows = spread(spark, payloads, len(payloads)).mapInArrow(task, "number long, report string").collect()
    reports = {row["number"]: json.loads(row["report"]) for row in rows}
    return [reports[number] for number in range(len(payloads))]
