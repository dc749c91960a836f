"""`WriteSkipLists`: finds by a join which rows of a job's shards have their vectors in other datasets already."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection
from apache_beam.typehints import KV

from ..datasets.inputs.shards import Shard
from ..jobs.embedded_keys import embedded_keys
from ..jobs.job import Job
from ..jobs.row_keys import keys_wanted
from ..jobs.skip_existing import FinishedShard, finished_shards, is_embedded
from ..jobs.skip_lists import write_skip_list

_Wanted = tuple[str, bytes]
"""A shard, and the digests, one behind the other, by which its rows are known there; b"" for the one of the join."""
_There = tuple[int, bool]
_GROUPED = 10_000
"""Keys of a shard that are held, so that equal ones go through the join once."""


class WriteSkipLists(beam.PTransform):
    """Turns a PCollection of `Shard`s into the same shards, each after the list of its rows to skip is written.

    Two joins of small elements: digests of 16 bytes with the numbers of datasets and the names of shards, then those
    that were found with their shards. A digest that many rows have, such as that of one picture which is everywhere,
    goes through the join once for each shard, with 16 bytes for each of its rows. No process holds more than what
    belongs to one digest or one shard; but a local runner holds in memory all that goes through a shuffle.
    """

    def __init__(self, job: Job) -> None:
        """Keep the job."""
        super().__init__()
        self._job = job

    def expand(self, shards: PCollection) -> PCollection:
        """Join, and write a list for every shard."""
        assert self._job.skip_existing is not None
        once = shards.pipeline | "Once" >> beam.Create([None])
        parts = once | "Parts" >> beam.ParDo(_PartsFn(self._job)).with_output_types(FinishedShard) | beam.Reshuffle()
        there = parts | "There" >> beam.ParDo(_ThereFn(self._job)).with_output_types(KV[bytes, _There])
        wanted = shards | "Wanted" >> beam.ParDo(_WantedFn(self._job)).with_output_types(KV[bytes, _Wanted])
        found = (
            {"wanted": wanted, "there": there}
            | "Join" >> beam.CoGroupByKey()
            | "Found" >> beam.FlatMapTuple(_found).with_output_types(KV[str, bytes])
        )
        # pickled: Beam makes a schema of a dataclass, and its strings cannot hold file names that are not UTF-8
        named = shards | "Name" >> beam.Map(_named).with_output_types(KV[str, bytes])
        return (
            {"shards": named, "found": found}
            | "ByShard" >> beam.CoGroupByKey()
            | "Write" >> beam.ParDo(_WriteFn(self._job)).with_output_types(bytes)
            | "Spread" >> beam.Reshuffle()
            | "Shard" >> beam.Map(pickle.loads).with_output_types(Any)
        )


class _PartsFn(beam.DoFn):
    """Yields the finished shards of the other datasets."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, _: None) -> Iterable[FinishedShard]:
        assert self._job.skip_existing is not None
        return finished_shards(self._job.skip_existing)


class _ThereFn(beam.DoFn):
    """Yields the match keys of a finished shard of another dataset."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, part: FinishedShard) -> Iterator[tuple[bytes, _There]]:
        return embedded_keys(part, self._job)


class _WantedFn(beam.DoFn):
    """Yields the match keys of a shard of the input."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, shard: Shard) -> Iterator[tuple[bytes, _Wanted]]:
        held: dict[bytes, set[bytes]] = {}
        for digest, mark in keys_wanted(shard, self._job):
            held.setdefault(digest, set()).add(mark)
            if len(held) >= _GROUPED:
                yield from _grouped(shard, held)
                held = {}
        yield from _grouped(shard, held)


class _WriteFn(beam.DoFn):
    """Writes the list of rows to skip of a shard; yields the shard."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: tuple[str, Mapping[str, Iterable[bytes]]]) -> Iterator[bytes]:
        name, values = element
        write_skip_list(self._job, name, values["found"])
        yield from values["shards"]


def _grouped(shard: Shard, held: Mapping[bytes, set[bytes]]) -> Iterator[tuple[bytes, _Wanted]]:
    """Yield each digest with the marks of all of its rows."""
    for digest, marks in held.items():
        yield digest, (shard.name, b"" if marks == {digest} else b"".join(marks))


def _named(shard: Shard) -> tuple[str, bytes]:
    return shard.name, pickle.dumps(shard)


def _found(digest: bytes, values: Mapping[str, Iterable[Any]]) -> Iterator[tuple[str, bytes]]:
    """Yield the rows with a digest, if they have their vectors, each with its shard."""
    if is_embedded(values["there"]):
        for shard, marks in values["wanted"]:
            yield shard, marks or digest
