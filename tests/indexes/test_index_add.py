"""Adding rows to an index: found like the others, measured again, and refused where they do not belong."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from index_helpers import DIM, SPEC, brute_force, clustered, files_of, recall_of, write_dataset

from clipmill.encoders import EncoderSpec
from clipmill.errors import DatasetError, SpecError
from clipmill.files.folder import Folder
from clipmill.indexes import add, ids, open_index
from clipmill.indexes.add import Added, add_to_index, preview_add
from clipmill.indexes.assemble import measure_and_publish
from clipmill.indexes.build import IndexOptions, build_index, run_locally
from clipmill.indexes.compatible import rebuild_hint
from clipmill.indexes.manifest import Ids, read_manifest, write_manifest
from clipmill.indexes.plan import PROCESS_BYTES, WORK_BYTES, plan_factory, plan_index
from clipmill.indexes.sample import draw_sample
from clipmill.indexes.source import open_source

VECTORS = clustered(2000)
OLD, NEW = VECTORS[:1400], VECTORS[1400:]
OPTIONS = {"queries": 100, "rows_per_shard": 450}
KINDS = ["IVF16_HNSW16,SQ8", "OPQ8_16,IVF12,PQ8", "HNSW16,SQ8", "IVF12,PQ8x4fs", None]


def build_old(tmp_path, factory):
    old = write_dataset(tmp_path / "old", list(OLD))
    build_index([str(old)], str(tmp_path / "index"), IndexOptions(factory=factory, **OPTIONS))
    return str(tmp_path / "index")


@pytest.mark.parametrize("factory", KINDS, ids=lambda factory: factory or "planned")
def test_added_rows_are_found_like_the_others(tmp_path, factory):
    path = build_old(tmp_path, factory)
    before = open_index(path)
    new = write_dataset(tmp_path / "new", list(NEW), first=1400, label=["new"] * 600)
    added = add_to_index([str(new)], path, IndexOptions(**OPTIONS))
    index = open_index(path)
    assert (index.manifest, added.rows, before.manifest.rows) == (added.manifest, 600, 1400)
    assert index.manifest.rows == 2000
    queries = clustered(100, seed=6)
    _, true = brute_force(VECTORS, queries, 10)
    assert recall_of(index.search(queries, 10).positions, true) >= 0.9
    assert index.manifest.recall.recall >= 0.95
    assert index.rows(np.array([1399, 1400, 1999]), ["number", "label"]).to_pydict() == {
        "number": [1399, 1400, 1999],
        "label": [None, "new", "new"],
    }
    _, old_true = brute_force(OLD, queries, 10)  # who has the old index open goes on with it
    assert recall_of(before.search(queries, 10).positions, old_true) >= 0.9
    left = sorted(str(p.relative_to(path)) for p in (tmp_path / "index").rglob("*") if p.is_file())
    assert left == sorted(["_index.json", *index.manifest.files])


def test_rows_are_added_again_and_again(tmp_path):
    path = build_old(tmp_path, "IVF16,SQ8")
    for number in range(3):
        part = write_dataset(tmp_path / f"new{number}", list(NEW[number * 200 :][:200]), first=1400 + number * 200)
        add_to_index([str(part)], path, IndexOptions(**OPTIONS))
    index = open_index(path)
    assert index.manifest.index_file == "index-3.faiss"
    assert len(index.manifest.datasets) == 4
    _, true = brute_force(VECTORS, VECTORS[:50], 5)
    assert recall_of(index.search(VECTORS[:50], 5, nprobe=16).positions, true) > 0.98
    assert index.rows(np.arange(2000), ["number"])["number"].to_pylist() == list(range(2000))


def test_ids_that_are_there_are_refused_or_skipped(tmp_path):
    path = build_old(tmp_path, "IVF16,SQ8")
    both = write_dataset(tmp_path / "both", list(VECTORS[1300:1500]), first=1300)
    for run in (preview_add, add_to_index):
        with pytest.raises(DatasetError, match="100 of 200 rows have an id that is in the index"):
            run([str(both)], path, IndexOptions(**OPTIONS))
    assert open_index(path).manifest.rows == 1400
    planned = preview_add([str(both)], path, IndexOptions(**OPTIONS), skip_existing=True)
    added = add_to_index([str(both)], path, IndexOptions(**OPTIONS), skip_existing=True)
    assert (added.manifest.rows, added.manifest.skipped, added.rows, added.skipped) == (1500, 100, 100, 100)
    assert planned == dataclasses.replace(added, manifest=planned.manifest) and planned.manifest.rows == 1400
    index = open_index(path)
    assert index.rows(np.arange(1400, 1500), ["number"])["number"].to_pylist() == list(range(1400, 1500))
    np.testing.assert_allclose(
        index.vectors(np.array([1400])), VECTORS[[1400]] / np.linalg.norm(VECTORS[1400]), atol=1e-6
    )
    again = add_to_index([str(both)], path, IndexOptions(**OPTIONS), skip_existing=True)
    assert again == Added(index.manifest, skipped=200)  # nothing was new
    left = sorted(str(p.relative_to(path)) for p in (tmp_path / "index").rglob("*") if p.is_file())
    assert left == sorted(["_index.json", *index.manifest.files])


def test_what_came_of_one_adding_is_told_and_not_that_of_all(tmp_path):
    path = build_old(tmp_path, "IVF16,SQ8")
    for first in (1400, 1500):
        vectors = list(VECTORS[first : first + 100])
        vectors[3], vectors[7], vectors[8] = None, np.zeros(DIM, np.float32), np.zeros(DIM, np.float32)
        ids = [(None, "")[number % 2] if number < 5 else f"r{first + number}" for number in range(100)]
        new = write_dataset(tmp_path / f"new{first}", vectors, ids=ids)
        added = add_to_index([str(new)], path, IndexOptions(**OPTIONS), skip_existing=True)
        assert added == Added(open_index(path).manifest, 97, nulls=1, failed={"zero": 2}, unnamed=5)
    sums = added.manifest
    assert (sums.rows, sums.nulls, sums.failed["zero"]) == (1594, 2, 4)
    assert sums.ids == Ids(missing=8, repeated=0)


def test_rows_without_a_vector_are_nothing_to_add(tmp_path):
    path = build_old(tmp_path, None)
    before = open_index(path).manifest
    for number, spec in enumerate((SPEC, None)):
        new = write_dataset(tmp_path / f"new{number}", [None] * 20, first=5000, spec=spec)
        assert add_to_index([str(new)], path, IndexOptions(**OPTIONS)) == Added(before, nulls=20)
    assert read_manifest(path) == before


def test_rows_of_datasets_without_ids_are_told(tmp_path):
    path = build_old(tmp_path, None)
    new = tmp_path / "new.parquet"
    pq.write_table(pq.read_table(write_dataset(tmp_path / "new", list(NEW))).drop_columns(["id"]), new)
    added = add_to_index([str(new)], path, IndexOptions(**OPTIONS))
    assert (added.rows, added.unnamed, added.manifest.ids) == (600, 600, Ids(missing=600, repeated=0))


@pytest.mark.parametrize("passes", [1, 7])
def test_ids_that_stand_twice_are_counted(tmp_path, monkeypatch, passes):
    """Among the datasets of a building, and among rows that are added; whatever memory there is for it."""
    monkeypatch.setattr(ids, "_LEAST_BYTES", 1400 * ids._BYTES_OF_HASH // passes)
    monkeypatch.setattr(ids, "resident_bytes", lambda: 10**12)
    monkeypatch.setattr(ids, "_IDS_HELD", 100)
    names = [f"r{number}" for number in range(700)]
    one = write_dataset(tmp_path / "one", list(OLD[:700]), ids=names)
    other = write_dataset(
        tmp_path / "other", list(OLD[700:]), ids=[*names[:3], None, "", *names[:1] * 5, *map(str, range(690))]
    )
    manifest = build_index([str(one), str(other)], str(tmp_path / "index"), IndexOptions(**OPTIONS))
    assert manifest.ids == Ids(missing=2, repeated=8)
    assert read_manifest(str(tmp_path / "index")) == manifest
    twice = write_dataset(tmp_path / "twice", list(NEW), ids=[f"n{number // 2}" for number in range(600)])
    added = add_to_index([str(twice)], str(tmp_path / "index"), IndexOptions(**OPTIONS))
    assert added.manifest.ids == Ids(missing=2, repeated=308)


def test_ids_that_are_numbers_are_told_apart(tmp_path):
    """Python's own hashes of -1 and -2 are equal, and those of integers that differ by 2**61 - 1."""
    table = pq.read_table(write_dataset(tmp_path / "texts", list(OLD[:100])))
    numbers = pa.array([-1, -2, 0, 2**61 - 1, 5, 5, *range(10, 104)], pa.int64())
    pq.write_table(table.set_column(0, "id", numbers), tmp_path / "data.parquet")
    manifest = build_index([str(tmp_path / "data.parquet")], str(tmp_path / "index"), IndexOptions(queries=20))
    assert manifest.ids == Ids(missing=0, repeated=1)


def test_an_index_of_before_ids_were_counted_and_files_were_marked_takes_more(tmp_path):
    path = build_old(tmp_path, None)
    place = tmp_path / "index" / "_index.json"
    said = json.loads(place.read_text())
    assert said.pop("ids") == {"missing": 0, "repeated": 0}
    for segment in said["segments"]:
        mark = f"-{segment.pop('run')}."
        for name in [name for name in said["files"] if mark in name]:
            said["files"][name.replace(mark, ".")] = said["files"].pop(name)
            (place.parent / name).rename(place.parent / name.replace(mark, "."))
    place.write_text(json.dumps(said))
    assert (place.parent / "vectors" / "00000.npy").exists() and open_index(path).manifest.ids is None
    new = write_dataset(tmp_path / "new", list(NEW), first=1400)
    added = add_to_index([str(new)], path, IndexOptions(**OPTIONS)).manifest
    assert (added.rows, added.ids) == (2000, Ids(missing=0, repeated=0))
    found = open_index(path).rows(np.array([0, 1399, 1400, 1999]), ["number"])
    assert found["number"].to_pylist() == [0, 1399, 1400, 1999]


def test_an_index_that_another_job_exchanged_meanwhile_is_refused_like_any(tmp_path, monkeypatch):
    """Between the first look and the lock it was built anew, of another model's vectors of the same length."""
    path = build_old(tmp_path, None)
    other = write_dataset(tmp_path / "other", list(OLD), spec=dataclasses.replace(SPEC, normalize=True))
    new = write_dataset(tmp_path / "new", list(NEW), first=5000)
    fitting = add._open_compatible

    def look(*given):
        found = fitting(*given)
        build_index([str(other)], path, IndexOptions(**OPTIONS), overwrite=True)
        return found

    monkeypatch.setattr(add, "_open_compatible", look)
    with pytest.raises(DatasetError, match="another model"):
        add_to_index([str(new)], path, IndexOptions(**OPTIONS))
    assert open_index(path).manifest.rows == 1400


@pytest.mark.parametrize(
    ("spec", "vectors", "message"),
    [
        (EncoderSpec(f"fake::dim={DIM}", normalize=True), NEW, r"another model .* \(normalize: False and True\)"),
        (None, NEW, "the dataset has no provenance"),
        (EncoderSpec("fake::dim=8"), clustered(100, 8), "have 8 values, and those of the index .* 16"),
    ],
    ids=["normalised", "unknown", "shorter"],
)
def test_vectors_of_another_provenance_are_refused(tmp_path, spec, vectors, message):
    path = build_old(tmp_path, None)
    new = write_dataset(tmp_path / "new", list(vectors), first=5000, spec=spec)
    with pytest.raises(DatasetError, match=message):
        add_to_index([str(new)], path, IndexOptions(**OPTIONS))
    assert open_index(path).manifest.rows == 1400


def test_another_runtime_makes_no_other_provenance(tmp_path):
    path = build_old(tmp_path, None)
    spec = EncoderSpec(SPEC.model, device="cpu", precision="bf16")
    new = write_dataset(tmp_path / "new", list(NEW), first=1400, spec=spec)
    assert add_to_index([str(new)], path, IndexOptions(**OPTIONS)).rows == 600


def test_there_has_to_be_an_index(tmp_path):
    new = write_dataset(tmp_path / "new", list(NEW))
    with pytest.raises(DatasetError, match="is no index of clipmill"):
        add_to_index([str(new)], str(tmp_path / "index"))
    assert not (tmp_path / "index").exists()


def test_an_index_that_has_rebuild_hint_its_plan_is_told(tmp_path):
    small = write_dataset(tmp_path / "small", list(VECTORS[:300]))
    build_index([str(small)], str(tmp_path / "index"), IndexOptions(factory="IVF4,SQ8", **OPTIONS))
    rest = write_dataset(tmp_path / "rest", list(VECTORS[300:]), first=300)
    manifest = add_to_index([str(rest)], str(tmp_path / "index"), IndexOptions(**OPTIONS)).manifest
    assert "trained when it had 300 rows, and has 2,000" in rebuild_hint(manifest)


def test_a_kind_that_was_asked_for_is_not_planned_anew(tmp_path):
    rows, lists = 200_000, {"trained_rows": 0}
    plans = {"Flat": plan_factory(1000, 512, "Flat"), None: plan_index(1000, 512)}
    old = open_index(build_old(tmp_path, "Flat")).manifest
    grown = {
        factory: dataclasses.replace(old, rows=rows, dim=512, plan=plan.as_dict(), **lists)
        for factory, plan in plans.items()
    }
    assert rebuild_hint(grown["Flat"]) is None
    assert "an index of the kind hnsw would be planned" in rebuild_hint(grown[None])
    little = {**grown["Flat"].plan, "max_memory_bytes": 10**6}
    assert rebuild_hint(dataclasses.replace(grown["Flat"], plan=little)) is None


@pytest.mark.parametrize("factory", ["HNSW16,SQ8", "IVF12,PQ8x4fs", "IVF12,SQ8"])
def test_more_rows_than_the_memory_of_an_index_holds_are_refused(tmp_path, factory):
    path = build_old(tmp_path, factory)
    manifest = read_manifest(path)
    little = {**manifest.plan, "max_memory_bytes": PROCESS_BYTES + WORK_BYTES + 20_000}
    write_manifest(Folder.of(path), dataclasses.replace(manifest, plan=little))
    new = write_dataset(tmp_path / "new", list(VECTORS[1300:]), first=1300)
    if factory == "IVF12,SQ8":  # put together from parts, so that nothing grows with the rows
        assert add_to_index([str(new)], path, IndexOptions(**OPTIONS), skip_existing=True).manifest.rows == 2000
        return
    with pytest.raises(SpecError, match=f"with 600 more rows {factory} takes some .* rebuild it with more memory"):
        add_to_index([str(new)], path, IndexOptions(**OPTIONS), skip_existing=True)
    assert open_index(path).manifest.rows == 1400


def test_recall_is_measured_with_rows_that_are_in_the_index(tmp_path, monkeypatch):
    path = build_old(tmp_path, "IVF16,SQ8")
    both = write_dataset(tmp_path / "both", list(VECTORS[:1600]))  # 1400 are there
    seen = []

    def finish_and_note(folder, manifest, truth, *others):
        seen.append(truth)
        return measure_and_publish(folder, manifest, truth, *others)

    monkeypatch.setattr(add, "measure_and_publish", finish_and_note)
    options = IndexOptions(queries=160, rows_per_shard=450)

    def run_and_note(shards, job):
        assert sum(shard.rows for shard in shards) < 600  # those of which every row is there are not read again
        run_locally(shards, job)

    manifest = add_to_index([str(both)], path, options, skip_existing=True, run=run_and_note).manifest
    assert (manifest.rows, manifest.skipped, manifest.recall.queries) == (1600, 1400, 160)
    (truth,) = seen
    assert len(np.unique(truth.own_positions)) == 160
    assert np.count_nonzero(truth.own_positions >= 1400) == 20  # 200 of 1600 rows are new
    units = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    np.testing.assert_allclose(truth.queries, units[truth.own_positions], atol=1e-6)  # each stands where it is said to


def test_rows_that_are_left_out_are_never_drawn(tmp_path):
    source = open_source([str(write_dataset(tmp_path / "data", list(VECTORS[:300])))])
    left_out = np.array([0, 1, 2, 50, 149, 150, 298, 299])
    rest = np.setdiff1d(np.arange(300), left_out)
    np.testing.assert_array_equal(draw_sample(source, 0, 300, 0, left_out=left_out).query_rows, rest)
    some = draw_sample(source, 0, 100, 0, left_out=left_out).query_rows
    assert len(np.unique(some)) == 100
    assert np.isin(some, rest).all()
    assert not len(draw_sample(source, 0, 5, 0, left_out=np.arange(300)).query_rows)


KILLED = """
import os, signal, sys
from clipmill.indexes.add import add_to_index
from clipmill.indexes.build import IndexOptions
from clipmill.files.folder import Folder

after = int(sys.argv[3])
changes = 0

def counted(usual):
    def change(*given):
        global changes
        if changes == after:
            os.kill(os.getpid(), signal.SIGKILL)
        changes += 1
        return usual(*given)
    return change

Folder.publish = counted(Folder.publish)
Folder.delete = counted(Folder.delete)
add_to_index([sys.argv[1]], sys.argv[2], IndexOptions(queries=100, rows_per_shard=450))
print(changes)
"""


def test_killed_at_any_moment_the_old_index_opens_or_the_new_one(tmp_path):
    old = build_old(tmp_path, "IVF16,SQ8")
    new = write_dataset(tmp_path / "new", list(NEW), first=1400)

    def add(path: str, after: int) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", KILLED, str(new), path, str(after)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    shutil.copytree(old, tmp_path / "whole")
    whole = add(str(tmp_path / "whole"), 10**6)
    assert whole.returncode == 0, whole.stderr
    total = int(whole.stdout)
    seen = set()
    for after in sorted({2, total - 6, total - 1}):
        path = str(tmp_path / f"killed-{after}")
        shutil.copytree(old, path)
        assert add(path, after).returncode == -signal.SIGKILL
        index = open_index(path)
        rows = index.manifest.rows
        seen.add(rows)
        assert rows in (1400, 2000)
        _, true = brute_force(VECTORS[:rows], VECTORS[:20], 5)
        assert recall_of(index.search(VECTORS[:20], 5, nprobe=16).positions, true) > 0.98
        if rows == 1400:
            assert add(path, 10**6).returncode == 0
            assert open_index(path).manifest.rows == 2000
            assert files_of(tmp_path / f"killed-{after}").keys() == files_of(tmp_path / "whole").keys()
    assert seen == {1400, 2000}
