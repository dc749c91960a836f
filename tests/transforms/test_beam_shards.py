"""`EmbedShards`: pieces of a job, from their input to their files."""

from __future__ import annotations

import dataclasses
import json
import os

import apache_beam as beam
import job_options
import pytest
from beam_helpers import Keep, counters, kept, pipeline
from cli_helpers import run
from storage_helpers import photograph

from clipmill.datasets import Shard, finish_job, plan_shards, read_dataset, summarise, whole_file
from clipmill.datasets.inputs.planning import read_plan
from clipmill.encoders import EncoderSpec, unload_all
from clipmill.encoders.testing import fake_text_vector, read_log
from clipmill.files.folder import Folder
from clipmill.files.parted_list import Chosen
from clipmill.jobs import start_job
from clipmill.transforms import EmbedShards
from clipmill.transforms.stored_items import StoredItems


@pytest.fixture(autouse=True)
def _nothing_loaded():
    unload_all()


@pytest.fixture
def planned(tmp_path):
    lines = [{"id": str(n), "text": f"text {n}"} for n in range(10)] + [{"id": "bad", "text": ""}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    shards = plan_shards([str(tmp_path / "in.jsonl")], rows_per_shard=4)
    spec = EncoderSpec(f"fake::dim=8&log={tmp_path / 'log'}")
    job = job_options.plan(spec, str(tmp_path / "out"), shards)
    start_job(job, shards)
    return job, shards


@beam.ptransform_fn
def create(pbegin, shards):
    """`Create` itself takes what has an `as_dict` for a row."""
    dicts = pbegin | beam.Create([shard.as_dict() for shard in shards]) | beam.Reshuffle()
    return dicts | beam.Map(Shard.from_dict).with_output_types(Shard)


def test_shards_become_their_manifests_and_the_dataset_is_whole(tmp_path, planned):
    job, shards = planned
    p = pipeline()
    _ = p | create(shards) | EmbedShards(job) | Keep(tmp_path / "kept")
    result = p.run()
    result.wait_until_finish()
    manifests = kept(tmp_path / "kept")
    assert sorted(manifest["name"] for manifest in manifests) == sorted(shard.name for shard in shards)
    summary = finish_job(job.directory)
    assert (summary.rows, summary.failed, summary.complete) == (10, {"empty": 1}, True)
    rows = {row["id"]: row["embedding"] for row in read_dataset(job.directory).to_pylist()}
    assert rows == {str(n): fake_text_vector(f"text {n}").tolist() for n in range(10)}
    found = counters(result)
    assert {name: found[name] for name in ("rows_in", "embedded", "failed_empty", "batches", "models_loaded")} == {
        "rows_in": 11,
        "embedded": 10,
        "failed_empty": 1,
        "batches": 3,
        "models_loaded": 1,
    }
    assert list(read_log(tmp_path / "log").loads.values()) == [1]


def test_doing_a_shard_again_changes_nothing(planned):
    job, shards = planned
    for _ in range(2):
        with pipeline() as p:
            _ = p | create(shards) | EmbedShards(job)
    assert read_dataset(job.directory).num_rows == 10


def test_the_label_names_the_model(planned):
    job, _ = planned
    assert EmbedShards(job).label.startswith("EmbedShards(fake::dim=8")
    assert "/" not in EmbedShards(job).label


def test_names_of_files_that_are_not_utf8(tmp_path):
    """Manifests name the first file, and Beam encodes some of what goes from step to step to know its size."""
    (tmp_path / "in").mkdir()
    for number in range(4):
        name = os.fsdecode(b"photo\xe4%d.png" % number)
        (tmp_path / "in" / name).write_bytes(photograph())
    command = ["embed", tmp_path / "in", "--model", "fake::dim=4", "--rows-per-shard", "1"]
    assert run(*command, "--output", tmp_path / "one") == 0
    ids = read_dataset(str(tmp_path / "one")).column("id").to_pylist()
    assert sorted(ids) == [rf"{tmp_path}/in/photo\xe4{number}.png" for number in range(4)]
    assert run(*command, "--output", tmp_path / "two", "--skip-existing", tmp_path / "one") == 0
    found = summarise(str(tmp_path / "two"))
    assert (found.skipped, found.rows) == (4, 0)


def test_the_graph_does_not_grow_with_the_shards(tmp_path):
    sizes = []
    for name, files in (("a", 10), ("b", 10_000)):
        shards = [whole_file(f"/data/photographs/{n:09d}.jpg") for n in range(files)]
        shards = [dataclasses.replace(shard, name=f"{n:05d}-{shard.name}") for n, shard in enumerate(shards)]
        job = job_options.plan(EncoderSpec("fake::dim=8"), str(tmp_path / name), shards)
        p = pipeline()
        _ = p | StoredItems(start_job(job, shards).to_do) | EmbedShards(job)
        sizes.append(len(p.to_runner_api().SerializeToString()))
    assert abs(sizes[0] - sizes[1]) < 200  # what is pickled is compressed
    assert sizes[1] < 100_000


def test_stored_shards_become_their_manifests(tmp_path, planned):
    job, shards = planned
    plan = read_plan(Folder.of(job.directory))
    p = pipeline()
    _ = p | StoredItems(Chosen(plan, [0, 2])) | EmbedShards(job) | Keep(tmp_path / "kept")
    p.run().wait_until_finish()
    names = sorted(manifest["name"] for manifest in kept(tmp_path / "kept"))
    assert names == [shards[0].name, shards[2].name]
