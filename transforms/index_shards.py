"""`IndexShards`: pieces of an index, each from datasets to its files; `clipmill index --engine beam` uses it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection

from ..errors import options_noted
from ..indexes.shard import IndexJob, IndexShard, build_shard
from ..threads import Cores
from .worker import cores_per_process


class IndexShards(beam.PTransform):
    """Turns a PCollection of `IndexShard`s into their reports, by building them and writing their files.

    A shard's files appear whole, and doing it again writes the same ones, so retries of the runner do no harm.
    """

    def __init__(self, job: IndexJob) -> None:
        """Keep the job, which pickles to its fields.

        Args:
            job: What is done with every shard; `build_index` prepared its directory.
        """
        super().__init__()
        self._job = job

    def default_label(self) -> str:
        """Name the column."""
        return f"IndexShards({self._job.column})".replace("/", "_")

    def expand(self, shards: PCollection) -> PCollection:
        """Put the stage into the pipeline."""
        cores = cores_per_process(shards.pipeline.options, shards.pipeline.runner)
        return shards | "Build" >> beam.ParDo(_IndexShardFn(self._job, cores)).with_output_types(dict[str, Any])


class _IndexShardFn(beam.DoFn):
    """Builds one shard at a time."""

    def __init__(self, job: IndexJob, cores: Cores) -> None:
        self._job = job
        self._cores = cores

    def process(self, shard: IndexShard) -> Iterable[dict[str, Any]]:
        with options_noted():
            report = build_shard(shard, self._job, cpus=self._cores.here())
        yield report
