"""A shard from its input to its files: the one function that every engine distributes."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..datasets.inputs.shards import Shard
from ..datasets.replacing import folder_written
from ..metrics.counts import counts_of_manifest, record
from .attempts import Attempt
from .isolated_run import run_isolated
from .job import Job
from .runs import check_is_current, take_back_if_late
from .shard import embed_rows


def embed_shard(shard: Shard, job: Job, *, cpus: int | None = None, exclusive: bool = False) -> dict[str, Any]:
    """Read a shard, embed, rank or classify it as the job's plan says, and write its files.

    Rows with at least one result, and rows whose columns are all null, are written to the files of rows. Failures are
    written to the failures: a row with a vector and a failure is in both, a row without any vector only there. The same
    holds for scores. A failed candidate is written to the failures, and its row counts as successful.

    Args:
        shard: The shard to process.
        job: Its job.
        cpus: Cores that this worker may use, if the engine knows better than the operating system.
        exclusive: See `load_encoder`.

    Returns:
        The manifest that was written.

    Raises:
        DatasetError: If the output cannot be written, a value failed and the job ends at its first failure, or the job
            was started again meanwhile.
        WeightsError, DeviceError: If the encoder cannot be loaded.
        SpecError: If the loaded model does not support the plan.
    """
    # looked up for each shard, so that the shards of every caller are where `finish_job` expects them
    job = dataclasses.replace(job, directory=folder_written(job.directory).url)
    check_is_current(job)
    with Attempt(job.directory, shard) as attempt:
        if attempt.is_dangerous:
            manifest = run_isolated(shard, job, attempt, cpus=cpus, exclusive=exclusive)
        else:
            manifest = embed_rows(shard, job, cpus=cpus, exclusive=exclusive)
        take_back_if_late(job, manifest)
        attempt.forget()
    record(counts_of_manifest(manifest))
    return manifest
