"""Reads, embeds and writes a shard, in this process."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from typing import Any

from ..datasets.formats.shard_sink import ShardSink
from ..datasets.formats.shard_writer import ShardWriter
from ..datasets.inputs.shards import Shard
from ..datasets.tables.table import Table
from ..encoders.encoder import Encoder
from ..encoders.plans.runner import Done, PlanRunner
from ..encoders.registry import count_loads, load_encoder
from ..errors import WeightsError
from ..messages import setting
from ..metrics.stats import Stats
from .job import Job
from .record_adapters import records_of
from .row_by_row import RowByRow
from .runs import check_is_current
from .skip_lists import read_skip_list, skip_rows


def embed_rows(
    shard: Shard, job: Job, *, cpus: int | None = None, exclusive: bool = False, row_by_row: RowByRow | None = None
) -> dict[str, Any]:
    """Process a shard like `embed_shard`, in this process and without adding to its totals.

    `cpus` and `exclusive` are those of `embed_shard`. `row_by_row` embeds rows that may kill, one at a time; without
    it, rows share micro-batches.
    """
    started = time.perf_counter()
    encoder = load_encoder(job.spec, cpus=cpus, exclusive=exclusive)
    _check_weights(encoder, job)
    records = records_of(job)
    runner = PlanRunner(job.plan, encoder)
    stats = Stats()
    with (
        runner.session(stats, hashed=job.content_hash) as session,
        ShardWriter(
            job.directory,
            shard.name,
            job.schema,
            format=job.format,
            run=job.run,
            before_publishing=lambda: check_is_current(job),
        ) as writer,
    ):
        sink = ShardSink(writer, Table(job.plan, job.schema, encoder.dim), fail_fast=job.fail_fast)

        def take(rows: Iterable[Done]) -> None:
            for done in rows:
                sink.take(records.finished(done))

        to_do = skip_rows(records.read(shard), read_skip_list(job, shard.name), job.plan, records, sink.skip)
        if row_by_row is None:
            for record in to_do:
                take(session.push(record, record.source, failure=record.failure, nbytes=record.nbytes))
        else:
            for rows in row_by_row.embed(to_do, session, lambda failure: records.unread(shard, failure)):
                take(rows)
        take(session.flush())
        sink.flush()
        return writer.commit(
            {
                "shard": shard.identity(),
                "signature": job.signature,
                **_counts(sink, stats, makes_vectors=job.plan.makes_vectors),
                "resolved": dict(encoder.resolved),
                "process": f"{socket.gethostname()}:{os.getpid()}",
                "run": job.run,
                "loads": count_loads(),
                "seconds": round(time.perf_counter() - started, 3),
            }
        )


def _check_weights(encoder: Encoder, job: Job) -> None:
    """Refuse to resume with other weights under the same name: their vectors don't belong in one dataset."""
    found = encoder.resolved.get("weights_sha256")
    if job.skip_existing is not None:
        job.skip_existing.check_weights(found)
    if job.weights_sha256 is not None and found is not None and found != job.weights_sha256:
        raise WeightsError(
            f"{job.directory} was started with weights of SHA-256 {job.weights_sha256}, and those of {job.spec.model} "
            f"have {found} now",
            hint="bring the old ones back, or replace the dataset with " + setting("overwrite", True),
        )


def _counts(sink: ShardSink, stats: Stats, *, makes_vectors: bool) -> dict[str, Any]:
    """Return the counts of the manifest, without reverted vectors."""
    counts = sink.counts
    return {
        **counts.manifest(),
        "skipped": counts.skipped,
        "first_row_at": sink.first_at,
        "last_row_at": sink.last_at,
        **({} if makes_vectors else {"scored": counts.made}),
        "embedded": stats.embedded - (counts.reverted if makes_vectors else 0),
        "given": stats.given,
        "nulls": stats.nulls - (counts.reverted_nulls if makes_vectors else 0),
        **{name: getattr(stats, name) for name in ("cache_hits", "cache_misses", "truncated_texts", "batches")},
        "batch_rows": {str(rows): calls for rows, calls in sorted(stats.batch_rows.items())},
        **{name: round(getattr(stats, name), 1) for name in ("fetch_msec", "decode_msec", "encode_msec")},
        "out_of_memory_retries": stats.out_of_memory_retries,
    }
