"""Pieces that are cut on the driver: each is done by a task of its own, which gets no other's."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark import TaskContext

from clipmill.udfs.payloads import payloads_of, report_each, spread


def in_tasks(spark, payloads, tasks):
    """Return the payloads that each task was handed, in the order of the tasks."""

    def look(batches):
        found = list(payloads_of(batches))
        task = TaskContext.get().partitionId()
        yield pa.RecordBatch.from_pylist([{"task": task, "number": number, "said": said} for number, said in found])

    rows = spread(spark, payloads, tasks).mapInArrow(look, "task long, number long, said string").collect()
    handed = {row.task: [(r.number, r.said) for r in rows if r.task == row.task] for row in rows}
    return [handed[task] for task in sorted(handed)]


@pytest.mark.connect
@pytest.mark.parametrize("tasks", [40, 3], ids=["one each", "several each"])
def test_payloads_are_spread_evenly_and_in_order(spark, tasks):
    assert spark.conf.get("spark.sql.adaptive.enabled") == "true"  # which gathers small partitions behind a shuffle
    payloads = [f"payload {n}" for n in range(40)]
    handed = in_tasks(spark, payloads, tasks)
    assert len(handed) == tasks
    assert {len(some) for some in handed} <= {40 // tasks, 40 // tasks + 1}
    assert [one for some in handed for one in some] == list(enumerate(payloads))


@pytest.mark.connect
def test_no_payloads(spark):
    assert in_tasks(spark, [], 1) == []
    assert report_each(spark, [], lambda one: {"one": one}) == []


class Traced:
    """Leaves a folder behind each time that it is unpickled, and becomes that folder's path."""

    def __init__(self, number: int, folder: Path) -> None:
        self._made = (f"-{number}", "", str(folder))

    def __reduce__(self):
        return tempfile.mkdtemp, self._made


def test_tasks_unpickle_their_own_payload_and_no_other(spark, tmp_path):
    payloads = [Traced(number, tmp_path) for number in range(12)]
    reports = report_each(spark, payloads, lambda path: {"number": path.rpartition("-")[2], "ключ": "ä"})
    assert reports == [{"number": str(number), "ключ": "ä"} for number in range(12)]
    unpickled = [int(path.name.rpartition("-")[2]) for path in tmp_path.iterdir()]
    assert sorted(unpickled) == list(range(12))


def test_payloads_of_any_size_travel_and_texts_that_are_not_utf8(spark):
    payloads = [b"\x00\xff" * 3_000_000, "name-\udcff", b""]
    reports = report_each(spark, payloads, lambda one: {"length": len(one), "type": type(one).__name__})
    assert reports == [
        {"length": 6_000_000, "type": "bytes"},
        {"length": 6, "type": "str"},
        {"length": 0, "type": "bytes"},
    ]


def test_what_goes_wrong_in_a_task_is_said(spark):
    def refuse(one):
        raise ValueError(f"payload {one} must be one of ours")

    with pytest.raises(Exception, match="payload 7 must be one of ours"):
        report_each(spark, [7], refuse)
