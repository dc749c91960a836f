"""Pieces that are cut on the driver: each is done by a task of its own, which finds it by its number."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from pyspark import TaskContext

from clipmill.files.folder import Folder
from clipmill.files.parted_list import Codec, store
from clipmill.udfs.pieces import do_each, pieces_of, spread

TEXTS = Codec(str, str)


def in_tasks(spark, pieces, tasks):
    """Return the pieces that each task had, in the order of the tasks."""

    def look(batches):
        found = list(pieces_of(batches, pieces))
        task = TaskContext.get().partitionId()
        yield pa.RecordBatch.from_pylist([{"task": task, "number": number, "said": said} for number, said in found])

    rows = spread(spark, len(pieces), tasks).mapInArrow(look, "task long, number long, said string").collect()
    handed = {row.task: [(r.number, r.said) for r in rows if r.task == row.task] for row in rows}
    return [handed[task] for task in sorted(handed)]


@pytest.mark.connect
@pytest.mark.parametrize("tasks", [40, 3], ids=["one each", "several each"])
def test_pieces_are_spread_evenly_and_in_order(spark, tmp_path, tasks):
    assert spark.conf.get("spark.sql.adaptive.enabled") == "true"  # which gathers small partitions behind a shuffle
    pieces = store([f"piece {n}" for n in range(40)], Folder.of(tmp_path), "pieces", TEXTS)
    handed = in_tasks(spark, pieces, tasks)
    assert len(handed) == tasks
    assert {len(some) for some in handed} <= {40 // tasks, 40 // tasks + 1}
    assert [one for some in handed for one in some] == list(enumerate(pieces))


@pytest.mark.connect
def test_each_piece_is_done_once_and_nothing_comes_back(spark, tmp_path):
    pieces = store(["a", "ключ", "name-\udcff"], Folder.of(tmp_path), "pieces", TEXTS)

    def work(piece):
        with (tmp_path / f"done-{len(piece)}").open("a") as file:
            file.write(json.dumps(piece) + "\n")

    assert do_each(spark, pieces, work) is None
    done = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("done-*"))]
    assert done == ["a", "ключ", "name-\udcff"]


@pytest.mark.connect
def test_no_pieces(spark):
    assert in_tasks(spark, [], 1) == []
    do_each(spark, [], print)


def test_what_goes_wrong_in_a_task_is_said(spark, tmp_path):
    def refuse(one):
        raise ValueError(f"piece {one} must be one of ours")

    with pytest.raises(Exception, match="piece 7 must be one of ours"):
        do_each(spark, store(["7"], Folder.of(tmp_path), "pieces", TEXTS), refuse)
