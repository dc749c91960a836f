"""Building an index: what is in it, what it finds, what it refuses, and what a kill leaves."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import faiss
import job_options
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from index_helpers import DIM, SPEC, brute_force, clustered, files_of, recall_of, write_dataset

from clipmill.datasets import plan_shards
from clipmill.encoders import EncoderSpec
from clipmill.errors import DatasetError, SpecError
from clipmill.indexes import merge, open_index
from clipmill.indexes.build import IndexOptions, build_index, run_locally
from clipmill.indexes.ids import named_ids
from clipmill.indexes.library import make_index
from clipmill.jobs import start_job
from clipmill.messages import Setting

FACTORIES = [None, "IVF40_HNSW32,SQ8", "IVF30,Flat", "OPQ8_16,IVF20,PQ8", "HNSW16,SQ8", "PQ8", "IVF20,PQ8x4fs"]
SMALL = {"queries": 100, "rows_per_shard": 700}


def in_pieces(shards, job):
    """Do shards as workers do: what travels is pickled, and the order is another."""
    assert len(shards) > 1
    for shard in reversed(pickle.loads(pickle.dumps(list(shards)))):
        run_locally([shard], pickle.loads(pickle.dumps(job)))


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory or "planned")
def test_an_index_finds_what_exact_search_finds(tmp_path, factory):
    vectors = clustered(3000)
    dataset = write_dataset(tmp_path / "data", list(vectors))
    options = IndexOptions(factory=factory, **SMALL)
    manifest = build_index([str(dataset)], str(tmp_path / "index"), options, run=in_pieces)
    index = open_index(str(tmp_path / "index"))
    queries = clustered(200, seed=5)
    cosines, true = brute_force(vectors, queries, 10)
    hits = index.search(queries, 10)
    assert recall_of(hits.positions, true) >= 0.93  # other queries than those that the parameters were chosen with
    assert manifest.recall.recall >= 0.95
    assert manifest.recall.reached
    right = hits.positions == true
    np.testing.assert_allclose(hits.scores[right], cosines[right], atol=1e-6)
    assert index.rows(hits.positions[:, 0], ["number"])["number"].to_pylist() == hits.positions[:, 0].tolist()
    np.testing.assert_allclose(
        index.vectors(np.array([2999, 0])),
        vectors[[2999, 0]] / np.linalg.norm(vectors[[2999, 0]], axis=1)[:, None],
        atol=1e-6,
    )


def test_rows_without_a_usable_vector_are_left_out_and_counted(tmp_path):
    vectors: list = list(clustered(900))
    vectors[0] = vectors[450] = None
    vectors[1] = np.zeros(DIM, np.float32)
    vectors[899] = np.full(DIM, np.nan, np.float32)
    vectors[10] = np.full(DIM, 1e30, np.float32)  # its square is no float32 any more, its direction is
    dataset = write_dataset(tmp_path / "data", vectors)
    manifest = build_index([str(dataset)], str(tmp_path / "index"), IndexOptions(**SMALL))
    assert (manifest.rows, manifest.nulls, manifest.failed) == (896, 2, {"zero": 1, "not_finite": 1})
    index = open_index(str(tmp_path / "index"))
    numbers = index.rows(np.arange(896), ["number", "id"])
    left = [number for number in range(900) if number not in (0, 450, 1, 899)]
    assert numbers["number"].to_pylist() == left
    assert numbers["id"].to_pylist() == [f"r{number}" for number in left]
    np.testing.assert_allclose(index.vectors(np.array([left.index(10)])), np.full((1, DIM), 0.25), atol=1e-6)
    assert index.search(np.ones((1, DIM)), 1).positions[0, 0] == left.index(10)


def test_columns_travel_but_vectors_and_bytes_do_not(tmp_path):
    vectors = list(clustered(300))
    dataset = write_dataset(tmp_path / "data", vectors, tags=['{"a": 1}'] * 300, other=pa.array(vectors))
    build_index([str(dataset)], str(tmp_path / "index"), IndexOptions(column="embedding", **SMALL))
    assert open_index(str(tmp_path / "index")).columns == ["id", "uri", "number", "tags"]


def test_float16_files_and_float16_vectors_on_disk(tmp_path):
    vectors = clustered(600)
    dataset = write_dataset(tmp_path / "data", list(vectors.astype(np.float16)), dtype=pa.float16(), spec=None)
    options = IndexOptions(dtype="float16", **SMALL)
    manifest = build_index([str(dataset)], str(tmp_path / "index"), options)
    assert manifest.provenance is None
    index = open_index(str(tmp_path / "index"))
    assert np.load(files_of(tmp_path / "index")["vectors/00000.npy"], mmap_mode="r").dtype == np.float16
    cosines, true = brute_force(vectors, vectors[:50], 5)
    hits = index.search(vectors[:50], 5)
    assert recall_of(hits.positions, true) >= 0.98
    np.testing.assert_allclose(hits.scores[:, 0], cosines[:, 0], atol=2e-3)


def test_the_codes_are_those_that_faiss_itself_would_write(tmp_path):
    vectors = clustered(2000)
    dataset = write_dataset(tmp_path / "data", list(vectors))
    build_index([str(dataset)], str(tmp_path / "index"), IndexOptions(factory="IVF20,SQ8", **SMALL), run=in_pieces)
    ours = faiss.read_index(str(tmp_path / "index" / "index.faiss"))
    assert ours.ntotal == 2000
    theirs = faiss.clone_index(ours)
    theirs.reset()
    theirs.add(np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)))
    queries = np.ascontiguousarray(vectors[:50] / np.linalg.norm(vectors[:50], axis=1, keepdims=True))
    for one in (ours, theirs):
        one.nprobe = 5
    ours_found, theirs_found = ours.search(queries, 10), theirs.search(queries, 10)
    np.testing.assert_allclose(ours_found[0], theirs_found[0], atol=1e-5)
    assert recall_of(ours_found[1], theirs_found[1]) > 0.99


def test_lists_are_merged_in_pieces_however_small_or_long(tmp_path, monkeypatch):
    dataset = write_dataset(tmp_path / "data", list(clustered(1500)))
    options = IndexOptions(factory="IVF12,SQ8", **SMALL)
    build_index([str(dataset)], str(tmp_path / "whole"), options)
    for chunk in (24, 10**4):
        monkeypatch.setattr(merge, "_CHUNK_BYTES", chunk)
        build_index([str(dataset)], str(tmp_path / f"by-{chunk}"), options)
        found = (tmp_path / f"by-{chunk}" / "index.faiss").read_bytes()
        assert found == (tmp_path / "whole" / "index.faiss").read_bytes()


def test_several_datasets_make_one_index(tmp_path):
    vectors = clustered(500)
    one = write_dataset(tmp_path / "one", list(vectors[:300]))
    two = write_dataset(tmp_path / "two", list(vectors[300:]), first=300, more=["x"] * 200)
    manifest = build_index([str(one), str(two)], str(tmp_path / "index"), IndexOptions(**SMALL))
    assert [dataset["location"] for dataset in manifest.datasets] == [str(one), str(two)]
    index = open_index(str(tmp_path / "index"))
    assert index.rows(np.array([0, 499, 300]), ["number", "more"]).to_pydict() == {
        "number": [0, 499, 300],
        "more": [None, "x", "x"],
    }


def test_equal_seeds_make_equal_indexes(tmp_path):
    dataset = write_dataset(tmp_path / "data", list(clustered(1500)))
    options = IndexOptions(factory="IVF16,SQ8", seed=3, **SMALL)
    for name in ("one", "two"):
        build_index([str(dataset)], str(tmp_path / name), options)
    contents = [(tmp_path / name / "index.faiss").read_bytes() for name in ("one", "two")]
    assert contents[0] == contents[1]


def test_a_target_that_cannot_be_reached_is_said(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((3000, DIM)).astype(np.float32)
    dataset = write_dataset(tmp_path / "data", list(vectors))
    manifest = build_index([str(dataset)], str(tmp_path / "i"), IndexOptions(factory="PQ1", target_recall=1.0, **SMALL))
    assert not manifest.recall.reached
    assert 0 < manifest.recall.recall < 1
    assert manifest.recall.target == 1.0


def test_the_manifest_says_what_the_index_is(tmp_path):
    dataset = write_dataset(tmp_path / "data", list(clustered(800)))
    build_index([str(dataset)], str(tmp_path / "index"), IndexOptions(factory="IVF16,SQ8", **SMALL))
    said = json.loads((tmp_path / "index" / "_index.json").read_text())
    assert said["format"] == "clipmill index"
    assert said["provenance"]["model"] == SPEC.model
    assert (said["rows"], said["dim"], said["factory"], said["column"]) == (800, DIM, "IVF16,SQ8", "embedding")
    assert said["search"]["nprobe"] >= 1
    recalls = [one["recall"] for one in said["recall"]["curve"]]
    assert recalls == sorted(recalls)
    there = {
        str(path.relative_to(tmp_path / "index")): path.stat().st_size for path in (tmp_path / "index").rglob("*.*")
    }
    there.pop("_index.json")
    assert said["files"] == there  # nothing is left of the building


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_index_is_replaced_only_if_that_is_asked_for(tmp_path, overwrite):
    dataset = write_dataset(tmp_path / "data", list(clustered(300)))
    build_index([str(dataset)], str(tmp_path / "index"), IndexOptions(**SMALL))
    before = (tmp_path / "index" / "_index.json").read_bytes()
    other = write_dataset(tmp_path / "other", list(clustered(100, seed=1)))
    if overwrite:
        assert build_index([str(other)], str(tmp_path / "index"), IndexOptions(**SMALL), overwrite=True).rows == 100
        assert open_index(str(tmp_path / "index")).manifest.rows == 100
    else:
        with pytest.raises(DatasetError, match="holds an index already"):
            build_index([str(other)], str(tmp_path / "index"), IndexOptions(**SMALL))
        assert (tmp_path / "index" / "_index.json").read_bytes() == before


@pytest.mark.parametrize("step", ["run", "measure_and_publish", "clear_orphans"])
@pytest.mark.parametrize("factory", [None, "IVF4,SQ8", "HNSW16,SQ8"], ids=str)
def test_an_index_opens_until_the_one_that_replaces_it_is_complete(tmp_path, monkeypatch, factory, step):
    """Wherever the build ends early; the next one starts over, and leaves nothing of either."""
    dataset = write_dataset(tmp_path / "data", list(clustered(300)))
    other = write_dataset(tmp_path / "other", list(clustered(100, seed=1)))
    options, path = IndexOptions(factory=factory, **SMALL), str(tmp_path / "index")
    build_index([str(dataset)], path, options)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if step != "run":
            patch.setattr(f"clipmill.indexes.build.{step}", killed)
        build_index([str(other)], path, options, overwrite=True, run=killed if step == "run" else run_locally)
    index = open_index(path)
    assert index.manifest.rows == (100 if step == "clear_orphans" else 300)
    np.testing.assert_allclose(np.linalg.norm(index.vectors(np.arange(100)), axis=1), 1, atol=1e-5)
    manifest = build_index([str(other)], path, options, overwrite=True)
    assert open_index(path).manifest.rows == 100
    there = {str(one.relative_to(path)) for one in (tmp_path / "index").rglob("*.*")}
    assert there == {"_index.json", *manifest.files}


def test_files_of_others_are_never_deleted(tmp_path):
    dataset = write_dataset(tmp_path / "data", list(clustered(100)))
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "thesis.tex").write_text("all there is")
    for overwrite in (False, True):
        with pytest.raises(DatasetError, match=r"thesis\.tex, no part of an index"):
            build_index([str(dataset)], str(tmp_path / "index"), IndexOptions(**SMALL), overwrite=overwrite)
    assert (tmp_path / "index" / "thesis.tex").read_text() == "all there is"
    with pytest.raises(DatasetError, match="would be inside its own dataset"):
        build_index([str(dataset)], str(dataset / "index"), IndexOptions(**SMALL))


def build_bad(tmp_path: Path, *datasets: Path, **options: object) -> None:
    build_index([str(one) for one in datasets], str(tmp_path / "index"), IndexOptions(**{**SMALL, **options}))


def test_mixed_dimensions_are_refused(tmp_path):
    longer = np.ones(DIM + 1, np.float32)
    mixed = write_dataset(tmp_path / "mixed", [*clustered(500), longer], spec=None)
    with pytest.raises(DatasetError, match=f"has {DIM + 1} values and others have {DIM}"):
        build_bad(tmp_path, mixed)
    assert not (tmp_path / "index" / "_index.json").exists()
    one = write_dataset(tmp_path / "one", list(clustered(50)), spec=None)
    two = write_dataset(tmp_path / "two", [longer] * 50, spec=None)
    with pytest.raises(DatasetError, match=f"has {DIM + 1} values and others have {DIM}"):
        build_bad(tmp_path, one, two)


def test_mixed_provenance_is_refused(tmp_path):
    one = write_dataset(tmp_path / "one", list(clustered(50)))
    two = write_dataset(tmp_path / "two", list(clustered(50)), spec=EncoderSpec(f"fake::dim={DIM}", normalize=True))
    with pytest.raises(DatasetError, match=r"come from different models \(normalize differ"):
        build_bad(tmp_path, one, two)
    three = write_dataset(tmp_path / "three", list(clustered(50)), spec=None)
    for pair in ((one, three), (three, one)):
        with pytest.raises(DatasetError, match="so that their vectors may come from different models"):
            build_bad(tmp_path, *pair)


def test_nothing_to_index_is_refused(tmp_path):
    empty = write_dataset(tmp_path / "empty", [], parts=1)
    with pytest.raises(DatasetError, match="0 rows, none with a vector"):
        build_bad(tmp_path, empty)
    nulls = write_dataset(tmp_path / "nulls", [None] * 20, spec=None)
    with pytest.raises(DatasetError, match="20 rows, none with a vector"):
        build_bad(tmp_path, nulls)
    zeros = write_dataset(tmp_path / "zeros", [np.zeros(DIM, np.float32)] * 20)
    with pytest.raises(DatasetError, match=r"none of the 20 rows has a vector that can be searched: .* 20 zero"):
        build_bad(tmp_path, zeros)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DatasetError, match="holds no Parquet file"):
        build_bad(tmp_path, tmp_path / "nothing")
    with pytest.raises(DatasetError, match="no such file or directory"):
        build_bad(tmp_path, tmp_path / "nowhere")
    with pytest.raises(SpecError, match="no datasets"):
        build_bad(tmp_path)


def test_a_parquet_file_that_is_cut_off_is_refused(tmp_path):
    dataset = write_dataset(tmp_path / "data", list(clustered(500)))
    part = dataset / "part-01.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=r"cannot read the Parquet file .*part-01\.parquet"):
        build_bad(tmp_path, dataset)
    assert not (tmp_path / "index").exists()


def test_columns_that_do_not_hold_vectors_are_refused(tmp_path):
    vectors = list(clustered(20))
    dataset = write_dataset(tmp_path / "data", vectors, spec=None, parts=1)
    with pytest.raises(DatasetError, match="has no column 'photo'; it has 'id', 'uri'"):
        build_bad(tmp_path, dataset, column="photo")
    with pytest.raises(DatasetError, match=r"column 'id' of .* has the type string; vectors are lists of floats"):
        build_bad(tmp_path, dataset, column="id")
    two = pa.table({"a": pa.array(vectors), "b": pa.array(vectors)})
    pq.write_table(two, tmp_path / "two.parquet")
    with pytest.raises(SpecError, match="has vectors in a, b; choose one with column=…"):
        build_bad(tmp_path, tmp_path / "two.parquet")


def test_a_dataset_whose_job_has_not_ended_is_refused(tmp_path):
    dataset = write_dataset(tmp_path / "data", list(clustered(300)))
    source = tmp_path / "texts.jsonl"
    source.write_text('{"text": "a"}\n')
    shards = plan_shards([str(source)])
    start_job(job_options.plan(SPEC, str(tmp_path / "job"), shards), shards)
    (tmp_path / "job" / "_job.json").rename(dataset / "_job.json")
    with pytest.raises(DatasetError, match="is not finished") as refused:
        build_bad(tmp_path, dataset)
    assert Setting("resume", True) in refused.value.text.parts
    assert Setting("partial", True) in refused.value.text.parts
    build_bad(tmp_path, dataset, partial=True)
    assert open_index(str(tmp_path / "index")).manifest.rows == 300


KILLED = """
import os, signal, sys
import clipmill.indexes.build as build
import clipmill.indexes.assemble as assemble
import clipmill.indexes.shard as shard
from clipmill.files.folder import Folder

after = int(sys.argv[3])
usual = Folder.publish
published = 0

def publish(self, temporary, name):
    global published
    if published == after:
        os.kill(os.getpid(), signal.SIGKILL)
    published += 1
    return usual(self, temporary, name)

Folder.publish = publish
build.build_index([sys.argv[1]], sys.argv[2], build.IndexOptions(factory="IVF16,SQ8", queries=100, rows_per_shard=700))
print(published)
"""


def test_a_building_that_is_killed_begins_anew(tmp_path):
    dataset = write_dataset(tmp_path / "data", list(clustered(1500)))

    def build(output: str, after: int) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", KILLED, str(dataset), str(tmp_path / output), str(after)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    whole = build("whole", 10**6)
    assert whole.returncode == 0, whole.stderr
    total = int(whole.stdout)
    rng = np.random.default_rng(0)
    for after in sorted({0, int(rng.integers(4, total - 1)), total - 1}):
        assert build("index", after).returncode == -signal.SIGKILL
        with pytest.raises(DatasetError, match=r"not finished|nothing at that place|no index of clipmill"):
            open_index(str(tmp_path / "index"))
    assert build("index", 10**6).returncode == 0
    ours, theirs = files_of(tmp_path / "index"), files_of(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    for name in ("index.faiss", "vectors/00000.npy", "keys/00001.parquet"):
        assert ours[name].read_bytes() == theirs[name].read_bytes()


def test_a_second_building_of_the_same_index_is_refused(tmp_path):
    dataset = write_dataset(tmp_path / "data", list(clustered(1500)))
    refused = []

    def run(shards, job):
        with pytest.raises(DatasetError, match="another job is writing to"):
            build_index([str(dataset)], str(tmp_path / "index"), IndexOptions(**SMALL))
        refused.append(True)
        run_locally(shards, job)

    assert build_index([str(dataset)], str(tmp_path / "index"), IndexOptions(**SMALL), run=run).rows == 1500
    assert refused
    assert os.path.exists(tmp_path / "index" / "_index.json")


@pytest.mark.parametrize("factory", ["PQ4", "OPQ4_16,PQ4", "IVF4,PQ4", "OPQ4_16,IVF4,PQ4", "HNSW16_PQ4"])
def test_codes_are_not_renumbered_for_comparisons_that_nobody_makes(factory):
    """Faiss would spend most of the training on it; only hierarchies of graphs hold their coder elsewhere."""
    index = make_index(16, factory)
    inner = faiss.downcast_index(index.index if isinstance(index, faiss.IndexPreTransform) else index)
    coder = faiss.downcast_index(inner.storage) if isinstance(inner, faiss.IndexHNSW) else inner
    assert coder.do_polysemous_training is False


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_ids_of_a_slice_are_its_own(kind: pa.DataType) -> None:
    """Slices of texts with nothing between them, at any place."""
    given = ["first", "", None, "second", "", "third", "", None, "fourth"]
    ids = pa.array(given, kind)
    for start in range(len(given)):
        for stop in range(start + 1, len(given) + 1):
            found = named_ids(ids.slice(start, stop - start))
            assert found.to_pylist() == [name or None for name in given[start:stop]]
