"""A sample of a job's input: pieces of its shards that are spread over it, and how many rows the input has."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Sequence

from ..datasets.inputs.shards import Shard
from .job import Job
from .record_adapters import records_of

_COUNTED = 8
"""Shards of unknown rows that are read to count them."""


def draw_pieces(shards: Sequence[Shard], count: int, rows: int, seed: int = 0) -> list[Shard]:
    """Return pieces of at most `rows` rows, in random order, and equal for an equal input and seed.

    They are from shards at equal distances. A piece of a folder has files drawn from its shard, a piece of a table has
    the first rows of its shard.

    Args:
        shards: The shards of a job, at least one.
        count: Pieces, at most; no shard gives two.
        rows: Rows of a piece, at most.
        seed: Of the random numbers.
    """
    rng = random.Random(seed)
    count = min(count, len(shards))
    offset = rng.random()
    drawn = [shards[int((number + offset) * len(shards) / count)] for number in range(count)]
    rng.shuffle(drawn)
    return [shortened(shard, rows, rng) for shard in drawn]


def shortened(shard: Shard, rows: int, rng: random.Random | None = None) -> Shard:
    """Return a shard with at most `rows` of its rows: files drawn with `rng`, or without it the first."""
    if shard.kind != "files":
        stop = shard.start + rows
        return dataclasses.replace(shard, stop=stop if shard.stop is None else min(stop, shard.stop))
    kept: Sequence[int] = range(len(shard.paths))
    if len(kept) > rows:
        kept = sorted(rng.sample(kept, rows)) if rng else kept[:rows]
    beside = tuple(shard.beside[number] for number in kept) if shard.beside else ()
    return dataclasses.replace(shard, paths=tuple(shard.paths[number] for number in kept), beside=beside)


def numbered(shards: Sequence[Shard]) -> list[Shard]:
    """Return shards with names that differ even if a shard occurs twice."""
    digests = (shard.name.rpartition("-")[2] for shard in shards)
    return [
        dataclasses.replace(shard, name=f"{number:05d}-{digest}")
        for number, (shard, digest) in enumerate(zip(shards, digests, strict=True))
    ]


def estimate_rows(shards: Sequence[Shard], job: Job, *, rows_per_shard: int) -> int | None:
    """Return how many rows the shards of a job have; None if only reading all of them would tell.

    Planning knows the rows of most shards. Those of the last shard of a text file or tar are estimated from its bytes.
    Of files that are one shard, some are read to count their rows. A compressed or remote file with more rows than a
    shard may have is not read to its end.
    """
    rows, unknown = 0.0, []
    for shard in shards:
        if shard.rows is not None:
            rows += shard.rows
        elif shard.start and shard.offset and shard.nbytes is not None:
            rows += min(rows_per_shard, max(1.0, (shard.nbytes - shard.offset) * shard.start / shard.offset))
        else:
            unknown.append(shard)
    if unknown:
        counted = unknown[:: -(-len(unknown) // _COUNTED)]
        records = records_of(job)
        counts = [sum(1 for _ in itertools.islice(records.read(shard), rows_per_shard + 1)) for shard in counted]
        if max(counts) > rows_per_shard:
            return None
        rows += len(unknown) * sum(counts) / len(counts)
    return round(rows)
