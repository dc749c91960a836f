"""Workers that outlive their job: what they still write is never taken for the work of the job that came after."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from resume_jobs import SPEC, begin, work, write_texts

from clipmill.datasets import finish_job, read_dataset, read_manifests
from clipmill.errors import DatasetError
from clipmill.files.folder import Folder
from clipmill.jobs import embed_shard
from clipmill.messages import Setting

pytest_plugins = ["resume_jobs"]

NORMALIZED = dataclasses.replace(SPEC, normalize=True)


def test_a_shard_of_another_job_is_written_again(directory, texts):
    """The input is the same and the vectors are not."""
    job, progress = begin(directory, texts, spec=NORMALIZED)
    survivor = dataclasses.replace(job, spec=SPEC)
    embed_shard(progress.to_do[0], survivor)
    work(job, progress.to_do)
    assert finish_job(directory).complete
    norms = [np.linalg.norm(row["embedding"]) for row in read_dataset(directory).to_pylist()]
    np.testing.assert_allclose(norms, 1, atol=1e-6)


def test_a_shard_that_another_job_wrote_last_is_done_again(directory, texts):
    job, progress = begin(directory, texts, spec=NORMALIZED)
    work(job, progress.to_do)
    embed_shard(progress.to_do[0], dataclasses.replace(job, spec=SPEC))
    with pytest.raises(DatasetError, match=r"shard 00000-.* was written by another job") as refused:
        finish_job(directory)
    assert Setting("resume", True) in refused.value.text.parts
    job, progress = begin(directory, texts, spec=NORMALIZED)
    assert progress.reasons == {"made by another job": 1}
    work(job, progress.to_do)
    assert finish_job(directory).complete


def test_a_shard_that_is_not_of_the_plan_any_more_leaves_no_row(directory, texts, tmp_path):
    """The table was shorter when its worker began."""
    job, progress = begin(directory, texts)
    old = progress.to_do[-1]
    write_texts(texts, 12)
    job, progress = begin(directory, texts)
    work(job, progress.to_do)
    embed_shard(dataclasses.replace(old, name="00099-0123abcd"), job)
    assert len(read_manifests(directory)) == len(progress.shards) + 1
    found = finish_job(directory)
    assert (found.complete, found.shards, found.input_rows) == (True, len(progress.shards), 12)
    assert not [name for name in Folder.of(directory).list() if "00099" in name]


def test_the_same_job_in_another_worker_is_no_other_job(directory, texts):
    """Its device, its batches and its threads are a worker's own matter."""
    job, _ = begin(directory, texts)
    other = dataclasses.replace(job, spec=dataclasses.replace(SPEC, max_batch_rows=3, preprocess_threads=1))
    assert other.signature == job.signature
    assert dataclasses.replace(job, spec=NORMALIZED).signature != job.signature
