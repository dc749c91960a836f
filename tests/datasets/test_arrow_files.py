"""Arrow files and streams are tables: of pandas (Feather), of Hugging Face's caches, and crafted ones."""

from __future__ import annotations

import datetime
import io
import itertools

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from storage_jobs import SPEC, do_job, run_job

from clipmill.datasets import plan_shards, read_documents, read_rows
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.errors import SpecError
from clipmill.files import arrow_stream
from clipmill.files.arrow_stream import ArrowStream, batch_headers

PLAN = ColumnPlan.of({"caption": "text"})


def table(rows: int = 10) -> pa.Table:
    names = pa.array([f"group {number % 3}" for number in range(rows)]).dictionary_encode()
    columns = {"id": list(map(str, range(rows))), "caption": [f"ring {n}" for n in range(rows)], "group": names}
    return pa.table({**columns, "day": pa.array([10**6] * rows, pa.int32()).cast(pa.date32())})


def write(path, given: pa.Table, kind: str, batch: int = 3) -> None:
    if kind == "feather":
        pa.feather.write_feather(given, path, chunksize=batch)
        return
    options = pa.ipc.IpcWriteOptions(compression=None if kind != "zstd stream" else "zstd")
    new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with new(str(path), given.schema, options=options) as writer:
        writer.write_table(given, max_chunksize=batch)


KINDS = ["feather", "file", "stream", "zstd stream"]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_the_same_however_they_are_stored_and_cut(tmp_path, kind):
    write(tmp_path / "x", table(), kind)  # without an ending: recognised by its first bytes
    for rows in (2, 4, 1000):
        shards = plan_shards([str(tmp_path / "x")], rows_per_shard=rows)
        assert {shard.kind for shard in shards} == {"arrow"}
        assert len(shards) == 1 or kind in ("file", "stream")
        found = [row for shard in shards for row in read_rows(shard)]
        assert [row.values["caption"] for row in found] == [f"ring {number}" for number in range(10)]
        assert [row.place for row in found] == [f"{tmp_path}/x:{number}" for number in range(10)]
    (document, *_) = read_documents(plan_shards([str(tmp_path / "x")])[0])
    assert (document.text, document.id) == ("ring 0", "0")


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_carries_columns_unchanged(tmp_path, kind):
    write(tmp_path / "x.arrow", table(), kind)
    do_job(str(tmp_path / "out"), tmp_path / "x.arrow", plan=PLAN, spec=SPEC, rows=4)
    written = pq.read_table(tmp_path / "out")
    order = np.argsort([int(one) for one in written["id"].to_pylist()])
    for name in table().column_names:
        assert (
            written[name]
            .take(order)
            .combine_chunks()
            .cast(table().schema.field(name).type)
            .equals(table()[name].combine_chunks())
        )


def test_a_stream_in_an_object_store_is_one_shard(tmp_path):
    write(tmp_path / "x", table(), "stream")
    store = fsspec.filesystem("memory")
    store.pipe_file("/arrow-files/x.arrow", (tmp_path / "x").read_bytes())
    try:
        (shard,) = plan_shards(["memory://arrow-files/x.arrow"], rows_per_shard=2)
        assert len(list(read_rows(shard))) == 10
    finally:
        store.rm("/arrow-files", recursive=True)


@pytest.mark.parametrize("cut", [0.99, 0.6, 0.3])
def test_a_file_that_is_cut_off_gives_the_batches_before_and_one_failure(tmp_path, cut):
    write(tmp_path / "x.arrow", table(300), "stream", batch=20)
    whole = (tmp_path / "x.arrow").read_bytes()
    (tmp_path / "x.arrow").write_bytes(whole[: int(len(whole) * cut)])
    rows = [row for shard in plan_shards([str(tmp_path / "x.arrow")]) for row in read_rows(shard)]
    assert [row.values["id"] for row in rows[:-1]] == [str(number) for number in range(len(rows) - 1)]
    assert rows[-1].failure is not None and rows[-1].failure.code == "malformed"


def test_a_batch_that_expands_is_too_large_and_those_before_it_are_read(tmp_path, monkeypatch):
    given = pa.concat_tables([pa.table({"text": ["a"]}), pa.table({"text": ["b" * 2_000_000]})])
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), given.schema, options=options) as writer:
        writer.write_table(given)
    assert len(list(read_rows(plan_shards([str(tmp_path)])[0]))) == 2
    monkeypatch.setattr(arrow_stream, "MAX_BATCH_BYTES", 1_000_000)
    first, failed = read_rows(plan_shards([str(tmp_path)])[0])
    assert first.values["text"] == "a"
    assert failed.failure is not None and failed.failure.code == "too_large"


def test_headers_tell_sizes_before_batches_are_decoded(tmp_path):
    write(tmp_path / "a", table(), "zstd stream", batch=4)
    write(tmp_path / "b", table(), "file", batch=4)
    with ArrowStream(str(tmp_path / "a")) as stream:
        compressed = list(stream.headers())
    with ArrowStream(str(tmp_path / "b")) as stream:
        plain = list(stream.headers())
    assert [one.rows for one in compressed] == [one.rows for one in plain] == [4, 4, 2]
    assert all(one.is_compressed for one in compressed) and not any(one.is_compressed for one in plain)
    assert all(one.nbytes < 1000 for one in (*compressed, *plain))


@pytest.mark.parametrize("field", ["body", "rows"])
def test_headers_with_negative_sizes_end_the_stream(tmp_path, field):
    """A body of a negative length would lead back to the same header, again and again."""
    write(tmp_path / "x.arrow", table(), "stream", batch=10)
    data = bytearray((tmp_path / "x.arrow").read_bytes())
    whole = next(batch_headers(io.BytesIO(data)))
    start = data.rindex(b"\xff\xff\xff\xff", 0, -8)  # of the last batch
    size = 8 + int.from_bytes(data[start + 4 : start + 8], "little")
    body = len(data) - 8 - start - size
    number = body if field == "body" else whole.rows
    at = data.index(number.to_bytes(8, "little"), start)
    data[at : at + 8] = (-size).to_bytes(8, "little", signed=True)
    (tmp_path / "x.arrow").write_bytes(data)
    with pytest.raises(ValueError, match="negative"):
        list(itertools.islice(batch_headers(io.BytesIO(data)), 100))
    (shard,) = plan_shards([str(tmp_path / "x.arrow")])
    (row,) = read_rows(shard)
    assert row.failure is not None and row.failure.code == "malformed"


def test_offsets_that_point_elsewhere_are_refused(tmp_path):
    """Without a check, pyarrow reads such a file without a word, and would hand out other memory of the process."""
    write(tmp_path / "x.arrow", pa.table({"text": ["abcdefgh", "ijkl"]}), "stream")
    data = bytearray((tmp_path / "x.arrow").read_bytes())
    at = data.rindex(np.array([0, 8, 12], np.int32).tobytes())
    data[at : at + 12] = np.array([0, 8, 2**30], np.int32).tobytes()
    (tmp_path / "x.arrow").write_bytes(data)
    (failed,) = read_rows(plan_shards([str(tmp_path)])[0])
    assert failed.failure is not None and failed.failure.code == "malformed"


def test_damaged_headers_raise_errors_of_their_own(tmp_path):
    write(tmp_path / "x", table(), "zstd stream")
    whole = (tmp_path / "x").read_bytes()
    draw = np.random.default_rng(7)
    read = 0
    for _ in range(2000):
        data = bytearray(whole)
        data[draw.integers(len(data))] = draw.integers(256)
        try:
            read += len(list(batch_headers(io.BytesIO(data)))) > 0
        except ValueError:
            continue
    assert 0 < read < 2000


@pytest.mark.parametrize(
    "column",
    [
        pa.array([(1, 2, 3), None], pa.month_day_nano_interval()),
        pa.RunEndEncodedArray.from_arrays([2], ["a"]),
        pa.UnionArray.from_dense(pa.array([0, 0], pa.int8()), pa.array([0, 1], pa.int32()), [pa.array([1, 2])]),
    ],
    ids=lambda column: str(column.type).partition("<")[0],
)
def test_types_that_parquet_cannot_hold_are_refused_by_name(tmp_path, column):
    write(tmp_path / "x.arrow", pa.table({"id": ["1", "2"], "caption": ["a", "b"], "odd": column}), "stream")
    with pytest.raises(SpecError, match="'odd'"):
        do_job(str(tmp_path / "out"), tmp_path / "x.arrow", plan=PLAN, spec=SPEC)
    assert not (tmp_path / "out").exists()
    assert len(run_job(str(tmp_path / "out"), tmp_path / "x.arrow", plan=PLAN, spec=SPEC, drop=["odd"])) == 2


def test_times_in_seconds_become_milliseconds(tmp_path):
    moments = pa.array([datetime.datetime(2026, 1, 2), None], pa.timestamp("s"))
    write(tmp_path / "x.arrow", pa.table({"id": ["1", "2"], "caption": ["a", "b"], "at": moments}), "stream")
    rows = run_job(str(tmp_path / "out"), tmp_path / "x.arrow", plan=PLAN, spec=SPEC)
    assert [row["at"] for row in rows] == [datetime.datetime(2026, 1, 2), None]


def test_fixed_size_lists_that_may_be_null_become_lists_which_parquet_can_hold(tmp_path):
    """From an Arrow file, and from Parquet files of which one lacks the column; elsewhere they stay."""
    kinds = {
        "fixed": pa.array([[1.5, 2.0], None], pa.list_(pa.float32(), 2)),
        "inner": pa.array([{"v": [1, 2]}, None], pa.struct([("v", pa.list_(pa.int8(), 2))])),
        "tensor": pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.int32(), [2]), pa.array([[1, 2], None], pa.list_(pa.int32(), 2))
        ),
    }
    rows = {"id": ["1", "2"], "caption": ["a", "b"]}
    write(tmp_path / "x.arrow", pa.table({**rows, **kinds}), "stream")
    do_job(str(tmp_path / "arrow"), tmp_path / "x.arrow", plan=PLAN, spec=SPEC)
    written = pq.read_table(tmp_path / "arrow")
    for name, column in kinds.items():
        assert written[name].to_pylist() == column.to_pylist()
    whole = pa.table({**rows, "fixed": kinds["fixed"].slice(0, 1).take(pa.array([0, 0]))})
    (tmp_path / "in").mkdir()
    pq.write_table(whole, tmp_path / "in" / "1.parquet")
    do_job(str(tmp_path / "one"), tmp_path / "in", plan=PLAN, spec=SPEC)
    assert pq.read_table(tmp_path / "one").schema.field("fixed").type == pa.list_(pa.float32(), 2)
    pq.write_table(pa.table({"id": ["3"], "caption": ["c"]}), tmp_path / "in" / "2.parquet")
    do_job(str(tmp_path / "two"), tmp_path / "in", plan=PLAN, spec=SPEC)
    assert pq.read_table(tmp_path / "two")["fixed"].to_pylist() == [[1.5, 2.0], [1.5, 2.0], None]


def test_a_table_that_is_compressed_as_a_whole_says_so(tmp_path):
    import gzip

    for name in ("x.arrow.gz", "y.parquet.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"PAR1" + bytes(100)))
    for shard in plan_shards([str(tmp_path)]):
        (row,) = read_rows(shard)
        assert row.failure is not None and "compressed with gzip as a whole" in row.failure.message
