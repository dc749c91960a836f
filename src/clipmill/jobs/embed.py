"""A shard from its input to its files: the one function that every engine distributes."""

from __future__ import annotations

from typing import Any

from ..datasets.inputs.shards import Shard
from ..metrics.counts import counts_of_manifest, record
from .attempts import Attempt
from .isolated_run import run_isolated
from .job import Job
from .shard import embed_rows


def embed_shard(shard: Shard, job: Job, *, cpus: int | None = None, exclusive: bool = False) -> dict[str, Any]:
    """Read a shard, embed it (rank it, classify it: what the job's plan says), write its files.

    What has a vector, and rows whose columns were all null, are in the files of rows. What failed is in the failures:
    a row that was embedded in part is in both, one without any vector only there. With scores instead of vectors it is
    the same; a candidate that failed leaves its row whole, and is in the failures too.

    Args:
        shard: What to read.
        job: What to do with it.
        cpus: Cores that this worker may use, where its engine knows better than the operating system.
        exclusive: See `load_encoder`.

    Returns:
        The manifest that was written.

    Raises:
        DatasetError: If the output cannot be written, or a value failed and the job is to end then.
        WeightsError, DeviceError: If the encoder cannot be loaded.
        SpecError: If the model cannot do what the plan says, as only its weights tell.
    """
    with Attempt(job.directory, shard) as attempt:
        if attempt.is_dangerous:
            manifest = run_isolated(shard, job, attempt, cpus=cpus, exclusive=exclusive)
        else:
            manifest = embed_rows(shard, job, cpus=cpus, exclusive=exclusive)
        attempt.forget()
    record(counts_of_manifest(manifest))
    return manifest
