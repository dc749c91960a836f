"""`embed_shards`: the shards of a job, each a task of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pyspark import TaskContext
from pyspark.sql import SparkSession

from ..datasets.inputs import Shard
from ..datasets.inputs.planning import stored_shards
from ..datasets.replacing import folder_written
from ..jobs.embed import embed_shard
from ..jobs.job import Job
from ..metrics.counts import counts_of_manifest
from .driver import warn_without_worker_reuse
from .meter import meter_of
from .pieces import do_each
from .skip_existing import write_skip_lists
from .worker import cpus_of_task, is_from_spark, spec_of_task


def embed_shards(spark: SparkSession, shards: Sequence[Shard], job: Job) -> None:
    """Embed and write the shards of a job, one Spark task for each, so that Spark retries them one by one.

    Where the job skips rows that other datasets have, they are looked up first, by a join. The results are in the
    dataset: `finish_job` checks and summarises them.

    Args:
        spark: A classic or a Connect session.
        shards: The shards to read. Tasks get their numbers, and read their own from the stored plan if it is a list of
            it, as `start_job` returns them in `to_do`; any other list is stored in the dataset first.
        job: What is done with each.
    """
    if not len(shards):
        return
    shards = stored_shards(shards, folder_written(job.directory))
    warn_without_worker_reuse(spark)
    if job.skip_existing is not None:
        write_skip_lists(spark, shards, job)
    meter = meter_of(spark)

    def embed(shard: Shard) -> None:
        meter.tell(counts_of_manifest(_embed_shard_in_task(shard, job)))

    do_each(spark, shards, embed)


def _embed_shard_in_task(shard: Shard, job: Job) -> dict[str, Any]:
    """Embed a shard on the GPU and with the cores of the task that runs in this worker."""
    task = TaskContext.get()
    spec = spec_of_task(job.spec, task)
    placed = dataclasses.replace(job, spec=spec)
    return embed_shard(shard, placed, cpus=cpus_of_task(task), exclusive=is_from_spark(job.spec, spec))
