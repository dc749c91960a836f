"""The work on a shard, in this process: read, embedded, written."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from ..datasets.formats.shard_writer import ShardWriter
from ..datasets.inputs.shards import Shard
from ..encoders.encoder import Encoder
from ..encoders.registry import count_loads, load_encoder
from ..errors import WeightsError
from ..metrics.stats import Stats
from .job import Job
from .modes import mode_of
from .output import Output
from .row_by_row import RowByRow
from .skip_lists import passing_over, read_skip_list


def embed_rows(
    shard: Shard, job: Job, *, cpus: int | None = None, exclusive: bool = False, careful: RowByRow | None = None
) -> dict[str, Any]:
    """Do the work of `embed_shard` in this process, counting nothing in its totals.

    Args:
        shard: What to read.
        job: What to do with it.
        cpus: As in `embed_shard`.
        exclusive: As in `embed_shard`.
        careful: How rows are embedded that may kill; without it in micro-batches.

    Returns:
        The manifest that was written.

    Raises:
        ClipmillError: As `embed_shard` does.
    """
    started = time.perf_counter()
    encoder = load_encoder(job.spec, cpus=cpus, exclusive=exclusive)
    _check_weights(encoder, job)
    mode = mode_of(job.plan, encoder, job.reader, job.schema, hashed=job.content_hash)
    stats = Stats()
    with (
        encoder.session(stats, hashed=job.content_hash) as session,
        ShardWriter(job.directory, shard.name, job.schema, format=job.format) as writer,
    ):
        out = Output(writer, mode, stats, fail_fast=job.fail_fast)
        rows = passing_over(mode.read(shard), read_skip_list(job, shard.name), mode, out.skip)
        if careful is None:
            for token, items in rows:
                out.take(session.push(token, items))
        else:
            for finished in careful.embed(rows, session, lambda failure: mode.unread(shard, failure)):
                out.take(finished)
        out.take(session.flush())
        out.flush()
        return writer.commit(
            {
                "shard": shard.identity(),
                "signature": job.signature,
                **out.counts(),
                **_timings(stats),
                "resolved": dict(encoder.resolved),
                "process": f"{socket.gethostname()}:{os.getpid()}",
                "run": job.run,
                "loads": count_loads(),
                "seconds": round(time.perf_counter() - started, 3),
            }
        )


def _check_weights(encoder: Encoder, job: Job) -> None:
    """Refuse to go on with other weights under the same name: their vectors don't belong into one dataset."""
    found = encoder.resolved.get("weights_sha256")
    if job.existing is not None:
        job.existing.check_weights(found)
    if job.weights_sha256 is not None and found is not None and found != job.weights_sha256:
        raise WeightsError(
            f"{job.directory} was begun with weights of SHA-256 {job.weights_sha256}, and those of {job.spec.model} "
            f"have {found} now; bring the old ones back, or replace the dataset with overwrite=True (--overwrite)"
        )


def _timings(stats: Stats) -> dict[str, Any]:
    return {
        "embedded": stats.embedded,
        "given": stats.given,
        "nulls": stats.nulls,
        "cache_hits": stats.cache_hits,
        "cache_misses": stats.cache_misses,
        "truncated_texts": stats.truncated_texts,
        "batches": stats.batches,
        "batch_rows": {str(rows): calls for rows, calls in sorted(stats.batch_rows.items())},
        "fetch_msec": round(stats.fetch_msec, 1),
        "decode_msec": round(stats.decode_msec, 1),
        "encode_msec": round(stats.encode_msec, 1),
        "out_of_memory_retries": stats.out_of_memory_retries,
    }
