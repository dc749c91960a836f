"""An opened index: shared, searched, bounded, and what it says of a damaged one."""

from __future__ import annotations

import concurrent.futures
import errno
import fcntl
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
from index_helpers import DIM, brute_force, clustered, recall_of, write_dataset
from places import SUPPORT

from clipmill.errors import DatasetError, SpecError
from clipmill.indexes import local_copy, open_index
from clipmill.indexes.build import IndexOptions, build_index
from clipmill.indexes.exact import nearest_of_blocks
from clipmill.indexes.opened import OpenIndex
from clipmill.indexes.units import to_unit_vectors

VECTORS = clustered(2500)


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One index with lists, one graph, one exact."""
    folder = tmp_path_factory.mktemp("indexes")
    dataset = write_dataset(folder / "data", list(VECTORS))
    made = {}
    for name, factory in (("lists", "IVF25_HNSW16,SQ8"), ("graph", "HNSW16,SQ8"), ("exact", None)):
        made[name] = folder / name
        options = IndexOptions(factory=factory, queries=100, rows_per_shard=700)
        build_index([str(dataset)], str(made[name]), options)
    return made


@pytest.mark.parametrize("name", ["lists", "graph", "exact"])
def test_hits_are_sorted_exact_cosines(indexes, name):
    index = open_index(str(indexes[name]))
    queries = clustered(40, seed=9)
    hits = index.search(queries, 20)
    assert hits.scores.dtype == np.float32
    assert hits.positions.dtype == np.int64
    assert (np.diff(hits.scores, axis=1) <= 0).all()
    cosines = np.einsum(
        "qkd,qd->qk", index.vectors(hits.positions.ravel()).reshape(40, 20, DIM), to_unit_vectors(queries).vectors
    )
    np.testing.assert_allclose(hits.scores, cosines, atol=1e-6)


def test_the_exact_index_equals_brute_force(indexes):
    queries = clustered(40, seed=9)
    cosines, true = brute_force(VECTORS, queries, 10)
    hits = open_index(str(indexes["exact"])).search(queries, 10)
    np.testing.assert_array_equal(hits.positions, true)
    np.testing.assert_allclose(hits.scores, cosines, atol=1e-6)


@pytest.mark.parametrize("name", ["lists", "graph", "exact"])
def test_the_length_of_a_query_does_not_matter_and_bad_ones_find_nothing(indexes, name):
    index = open_index(str(indexes[name]))
    good = clustered(2, seed=4)
    queries = np.stack([good[0], np.zeros(DIM), np.full(DIM, np.nan), 1e20 * good[0], good[1]]).astype(np.float64)
    hits = index.search(queries, 5)
    np.testing.assert_array_equal(hits.positions[0], hits.positions[3])
    assert (hits.positions[[1, 2]] == -1).all()
    assert np.isnan(hits.scores[[1, 2]]).all()
    np.testing.assert_array_equal(hits.positions[4], index.search(good[1:], 5).positions[0])
    assert index.search(np.empty((0, DIM)), 5).positions.shape == (0, 5)


@pytest.mark.parametrize("name", ["lists", "graph", "exact"])
def test_k_may_be_all_rows_and_no_more(indexes, name):
    index = open_index(str(indexes[name]))
    assert index.search(VECTORS[:1], 2500).positions.shape == (1, 2500)
    with pytest.raises(DatasetError) as refused:
        index.search(VECTORS[:1], 2501)
    assert refused.value.option == "k"
    with pytest.raises(DatasetError) as refused:
        index.search(VECTORS[:1], 0)
    assert refused.value.option == "k"
    with pytest.raises(DatasetError, match=r"this index takes \(n, 16\)"):
        index.search(VECTORS[:1, :8], 5)


def test_more_lists_find_more_and_what_says_nothing_is_refused(indexes):
    index = open_index(str(indexes["lists"]))
    queries = clustered(100, seed=3)
    _, true = brute_force(VECTORS, queries, 10)
    recalls = [recall_of(index.search(queries, 10, nprobe=number, rerank=4).positions, true) for number in (1, 5, 25)]
    assert recalls == sorted(recalls)
    assert recalls[-1] > 0.99
    with pytest.raises(DatasetError) as refused:
        index.search(queries, 10, ef_search=5)
    assert refused.value.option == "ef_search"
    with pytest.raises(DatasetError) as refused:
        index.search(queries, 10, nprobe=0)
    assert refused.value.option == "nprobe"
    with pytest.raises(DatasetError) as refused:
        open_index(str(indexes["exact"])).search(queries, 10, rerank=5)
    assert refused.value.option == "rerank"


def test_few_lists_may_hold_fewer_than_k(indexes):
    hits = open_index(str(indexes["lists"])).search(VECTORS[:3], 1000, nprobe=1)
    missing = hits.positions == -1
    assert missing.any()
    assert (np.isnan(hits.scores) == missing).all()
    assert (np.diff(missing.astype(int), axis=1) >= 0).all()  # they are the last


def test_rows_come_in_the_order_of_positions(indexes):
    index = open_index(str(indexes["lists"]))
    positions = np.array([2499, 0, 1234, 0, -1])
    table = index.rows(positions, ["number", "id"])
    assert table.column_names == ["number", "id"]
    assert table["number"].to_pylist() == [2499, 0, 1234, 0, None]
    assert index.rows(np.empty(0, np.int64)).num_rows == 0
    assert index.columns == ["id", "uri", "number"]
    with pytest.raises(SpecError, match="has no column 'colour'; it has 'id', 'uri', 'number'"):
        index.rows(positions, ["colour"])
    with pytest.raises(DatasetError, match="positions 2500 to 2500 of an index of 2,500 rows"):
        index.rows(np.array([2500]))
    with pytest.raises(DatasetError, match="positions -1 to 3"):
        index.vectors(np.array([-1, 3]))


def test_threads_share_an_index(indexes):
    index = open_index(str(indexes["lists"]))
    queries = clustered(64, seed=8)
    expected = index.search(queries, 10)

    def look(number: int) -> bool:
        hits = index.search(queries, 10)
        rows = index.rows(hits.positions[number], ["number"])["number"].to_pylist()
        return np.array_equal(hits.positions, expected.positions) and rows == hits.positions[number].tolist()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(look, range(64)))


def test_opened_once_in_a_process_until_it_changes(tmp_path):
    dataset = write_dataset(tmp_path / "data", list(VECTORS[:300]))
    build_index([str(dataset)], str(tmp_path / "index"), IndexOptions(queries=50))
    first = open_index(str(tmp_path / "index"))
    assert open_index(tmp_path / "data" / ".." / "index") is first
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert {id(one) for one in pool.map(open_index, [str(tmp_path / "index")] * 16)} == {id(first)}
    build_index([str(dataset)], str(tmp_path / "index"), IndexOptions(queries=50, seed=1), overwrite=True)
    second = open_index(str(tmp_path / "index"))
    assert second is not first
    np.testing.assert_array_equal(first.search(VECTORS[:3], 5).positions, second.search(VECTORS[:3], 5).positions)


@pytest.mark.parametrize("damage", ["cut", "gone", "emptied"])
@pytest.mark.parametrize("file", ["index.faiss", "vectors/00001-*.npy", "keys/00000-*.parquet"])
def test_an_index_that_is_not_whole_is_refused(tmp_path, file, damage):
    dataset = write_dataset(tmp_path / "data", list(VECTORS[:1500]))
    options = IndexOptions(factory="IVF16,SQ8", queries=50, rows_per_shard=700)
    build_index([str(dataset)], str(tmp_path / "index"), options)
    (path,) = (tmp_path / "index").glob(file)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] if damage == "cut" else b"")
    with pytest.raises(
        DatasetError, match=f"{path.name} is (missing|damaged: it has [\\d,]+ bytes and was written with)"
    ):
        open_index(str(tmp_path / "index"))


def test_what_is_no_index_is_refused(tmp_path):
    dataset = write_dataset(tmp_path / "data", list(VECTORS[:50]))
    with pytest.raises(DatasetError, match=r"no index of clipmill: there is no _index\.json in it"):
        open_index(str(dataset))
    with pytest.raises(DatasetError, match="nothing at that place"):
        open_index(str(tmp_path / "nowhere"))
    build_index([str(dataset)], str(tmp_path / "index"), IndexOptions(queries=50))
    manifest = tmp_path / "index" / "_index.json"
    whole = manifest.read_text()
    for content, message in (
        (whole[:200], "is damaged"),
        ("[1, 2]", "does not describe an index"),
        (json.dumps({**json.loads(whole), "format_version": 99}), "has the format 99"),
        (json.dumps({**json.loads(whole), "segments": [{"rows": 3}]}), "is damaged: TypeError"),
    ):
        manifest.write_text(content)
        with pytest.raises(DatasetError, match=message):
            open_index(str(tmp_path / "index"))


def test_pages_are_let_go_of_when_the_process_holds_more_than_it_may(indexes):
    index = open_index(str(indexes["lists"]))
    tight = OpenIndex(index.directory, index.manifest, max_memory_bytes=1)
    queries = clustered(300, seed=2)
    np.testing.assert_array_equal(tight.search(queries, 10).positions, index.search(queries, 10).positions)
    blocks = list(tight.blocks())
    assert [start for start, _ in blocks] == sorted(start for start, _ in blocks)
    assert sum(len(block) for _, block in blocks) == 2500


RESIDENT = """
import sys
from clipmill.indexes import open_index
from clipmill.indexes.pages import MappedArray, resident_bytes
from index_helpers import clustered

index = open_index(sys.argv[1])
index.search(clustered(4, 256), 10)
before = resident_bytes()
peak = 0
for start, block in index.blocks():
    block.sum()
    peak = max(peak, resident_bytes())
mapped = MappedArray(f"{sys.argv[1]}/{index.manifest.segments[0].vectors}", (100_000, 256))
mapped.array.sum()
touched = resident_bytes()
mapped.release_pages()
left = resident_bytes()
print(peak - before, touched - before, left - before)
"""


def test_comparing_all_vectors_does_not_make_them_resident(tmp_path):
    vectors = clustered(100_000, 256)
    dataset = write_dataset(tmp_path / "data", list(vectors), spec=None)
    options = IndexOptions(factory="Flat", queries=1, rows_per_shard=10**6)
    build_index([str(dataset)], str(tmp_path / "index"), options)
    command = [sys.executable, "-c", RESIDENT, str(tmp_path / "index")]
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env=environment)
    peak, touched, left = map(int, done.stdout.split())
    assert touched > 90 * 2**20  # the file has 98 MiB, and where nobody lets go all of it stays
    assert left < 16 * 2**20
    assert peak < 48 * 2**20  # a block of 32 MiB


def test_an_index_in_an_object_store_is_copied_once(tmp_path, monkeypatch):
    dataset = write_dataset(tmp_path / "data", list(VECTORS[:1500]))
    options = IndexOptions(factory="IVF16,SQ8", queries=50, rows_per_shard=700)
    url = "memory://bucket/index"
    build_index([str(dataset)], url, options)
    monkeypatch.setenv("CLIPMILL_CACHE", str(tmp_path / "cache"))
    index = open_index(url)
    _, true = brute_force(VECTORS[:1500], VECTORS[:20], 5)
    assert recall_of(index.search(VECTORS[:20], 5, nprobe=16).positions, true) > 0.99
    assert Path(index.directory).is_relative_to(tmp_path / "cache")
    store = fsspec.filesystem("memory")
    names = {path.removeprefix("/bucket/index/") for path in store.find("/bucket/index")}
    assert names == {"_index.json", *index.manifest.files}
    copied = []
    monkeypatch.setattr("clipmill.indexes.local_copy._copy", lambda *given: copied.append(given))
    monkeypatch.setattr("clipmill.indexes.opened._opened", {})
    assert open_index(url).directory == index.directory
    assert copied == []


@pytest.mark.parametrize("times", [1, 3])
def test_a_copy_holds_files_of_one_version(tmp_path, monkeypatch, times):
    """Built anew while it is copied: the codes have the same name, and here the same size."""
    url, made = f"memory://bucket/changing{times}", []

    def build(seed: int) -> None:
        dataset = write_dataset(tmp_path / f"data{seed}", list(clustered(300, seed=seed)))
        build_index([str(dataset)], url, IndexOptions(factory="IVF4,SQ8", queries=20), overwrite=True)

    def copy_and_build(folder, name, size, target):
        copy_of(folder, name, size, target)
        if name.startswith(("keys/", "vectors/")[len(made) % 2]) and len(made) < times:
            made.append(build(len(made) + 1))

    build(0)
    copy_of = local_copy._copy
    monkeypatch.setenv("CLIPMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(local_copy, "_copy", copy_and_build)
    if times == 3:
        with pytest.raises(DatasetError, match="was replaced while it was copied to this machine; try again"):
            open_index(url)
        assert not list((tmp_path / "cache").rglob("_index.json"))
    index = open_index(url)
    units = to_unit_vectors(clustered(300, seed=times)).vectors
    np.testing.assert_allclose(index.vectors(np.arange(300)), units, atol=1e-6)
    np.testing.assert_array_equal(index.search(units, 1, nprobe=4).positions[:, 0], np.arange(300))
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1


def test_a_cache_without_locks_keeps_its_copies(tmp_path, monkeypatch):
    """Nothing tells there whether an older version is in use."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setenv("CLIPMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fcntl, "flock", refuse)
    found = []
    for number in range(2):
        dataset = write_dataset(tmp_path / f"data{number}", list(VECTORS[number * 100 :][:100]), first=number * 100)
        build_index([str(dataset)], "memory://bucket/unlocked", IndexOptions(queries=20), overwrite=True)
        found.append(open_index("memory://bucket/unlocked"))
    assert [one.rows(np.array([0]), ["number"])["number"].to_pylist() for one in found] == [[0], [100]]


HOLDS = """
import sys
from pathlib import Path
from clipmill.indexes import local_copy

held = local_copy._hold(Path(sys.argv[1]))
print(held is not None, flush=True)
sys.stdin.read()
"""


def test_copies_that_nobody_uses_are_deleted(tmp_path, monkeypatch):
    """Those of older versions of the same index; one that is open stays whole, in this process and in another."""
    monkeypatch.setenv("CLIPMILL_CACHE", str(tmp_path / "cache"))
    url, other = "memory://bucket/nightly", "memory://bucket/other"
    for number in range(5):
        dataset = write_dataset(tmp_path / f"data{number}", list(VECTORS[number * 100 :][:100]), first=number * 100)
        build_index([str(dataset)], url, IndexOptions(queries=20), overwrite=True)
        if number == 0:
            build_index([str(dataset)], other, IndexOptions(queries=20))
            kept = open_index(other).directory
            first = open_index(url)
        elif number == 1:
            second = open_index(url).directory
            process = subprocess.Popen(
                [sys.executable, "-c", HOLDS, second], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert process.stdout.readline() == "True\n"
        elif number == 2:
            third = open_index(url).directory
            assert all(map(os.path.isdir, (kept, first.directory, second, third)))
            assert first.rows(np.arange(3), ["number"])["number"].to_pylist() == [0, 1, 2]
            process.communicate("")
            assert process.returncode == 0
        elif number == 3:
            fourth = open_index(url).directory
            assert not os.path.exists(second) and not os.path.exists(third)
            assert os.path.isdir(first.directory)
            Path(fourth).with_name("begun").mkdir()
            del first
            gc.collect()
    last = open_index(url)
    assert os.listdir(Path(last.directory).parent) == [os.path.basename(last.directory)]
    assert os.path.isdir(kept)
    assert last.rows(np.arange(2), ["number"])["number"].to_pylist() == [400, 401]


def test_blocks_are_compared_whatever_their_lengths():
    queries, vectors = to_unit_vectors(clustered(7)).vectors, to_unit_vectors(clustered(301, seed=1)).vectors
    cosines, true = brute_force(vectors, queries, 12)
    for step in (1, 5, 11, 300, 301):
        blocks = [(start, vectors[start : start + step]) for start in range(0, 301, step)]
        found = nearest_of_blocks(queries, blocks, 12)
        np.testing.assert_array_equal(found.positions, true)
        np.testing.assert_allclose(found.scores, cosines, atol=1e-6)
    few = nearest_of_blocks(queries, [(0, vectors[:3])], 5)
    assert (few.positions[:, 3:] == -1).all()
    assert np.isnan(few.scores[:, 3:]).all()
