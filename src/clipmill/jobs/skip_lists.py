"""Which rows of each shard are skipped, written by the workers that found it and read by the one that embeds the shard.

    _staging/skip/part-<shard>.bin      16 bytes for each row that is skipped; `finish_job` removes it

A shard has its list even if none of its rows is skipped: one without was never compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ..datasets.directory import SKIP_LISTS
from ..encoders.plans.plan import Plan
from ..errors import DatasetError
from ..files.file_systems import Folder
from .job import Job
from .record_adapters import Record, Records
from .row_keys import DIGEST_BYTES, key_digest, mark_of


class SkipList:
    """Which rows of a shard are skipped, identified by the rows themselves and not by their number.

    So a row is never skipped in the place of another, should the file have changed since it was compared. It holds
    16 bytes a row.
    """

    def __init__(self, marks: bytes, *, by: str) -> None:
        """Sort the digests.

        Args:
            marks: Digests of 16 bytes, one behind the other.
            by: The match key, `id` or `content`.
        """
        self._by = by
        # Equal widths: that numpy takes no notice of zeros at the end makes no two of them equal.
        self._marks = np.sort(np.frombuffer(marks, f"S{DIGEST_BYTES}"))

    def holds(self, record: Record, plan: Plan, records: Records) -> bool:
        """Tell whether a row is skipped.

        Args:
            record: The row.
            plan: What would be done with it.
            records: What read it.
        """
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
    """Yield rows but those that are skipped.

    Args:
        rows: As they were read.
        skipped: Those that are skipped; None for none.
        plan: What would be done with them.
        records: What reads them.
        count: Called for each that is skipped.
    """
    for record in rows:
        if skipped is not None and skipped.holds(record, plan, records):
            count()
        else:
            yield record


def read_skip_list(job: Job, shard: str) -> SkipList | None:
    """Return which rows of a shard are skipped; None if the job compares its rows with no dataset.

    Raises:
        DatasetError: If the shard was not compared.
    """
    if job.skip_existing is None:
        return None
    folder = Folder.of(job.directory)
    try:
        marks = folder.read(_name(shard))
    except FileNotFoundError:
        raise DatasetError(
            f"{folder.url}/{_name(shard)} is not there, the list of what is embedded already of shard {shard!r}; "
            "EmbedShards (Beam) and embed_shards (Spark) make it before they embed"
        ) from None
    return SkipList(marks, by=job.skip_existing.by)


def write_skip_list(job: Job, shard: str, marks: Iterable[bytes]) -> None:
    """Write which rows of a shard are skipped, whole or not at all, over an older list.

    Args:
        job: What is done with the shard.
        shard: Its name.
        marks: Of the rows: the second of the digests that `keys_wanted` gave.

    Raises:
        DatasetError: If it cannot be written.
    """
    folder = Folder.of(job.directory)
    folder.make(SKIP_LISTS)
    folder.write(_name(shard), b"".join(marks))


def _name(shard: str) -> str:
    return f"{SKIP_LISTS}/part-{shard}.bin"
