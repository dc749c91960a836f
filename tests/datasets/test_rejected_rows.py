"""The files of rejected rows: written like rows, atomically, in row groups, and gone with the shard they belong to."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill.datasets import ShardWriter, finish_job, prepare_directory, read_dataset, write_job
from clipmill.datasets.tables.schemas import with_rejection

SCHEMA = pa.schema([("id", pa.string()), ("similarity", pa.float64())])


def kept(*ids: str) -> pa.RecordBatch:
    return pa.record_batch([pa.array(ids), pa.array([0.5] * len(ids))], schema=SCHEMA)


def rejected(*ids: str) -> pa.RecordBatch:
    columns = [pa.array(ids), pa.array([0.1] * len(ids)), pa.array(["below_min_score"] * len(ids))]
    return pa.record_batch(columns, schema=with_rejection(SCHEMA))


def test_they_are_in_the_manifest_and_beside_the_rows(tmp_path):
    with ShardWriter(str(tmp_path), "a", SCHEMA, row_group_rows=2) as writer:
        writer.reject(rejected("r0", "r1"))
        writer.write(kept("k0"))
        writer.reject(rejected("r2"))
        manifest = writer.commit({"shard": {"kind": "test"}})
    assert [one["name"] for one in manifest["files"]] == ["part-a.parquet", "_rejected/part-a.parquet"]
    for one in manifest["files"]:
        assert (tmp_path / one["name"]).stat().st_size == one["bytes"]
    file = pq.ParquetFile(tmp_path / "_rejected" / "part-a.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [2, 1]
    assert file.read().column("id").to_pylist() == ["r0", "r1", "r2"]
    assert manifest["rows"] == 1 and read_dataset(str(tmp_path))["id"].to_pylist() == ["k0"]


def test_json_lines_beside_json_lines(tmp_path):
    with ShardWriter(str(tmp_path), "a", SCHEMA, format="jsonl") as writer:
        writer.reject(rejected("r0"))
        writer.commit({})
    (line,) = (tmp_path / "_rejected" / "part-a.jsonl").read_text().splitlines()
    assert json.loads(line) == {"id": "r0", "similarity": 0.1, "rejection": "below_min_score"}


def test_a_shard_that_is_written_again_without_them_has_none(tmp_path):
    for shard, rows in (("first", rejected("r0")), ("second", None)):
        with ShardWriter(str(tmp_path), "a", SCHEMA) as writer:
            writer.write(kept("k0"))
            if rows is not None:
                writer.reject(rows)
            writer.commit({"shard": {"kind": shard}})
        assert (tmp_path / "_rejected" / "part-a.parquet").exists() == (rows is not None)


def test_a_shard_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), ShardWriter(str(tmp_path), "a", SCHEMA, row_group_rows=1) as writer:
        writer.reject(rejected("r0", "r1"))
        raise KeyError
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_those_of_no_shard_are_deleted_when_the_job_is_finished(tmp_path):
    directory = prepare_directory(str(tmp_path / "out"))
    write_job(directory, {"signature": "s"}, shards=1)
    with ShardWriter(directory, "a", SCHEMA) as writer:
        writer.reject(rejected("r0"))
        writer.commit({"shard": {"kind": "test"}, "signature": "s"})
    late = tmp_path / "out" / "_rejected" / "part-b.parquet"
    late.write_bytes(b"of a worker of an earlier start")
    finish_job(directory)
    assert [path.name for path in late.parent.iterdir()] == ["part-a.parquet"]
