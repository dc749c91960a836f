"""Parts of an index: what of them is held, how they are put together, and whose they are."""

from __future__ import annotations

import gc
import json
import pickle
import tracemalloc
import weakref
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from index_helpers import clustered, write_dataset

from clipmill.errors import DatasetError
from clipmill.files.folder import Folder
from clipmill.files.lock import LOCK
from clipmill.files.parquet import parquet_file
from clipmill.indexes import assemble, build, merge, open_index, source
from clipmill.indexes.add import add_to_index
from clipmill.indexes.build import IndexOptions, build_index, run_locally
from clipmill.indexes.codes import StagedCodes
from clipmill.indexes.merge import merge_codes
from clipmill.indexes.shard import IndexShard, build_shard

SMALL = {"queries": 50, "rows_per_shard": 700}


def test_of_files_with_equal_columns_one_schema_is_held_and_no_footer(tmp_path, monkeypatch):
    said: dict[bytes, pa.Schema] = {}
    for number in range(1, 4):  # pandas notes the number of rows among the metadata
        frame = pd.DataFrame({"id": ["a"] * number, "embedding": [[1.0, 2.0]] * number})
        pq.write_table(pa.Table.from_pandas(frame), tmp_path / f"{number}.parquet", row_group_size=2)
    footers = []

    def open_and_note(file):
        parquet = parquet_file(file)
        footers.append(weakref.ref(parquet.metadata))
        return parquet

    monkeypatch.setattr(source, "parquet_file", open_and_note)
    gc.disable()
    try:
        looked = [source._read_footer(str(tmp_path / f"{number}.parquet"), said) for number in range(1, 4)]
        assert [footer() for footer in footers] == [None, None, None]  # gone at once
    finally:
        gc.enable()
    monkeypatch.undo()
    assert [one.rows for one in looked] == [(1,), (2,), (2, 1)]
    assert looked[0].schema is looked[1].schema is looked[2].schema
    found = source.open_source([str(tmp_path)])
    assert [piece.start for piece in found.groups] == [0, 1, 3, 5]
    assert (found.rows, found.keys.names, found.left_out) == (6, ["id"], ())


def test_rows_that_are_skipped_travel_as_eight_bytes_each():
    rows = np.arange(0, 200_000, 2)
    shard = IndexShard(0, (), rows.tobytes())
    travelled = pickle.dumps(shard)
    assert len(travelled) < len(rows) * 8 + 1000
    assert pickle.loads(travelled) == shard
    np.testing.assert_array_equal(pickle.loads(travelled).skipped_rows, rows)


def empty_index(lists: int) -> faiss.Index:
    index = faiss.index_factory(4, f"IVF{lists},SQ8")
    index.train(np.random.default_rng(0).standard_normal((lists * 40, 4)).astype(np.float32))
    return index


def staged(folder: Path, number: int, lists: int, rows_of: dict[int, int]) -> StagedCodes:
    """Write a part: its codes say the part and the list that they are of."""
    sizes = np.bincount(list(rows_of), list(rows_of.values()), lists).astype(np.int64)
    numbers = np.repeat(np.arange(lists), sizes)
    codes = np.stack([np.full(len(numbers), number), numbers % 256, numbers // 256, numbers * 0], axis=1)
    path = folder / f"{number}.codes"
    path.write_bytes(
        np.concatenate([[0], np.cumsum(sizes)]).astype("<i8").tobytes()
        + codes.astype(np.uint8).tobytes()
        + np.arange(len(numbers), dtype="<i8").tobytes()
    )
    return StagedCodes(str(path), 4, number * 100, rows=len(numbers), lists=lists)


def test_what_is_held_while_parts_are_merged_does_not_follow_their_number(tmp_path):
    lists, count = 3000, 240
    index = empty_index(lists)
    parts = [staged(tmp_path, part, lists, {part: 3, 2000: 2, lists - 1: 1}) for part in range(count)]
    tracemalloc.start()
    merge_codes(index, parts, tmp_path / "merged.faiss")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < count * lists  # a byte for each list of each part would be as much
    merged = faiss.read_index(str(tmp_path / "merged.faiss"))
    assert merged.ntotal == count * 6
    held = faiss.extract_index_ivf(merged).invlists
    ids = faiss.rev_swig_ptr(held.get_ids(2000), held.list_size(2000))
    first = np.arange(count) * 100 + 3  # behind those of the list with the part's own number
    np.testing.assert_array_equal(ids, np.stack([first, first + 1], axis=1).reshape(-1))
    codes = faiss.rev_swig_ptr(held.get_codes(2000), held.list_size(2000) * 4).reshape(-1, 4)
    np.testing.assert_array_equal(codes[:, 0], np.repeat(np.arange(count) % 256, 2))
    np.testing.assert_array_equal(codes[:, 1:], np.tile([2000 % 256, 2000 // 256, 0], (count * 2, 1)))


def test_a_list_that_is_too_long_to_be_held_stands_alone():
    """Also behind empty ones."""
    most = merge._CHUNK_BYTES // 16
    for sizes in ([0, 0, 3 * most, 0, 1], [1, most, 2, 2], [0], [most + 1, most + 1], [0, 1] * 5):
        spans = list(merge._chunks(np.array(sizes), 16))
        assert [number for span in spans for number in span] == list(range(len(sizes)))
        assert all(len(span) == 1 or sum(sizes[number] for number in span) <= most for span in spans)


def test_a_part_that_is_cut_off_is_refused(tmp_path):
    index = empty_index(16)
    part = staged(tmp_path, 0, 16, {3: 10, 9: 5})
    path = Path(part.path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=r"0\.codes is cut off: 119 of 120 bytes at 196"):
        merge_codes(index, [part], tmp_path / "merged.faiss")


def test_codes_are_staged_in_as_many_parts_as_memory_asks_for(tmp_path, monkeypatch):
    """One row group of all rows makes one shard, however long."""
    vectors = clustered(5000)
    table = pa.table({"embedding": pa.array(list(vectors), pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "one.parquet", row_group_size=5000)
    parts = []

    def run_and_look(shards, job):
        assert len(shards) == 1
        run_locally(shards, job)
        report = json.loads(Folder.of(job.directory).read(job.staged.report(0)))
        parts.append([rows for _, rows in report["codes"]])

    for name, most in (("whole", build._MOST_CODES), ("pieces", 0)):
        monkeypatch.setattr(build, "_MOST_CODES", most)
        options = IndexOptions(factory="IVF16,SQ8", **SMALL)
        build_index([str(tmp_path / "one.parquet")], str(tmp_path / name), options, run=run_and_look)
    assert parts == [[5000], [1024, 1024, 1024, 1024, 904]]
    assert (tmp_path / "whole/index.faiss").read_bytes() == (tmp_path / "pieces/index.faiss").read_bytes()


def test_who_has_lost_the_lock_does_not_publish(tmp_path, monkeypatch):
    dataset = write_dataset(tmp_path / "data", list(clustered(1000)))
    folder = tmp_path / "index"

    def take_lock_and_gather(*given):
        said = json.loads((folder / LOCK).read_text())
        (folder / LOCK).write_text(json.dumps({**said, "token": "another"}))
        return gather(*given)

    gather = build.gather_ground_truth
    monkeypatch.setattr(build, "gather_ground_truth", take_lock_and_gather)
    with pytest.raises(DatasetError, match="was considered dead"):
        build_index([str(dataset)], str(folder), IndexOptions(factory="IVF16,SQ8", **SMALL))
    assert not (folder / "_index.json").exists()


@pytest.mark.parametrize("factory", ["Flat", "IVF16,SQ8"])
def test_workers_of_an_earlier_job_do_not_write_into_a_later_one(tmp_path, factory):
    """They go on after their job was killed: while the later one is at work, and after it has ended."""
    old, new = clustered(1500, seed=1), clustered(1500, seed=2)
    options = IndexOptions(factory=factory, **SMALL)
    survivors = []

    def die(shards, job):
        given = {name: Folder.of(job.directory).read(name) for name in Folder.of(job.directory).list("_staging")}
        survivors.append((list(shards), job, given))
        raise KeyboardInterrupt

    def survive():
        ((shards, job, given),) = survivors
        for name, content in given.items():  # they have read it when their job was alive
            Folder.of(job.directory).make(name.rpartition("/")[0])
            Folder.of(job.directory).write(name, content)
        for shard in shards:
            build_shard(shard, job)

    def run_beside_survivors(shards, job):
        survive()
        run_locally(shards, job)
        survive()

    path = str(tmp_path / "index")
    with pytest.raises(KeyboardInterrupt):
        build_index([str(write_dataset(tmp_path / "old", list(old)))], path, options, run=die)
    build_index([str(write_dataset(tmp_path / "new", list(new)))], path, options, run=run_beside_survivors)
    build_index([str(tmp_path / "new")], str(tmp_path / "alone"), options)
    ((shards, job, _),) = survivors
    with pytest.raises(DatasetError, match="is gone: the command that this worker was started for has ended"):
        build_shard(shards[0], job)
    survive()
    index, alone = open_index(path), open_index(str(tmp_path / "alone"))
    units = new / np.linalg.norm(new, axis=1, keepdims=True)
    np.testing.assert_allclose(index.vectors(np.arange(1500)), units, atol=1e-6)
    found, expected = index.search(new[:20], 5), alone.search(new[:20], 5)
    np.testing.assert_array_equal(found.positions, expected.positions)
    if factory != "Flat":
        assert (tmp_path / "index/index.faiss").read_bytes() == (tmp_path / "alone/index.faiss").read_bytes()
    more = write_dataset(tmp_path / "more", list(clustered(300, seed=3)), first=1500)
    add_to_index([str(more)], path, options)  # clears up
    manifest = open_index(path).manifest
    left = {str(file.relative_to(path)) for file in Path(path).rglob("*") if file.is_file()}
    assert left == {"_index.json", *manifest.files}


def test_on_this_machine_nothing_is_copied(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a folder for copies was made")

    monkeypatch.setattr(assemble.tempfile, "TemporaryDirectory", refuse)
    dataset = write_dataset(tmp_path / "data", list(clustered(300)))
    build_index([str(dataset)], str(tmp_path / "index"), IndexOptions(factory="IVF8,SQ8", **SMALL))
    more = write_dataset(tmp_path / "more", list(clustered(100, seed=1)), first=300)
    assert add_to_index([str(more)], str(tmp_path / "index"), IndexOptions(**SMALL)).manifest.rows == 400
    with pytest.raises(AssertionError, match="a folder for copies"):
        build_index([str(dataset)], "memory://bucket/copied", IndexOptions(**SMALL))


def test_copies_that_a_killed_building_has_left_are_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(assemble.tempfile, "tempdir", str(tmp_path))
    one, other = Folder.of("memory://bucket/one"), Folder.of("memory://bucket/other")
    with assemble.scratch_for(one) as scratch, assemble.scratch_for(other) as elsewhere:
        (scratch / "copy").write_bytes(b"left")
        with assemble.scratch_for(one) as later:
            assert not scratch.exists()
            assert elsewhere.is_dir()
            assert later.is_dir()
        scratch.mkdir()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("factory", ["IVF16,SQ8", "IVF16,Flat", "IVF16_HNSW8,SQ8", "OPQ8_16,IVF12,PQ8"])
def test_a_merged_index_is_byte_for_byte_what_faiss_writes(tmp_path, factory):
    """Of one process that adds all vectors in order; also after more were merged into it."""
    vectors = clustered(2400)
    dataset = write_dataset(tmp_path / "data", list(vectors[:2000]))
    path = tmp_path / "index"
    build_index([str(dataset)], str(path), IndexOptions(factory=factory, **SMALL))
    for name in ("index.faiss", "index-1.faiss"):
        if name == "index-1.faiss":
            more = write_dataset(tmp_path / "more", list(vectors[2000:]), first=2000)
            add_to_index([str(more)], str(path), IndexOptions(**SMALL))
        index = open_index(str(path))
        plain, codes = merge.codes_of_index(str(path / name))
        assert plain.ntotal == 0 and codes.code_size == faiss.extract_index_ivf(plain).code_size
        plain.add(index.vectors(np.arange(index.manifest.rows)))
        faiss.write_index(plain, str(tmp_path / name))
        assert (tmp_path / name).read_bytes() == (path / name).read_bytes()
        merged = faiss.read_index(str(path / name))
        for one, other in zip(merged.search(vectors[:50], 10), plain.search(vectors[:50], 10), strict=True):
            np.testing.assert_array_equal(one, other)


several_lists = merge._several_lists


def swap_ids(*given):
    """Yield the ids of each list in the wrong order."""
    for number, written in enumerate(several_lists(*given)):
        yield np.frombuffer(written, "<i8")[::-1].tobytes() if number % 2 else written


def zero_codes(*given):
    """Yield zeros for the codes of each list."""
    for number, written in enumerate(several_lists(*given)):
        yield written if number % 2 else bytes(written.nbytes)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("_FULL", b"fuller"),
        ("_chunks", lambda sizes, row: []),
        ("_several_lists", swap_ids),
        ("_several_lists", zero_codes),
    ],
    ids=["layout", "cut", "ids", "codes"],
)
def test_a_merged_index_that_faiss_does_not_read_as_written_is_refused(tmp_path, monkeypatch, name, instead):
    """As with a release of Faiss that has another layout."""
    index = empty_index(16)
    parts = [staged(tmp_path, number, 16, {3: 10, 9: 5}) for number in range(3)]
    merge_codes(index, parts, tmp_path / "merged.faiss")
    monkeypatch.setattr(merge, name, instead)
    with pytest.raises(DatasetError, match=r"Faiss .* does not read the merged index .*: .+; "):
        merge_codes(index, parts, tmp_path / "merged.faiss")
