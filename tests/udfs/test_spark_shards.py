"""`embed_shards`: the shards of a job on Spark give the files that they give anywhere."""

from __future__ import annotations

import json

import job_options
import numpy as np
import pytest

from clipmill.datasets import finish_job, read_dataset, read_failures, read_manifests
from clipmill.datasets.inputs import plan_shards
from clipmill.datasets.inputs.planning import read_plan
from clipmill.encoders import EncoderSpec
from clipmill.encoders.testing import fake_text_vector, read_log
from clipmill.files.folder import Folder
from clipmill.jobs import embed_shard, start_job
from clipmill.udfs import embed_shards


def a_job(folder, *, rows, rows_per_shard, output="out", model="fake::dim=8"):
    """Return the shards and the job of a file of captions, the fourth of which is empty."""
    lines = [{"id": f"row-{n}", "caption": "" if n == 3 else f"caption {n}"} for n in range(rows)]
    path = folder / "captions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    shards = plan_shards([str(path)], rows_per_shard=rows_per_shard)
    job = job_options.plan(EncoderSpec(model), str(folder / output), shards, columns={"caption": "text"})
    start_job(job, shards)
    return shards, job


@pytest.mark.connect
@pytest.mark.parametrize("of_plan", [True, False], ids=["the plan", "a list"])
def test_every_shard_is_embedded(spark, tmp_path, of_plan):
    shards, job = a_job(tmp_path, rows=50, rows_per_shard=8)
    embed_shards(spark, read_plan(Folder.of(job.directory)) if of_plan else shards, job)
    reports = read_manifests(job.directory)
    assert [report["shard"]["name"] for report in reports] == [shard.name for shard in shards]
    assert [report["input_rows"] for report in reports] == [8] * 6 + [2]
    assert [report["failed"] for report in reports] == [{"empty": 1}] + [{}] * 6
    assert (tmp_path / "out" / "_staging").exists() == (not of_plan)
    summary = finish_job(job.directory)
    assert not (tmp_path / "out" / "_staging").exists()
    assert (summary.complete, summary.embedded, summary.failed) == (True, 49, {"empty": 1})
    assert [(f["row"], f["column"], f["code"]) for f in read_failures(job.directory)] == [("row-3", "caption", "empty")]
    table = read_dataset(job.directory)
    vectors = dict(zip(table.column("id").to_pylist(), table.column("caption_embedding").to_pylist(), strict=True))
    assert sorted(vectors) == sorted(f"row-{n}" for n in range(50) if n != 3)
    for name, values in vectors.items():
        np.testing.assert_array_equal(values, fake_text_vector(f"caption {name[4:]}"))


def test_the_files_are_those_of_a_run_without_spark(spark, tmp_path):
    shards, job = a_job(tmp_path, rows=20, rows_per_shard=8)
    _, local = a_job(tmp_path, rows=20, rows_per_shard=8, output="local")
    embed_shards(spark, shards, job)
    for shard in shards:
        embed_shard(shard, local)
    assert read_dataset(job.directory).equals(read_dataset(local.directory))


def test_workers_load_once_for_all_their_shards(spark, tmp_path):
    log = tmp_path / "log"
    shards, job = a_job(tmp_path, rows=64, rows_per_shard=4, model=f"fake::dim=8&log={log}")
    embed_shards(spark, shards, job)
    assert len(read_manifests(job.directory)) == 16
    assert read_log(log).rows == 63
    assert set(read_log(log).loads.values()) == {1}
    assert len(read_log(log).loads) <= 4  # two slots; workers that earlier tests left idle may take their turn


def test_no_shards(spark, tmp_path):
    _, job = a_job(tmp_path, rows=1, rows_per_shard=8)
    embed_shards(spark, [], job)
    assert read_manifests(job.directory) == []
