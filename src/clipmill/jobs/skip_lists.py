"""Lists of the rows to skip in each shard: written by the workers that find them, read by the one that embeds.

    _staging/skip/part-<shard>.bin      16 bytes for each row that is skipped; `finish_job` removes it

A shard always has a list, even if no row is skipped: a missing list means that the shard was not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ..datasets.directory import SKIP_LISTS
from ..datasets.replacing import folder_written
from ..encoders.plans.plan import Plan
from ..errors import DatasetError
from .job import Job
from .record_adapters import Record, Records
from .row_keys import DIGEST_BYTES, key_digest, mark_of


class SkipList:
    """Which rows of a shard are skipped, identified by the rows themselves and not by their number.

    So a row is never skipped in the place of another, should the file have changed since it was compared. It holds
    16 bytes a row.
    """

    def __init__(self, marks: bytes, *, by: str) -> None:
        """Sort the digests, of 16 bytes, one behind the other."""
        self._by = by
        # All have the same width, so that numpy's ignoring of trailing zeros makes no two of them equal.
        self._marks = np.sort(np.frombuffer(marks, f"S{DIGEST_BYTES}"))

    def holds(self, record: Record, plan: Plan, records: Records) -> bool:
        """Return whether a row is skipped."""
        if not len(self._marks):
            return False
        if self._by == "content":
            mark = mark_of(record, plan)
        else:
            key = records.key(record)
            mark = None if key is None else key_digest(key)
        if mark is None:
            return False
        at = int(np.searchsorted(self._marks, np.array(mark, self._marks.dtype)))
        return self._marks[at : at + 1].tobytes() == mark


def skip_rows(
    rows: Iterable[Record], skipped: SkipList | None, plan: Plan, records: Records, count: Callable[[], None]
) -> Iterator[Record]:
    """Yield the rows that are not skipped; `count` is called for each skipped one."""
    for record in rows:
        if skipped is not None and skipped.holds(record, plan, records):
            count()
        else:
            yield record


def read_skip_list(job: Job, shard: str) -> SkipList | None:
    """Return which rows of a shard are skipped, None if the job skips none; `DatasetError` if it was not compared."""
    if job.skip_existing is None:
        return None
    folder = folder_written(job.directory)
    try:
        marks = folder.read(_name(shard))
    except FileNotFoundError:
        raise DatasetError(
            f"{folder.url}/{_name(shard)} is missing, the list of the rows to skip in shard {shard!r}; "
            "EmbedShards (Beam) and embed_shards (Spark) make it before they embed"
        ) from None
    return SkipList(marks, by=job.skip_existing.by)


def write_skip_list(job: Job, shard: str, marks: Iterable[bytes]) -> None:
    """Write the list of rows to skip in a shard, atomically, over an older one; `marks` are their second digests."""
    folder = folder_written(job.directory)
    folder.make(SKIP_LISTS)
    folder.write(_name(shard), b"".join(marks))


def _name(shard: str) -> str:
    return f"{SKIP_LISTS}/part-{shard}.bin"
