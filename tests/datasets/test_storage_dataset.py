"""Datasets are written atomically, and files that clipmill did not write are never deleted."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import uuid

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill.datasets import (
    ShardWriter,
    finish_job,
    prepare_directory,
    read_dataset,
    read_failures,
    summarise,
    vector_array,
    vector_type,
    write_job,
)
from clipmill.datasets.dataset import count_finished
from clipmill.errors import DatasetError
from clipmill.files.folder import Folder
from clipmill.messages import Setting

SCHEMA = pa.schema([("id", pa.string()), ("v", vector_type())])


def batch(*ids: str) -> pa.RecordBatch:
    vectors = [None if name == "null" else np.full(4, len(name), np.float32) for name in ids]
    return pa.record_batch([pa.array(ids), vector_array(vectors, 4)], schema=SCHEMA)


@pytest.fixture(params=["local", "memory"])
def directory(request, tmp_path):
    """A directory that does not exist yet, local and on a file system of fsspec."""
    if request.param == "local":
        yield str(tmp_path / "deep" / "dataset")
        return
    url = f"memory://{uuid.uuid4().hex}/dataset"
    yield url
    fsspec.filesystem("memory").rm(url.rpartition("/")[0], recursive=True)


def write(directory: str, name: str, *ids: str, failures: int = 0, **manifest: object) -> dict:
    with ShardWriter(directory, name, SCHEMA) as writer:
        writer.write(batch(*ids))
        for number in range(failures):
            writer.fail({"row": str(number), "code": "empty"})
        return writer.commit(manifest)


def test_a_dataset_is_read_as_it_was_written(directory):
    prepare_directory(directory)
    write_job(directory, {"spec": {"model": "m"}}, shards=2)
    write(directory, "00001-b", "ccc", embedded=1, seconds=1.5, process="h:1", loads=1, resolved={"device": "cpu"})
    write(
        directory, "00000-a", "a", "null", failures=2,
        embedded=1, nulls=1, failed={"empty": 2}, seconds=0.5, process="h:2", loads=1, resolved={"device": "cpu"},
    )  # fmt: skip
    summary = finish_job(directory)
    assert read_dataset(directory).to_pylist() == [
        {"id": "a", "v": [1, 1, 1, 1]},
        {"id": "null", "v": None},
        {"id": "ccc", "v": [3, 3, 3, 3]},
    ]
    assert [record["row"] for record in read_failures(directory)] == ["0", "1"]
    assert (summary.rows, summary.embedded, summary.nulls, summary.failed) == (3, 2, 1, {"empty": 2})
    assert (summary.seconds, summary.shards, summary.loads, summary.processes) == (2.0, 2, 2, 2)
    assert summary.resolved == [{"device": "cpu"}]
    assert summary.complete


def test_the_manifest_lists_the_files_with_their_sizes(directory):
    prepare_directory(directory)
    manifest = write(directory, "00000-a", "a", "b", failures=1, embedded=2)
    sizes = Folder.of(directory).list()
    assert manifest["files"] == [
        {"name": name, "bytes": sizes[name]} for name in ("part-00000-a.parquet", "_failures/part-00000-a.jsonl")
    ]
    assert (manifest["rows"], manifest["failures"], manifest["embedded"]) == (2, 1, 2)
    assert json.loads(Folder.of(directory).read("_manifest/part-00000-a.json")) == manifest


def test_an_unfinished_dataset_is_not_complete(directory):
    prepare_directory(directory)
    write_job(directory, {}, shards=2)
    write(directory, "00000-a", "a")
    assert not summarise(directory).complete
    with pytest.raises(DatasetError, match="1 of 2 shards are missing"):
        finish_job(directory)


def test_a_shard_without_rows_still_has_the_columns(directory):
    prepare_directory(directory)
    with ShardWriter(directory, "00000-a", SCHEMA) as writer:
        writer.commit({})
    assert read_dataset(directory).schema.equals(SCHEMA)


def test_an_error_in_the_block_leaves_nothing(directory):
    prepare_directory(directory)
    with pytest.raises(KeyError), ShardWriter(directory, "00000-a", SCHEMA, row_group_rows=1) as writer:
        writer.write(batch("a"))
        writer.fail({"row": "b"})
        raise KeyError("in the middle")
    assert Folder.of(directory).list() == {}


def test_leaving_the_block_without_commit_leaves_nothing(directory):
    prepare_directory(directory)
    with ShardWriter(directory, "00000-a", SCHEMA) as writer:
        writer.write(batch("a"))
    assert Folder.of(directory).list() == {}


def test_writing_a_shard_again_replaces_it_and_its_failures(directory):
    prepare_directory(directory)
    write(directory, "00000-a", "old", failures=3)
    write(directory, "00000-a", "new")
    assert read_dataset(directory)["id"].to_pylist() == ["new"]
    assert list(read_failures(directory)) == []


def test_a_second_attempt_at_a_finished_shard_leaves_it_alone(directory):
    """An engine may start a task twice: the slower attempt must delete nothing, wherever it is killed."""
    prepare_directory(directory)
    shard = {"first_path": "a", "fingerprint": "1"}
    first = write(directory, "00000-a", "old", failures=1, shard=shard)
    assert write(directory, "00000-a", "new", shard=shard) == first
    assert read_dataset(directory)["id"].to_pylist() == ["old"]
    assert len(list(read_failures(directory))) == 1
    assert not [name for name in Folder.of(directory).list() if name.endswith(".tmp")]


@pytest.mark.parametrize("existing", [{"shard": {"fingerprint": "1"}}, {}])
def test_a_shard_of_other_input_is_replaced(directory, existing):
    prepare_directory(directory)
    write(directory, "00000-a", "old", failures=1, **existing)
    manifest = write(directory, "00000-a", "new", shard={"fingerprint": "2"})
    assert manifest["shard"] == {"fingerprint": "2"}
    assert read_dataset(directory)["id"].to_pylist() == ["new"]
    assert json.loads(Folder.of(directory).read("_manifest/part-00000-a.json")) == manifest


def test_a_shard_with_a_damaged_manifest_is_replaced(directory):
    prepare_directory(directory)
    write(directory, "00000-a", "old", shard={})
    Folder.of(directory).write("_manifest/part-00000-a.json", b"{")
    write(directory, "00000-a", "new", shard={})
    assert read_dataset(directory)["id"].to_pylist() == ["new"]


def test_an_error_while_writing_again_keeps_the_old_shard(directory):
    prepare_directory(directory)
    write(directory, "00000-a", "old", failures=1)
    before = Folder.of(directory).list()
    with pytest.raises(KeyError), ShardWriter(directory, "00000-a", SCHEMA) as writer:
        writer.write(batch("new"))
        raise KeyError
    assert Folder.of(directory).list() == before
    assert read_dataset(directory)["id"].to_pylist() == ["old"]


def test_a_killed_process_leaves_no_part_and_its_temporary_files_are_removed(tmp_path):
    code = (
        "import os, sys, pyarrow as pa; from clipmill.datasets import ShardWriter\n"
        "schema = pa.schema([('id', pa.string())])\n"
        "with ShardWriter(sys.argv[1], '00000-a', schema, row_group_rows=1) as writer:\n"
        "    writer.write(pa.record_batch([pa.array(['a'])], schema=schema)); writer.fail({}); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    orphans = os.listdir(tmp_path)
    assert len(orphans) == 2
    assert all(name.startswith(".part-00000-a.") for name in orphans)
    prepare_directory(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_a_file_size_limit_is_an_error_with_a_hint_and_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).random((1000, 4), np.float32)  # noise does not compress below the limit
    ids = pa.array([str(number) for number in range(1000)])
    rows = pa.record_batch([ids, vector_array(list(noise), 4)], schema=SCHEMA)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with (
            pytest.raises(DatasetError, match=r"part-00000-a\.parquet: file too large; raise the limit"),
            ShardWriter(str(tmp_path), "00000-a", SCHEMA, row_group_rows=100) as writer,
        ):
            writer.write(rows)
            writer.commit({})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_at_any_step_of_the_commit_leaves_no_part(tmp_path, monkeypatch, step):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    prepare_directory(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(DatasetError, match="no space left on device; free space or write elsewhere"):
            write(str(tmp_path), "00000-a", "a", failures=1)
    assert os.listdir(tmp_path) == []


def test_a_store_that_refuses_the_upload_keeps_no_part(monkeypatch):
    url = f"memory://{uuid.uuid4().hex}"
    prepare_directory(url)

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("503 slow down")

    monkeypatch.setattr(fsspec.filesystem("memory"), "put_file", refuse, raising=False)
    with pytest.raises(DatasetError, match="RuntimeError: 503 slow down"):
        write(url, "00000-a", "a")
    assert Folder.of(url).list() == {}


def test_memory_is_bounded_by_row_groups(tmp_path):
    """Many small batches become few row groups, none larger than asked for."""
    with ShardWriter(str(tmp_path), "00000-a", SCHEMA, row_group_rows=10) as writer:
        for number in range(25):
            writer.write(batch(str(number)))
        writer.commit({})
    metadata = pq.read_metadata(tmp_path / "part-00000-a.parquet")
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [10, 10, 5]
    assert read_dataset(str(tmp_path))["id"].to_pylist() == [str(number) for number in range(25)]


def test_other_columns_are_refused(tmp_path):
    with (
        pytest.raises(DatasetError, match="the batch has the columns"),
        ShardWriter(str(tmp_path), "00000-a", SCHEMA) as writer,
    ):
        writer.write(pa.record_batch({"id": [1]}))
    assert os.listdir(tmp_path) == []


def test_failures_are_always_valid_json(directory):
    prepare_directory(directory)
    with ShardWriter(directory, "00000-a", SCHEMA) as writer:
        writer.fail({"row": "photo\udcff.jpg", "tags": {"nan": float("nan"), "bytes": b"abc", "n": np.float32(2)}})
        writer.commit({})
    (record,) = read_failures(directory)
    assert record == {"row": "photo\udcff.jpg", "tags": {"nan": None, "bytes": "<3 bytes>", "n": 2.0}}


def make_dataset(directory: str) -> None:
    prepare_directory(directory)
    write_job(directory, {}, shards=1)
    write(directory, "00000-a", "a", failures=1)
    finish_job(directory)


def test_a_dataset_is_overwritten_only_when_asked(directory):
    make_dataset(directory)
    with pytest.raises(DatasetError, match="is not empty") as refused:
        prepare_directory(directory)
    assert Setting("overwrite", True) in refused.value.text.parts
    assert read_dataset(directory)["id"].to_pylist() == ["a"]
    for options in ({"overwrite": True}, {"if_exists": "replace"}):
        below = prepare_directory(directory, **options)
        assert Folder.of(below).list() == {} and below == f"{Folder.of(directory).url}/_next"
        assert read_dataset(directory)["id"].to_pylist() == ["a"] and summarise(directory).complete


def test_overwriting_is_not_offered_where_it_would_be_refused(directory):
    make_dataset(directory)
    Folder.of(directory).write("notes.txt", b"mine")
    for options in ({}, {"overwrite": True}):
        with pytest.raises(DatasetError, match="choose another directory") as refused:
            prepare_directory(directory, **options)
        assert "overwrite=True" not in str(refused.value)
    assert Folder.of(directory).read("notes.txt") == b"mine"


def test_a_job_that_never_wrote_anything_needs_no_overwrite(directory):
    folder = Folder.of(directory)
    prepare_directory(directory)
    write_job(directory, {}, shards=1)
    folder.make("_failures")
    folder.make("_manifest")
    folder.write("._plan.json.1-ab.tmp", b"killed while it was written")
    prepare_directory(directory)
    assert folder.list() == {}


@pytest.mark.parametrize("beside", [".part-00000-a.parquet.1.tmp", "_failures/part-00000-a.jsonl", "notes.txt"])
def test_a_job_that_wrote_something_does(directory, beside):
    """A temporary file may belong to a running job."""
    folder = Folder.of(directory)
    prepare_directory(directory)
    write_job(directory, {}, shards=1)
    folder.make("_failures")
    folder.write(beside, b"x")
    before = folder.list()
    with pytest.raises(DatasetError, match="is not empty"):
        prepare_directory(directory)
    assert folder.list() == before


def test_a_foreign_description_is_not_deleted(directory):
    Folder.of(directory).make()
    Folder.of(directory).write("_job.json", b'{"format": "another"}')
    with pytest.raises(DatasetError, match="is not empty"):
        prepare_directory(directory)


def test_finished_shards_are_counted_without_reading_them(directory):
    prepare_directory(directory)
    assert count_finished(directory) == 0
    write(directory, "00000-a", "a")
    Folder.of(directory).write("_manifest/part-00001-b.json", b"{")
    assert count_finished(directory) == 2


def test_foreign_files_in_a_dataset_are_never_deleted(directory):
    make_dataset(directory)
    Folder.of(directory).write("notes.txt", b"mine")
    before = Folder.of(directory).list()
    with pytest.raises(DatasetError, match=r"not part of the dataset \(notes.txt\)"):
        prepare_directory(directory, overwrite=True)
    assert Folder.of(directory).list() == before


@pytest.mark.parametrize("job", [None, b"{", b"[]", b'{"format": "another"}'], ids=["none", "cut", "list", "another"])
def test_a_directory_that_is_not_a_clipmill_dataset_is_never_deleted(directory, job):
    folder = Folder.of(directory)
    folder.make()
    folder.write("part-00000-1234.snappy.parquet", b"Spark's")
    if job is not None:
        folder.write("_job.json", job)
    with pytest.raises(DatasetError, match="not a clipmill dataset"):
        prepare_directory(directory, overwrite=True)
    assert folder.read("part-00000-1234.snappy.parquet") == b"Spark's"


def test_a_file_instead_of_the_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetError, match="is a file"):
        prepare_directory(str(tmp_path / "file"), overwrite=True)


def test_a_directory_that_cannot_be_created_is_an_error_with_its_path(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetError, match=r"cannot .*file/below"):
        prepare_directory(str(tmp_path / "file" / "below"))


@pytest.mark.parametrize(
    ("url", "message"),
    [("https://example.com/out", r"http\(s\) cannot be listed"), ("nosuch://x/out", "no file system for the scheme")],
)
def test_schemes_without_a_file_system_are_refused(url, message):
    with pytest.raises(DatasetError, match=message):
        prepare_directory(url)


def test_a_summary_of_something_else_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"there is no _job\.json"):
        summarise(str(tmp_path))


def test_a_damaged_manifest_is_named(tmp_path):
    make_dataset(str(tmp_path))
    (tmp_path / "_manifest" / "part-00000-a.json").write_text("{")
    with pytest.raises(DatasetError, match=r"part-00000-a\.json is damaged"):
        summarise(str(tmp_path))
