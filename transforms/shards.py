"""`EmbedShards`: pieces of a job, each from its input to its files; `clipmill embed --engine beam` uses it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection

from ..datasets.inputs.shards import Shard
from ..errors import options_noted
from ..jobs.embed import embed_shard
from ..jobs.job import Job
from ..metrics.counts import counts_of_manifest
from ..threads import Cores
from .meter import BundleMeter
from .skip_existing import WriteSkipLists
from .worker import cores_per_process


class EmbedShards(beam.PTransform):
    """Turns a PCollection of `Shard`s into their manifests, by embedding them and writing their files.

    `beam.Create(shards)` would take them for rows, since they have an `as_dict`: create the dicts, and make shards of
    those with `beam.Map(Shard.from_dict)`.

    A shard is a unit of work: its files appear whole or not at all, and doing it again leaves them as they are. So
    nothing between reading and writing goes through a shuffle, and retries of the runner leave no duplicates. Where the
    job skips rows that other datasets have, they are looked up first, by a join: see `skip_existing`.
    """

    def __init__(self, job: Job) -> None:
        """Keep the job, which pickles to its fields.

        Args:
            job: What is done with every shard; `start_job` prepared its directory.
        """
        super().__init__()
        self._job = job

    def default_label(self) -> str:
        """Name the model."""
        return f"EmbedShards({self._job.spec.model})".replace("/", "_")

    def expand(self, shards: PCollection) -> PCollection:
        """Put the stage into the pipeline."""
        cores = cores_per_process(shards.pipeline.options, shards.pipeline.runner)
        if self._job.skip_existing is not None:
            shards = shards | "WriteSkipLists" >> WriteSkipLists(self._job)
        return shards | "Embed" >> beam.ParDo(_EmbedShardFn(self._job, cores)).with_output_types(dict[str, Any])


class _EmbedShardFn(beam.DoFn):
    """Embeds one shard at a time; its counts are those of the manifests."""

    def __init__(self, job: Job, cores: Cores) -> None:
        self._job = job
        self._cores = cores

    def setup(self) -> None:
        self._meter = BundleMeter()
        with options_noted():
            self._meter.load(self._job.spec, cpus=self._cores.here())

    def process(self, shard: Shard) -> Iterable[dict[str, Any]]:
        with options_noted():
            manifest = embed_shard(shard, self._job, cpus=self._cores.here())
        self._meter.tell(counts_of_manifest(manifest))
        yield manifest
