"""What is passed over of each shard, written by the workers that found it and read by the one that embeds the shard.

    _staging/skip/part-<shard>.bin      16 bytes for each row that is passed over; `finish_job` removes it

A shard has its list even if nothing of it is passed over: one without was never compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..datasets.directory import SKIP_LISTS
from ..encoders.item import Item
from ..errors import DatasetError
from ..files.file_systems import Folder
from .job import Job
from .modes import Mode
from .row_keys import DIGEST_BYTES, key_digest, mark_of

Row = tuple[Any, list[Item]]


class SkipList:
    """Which rows of a shard are passed over, told by the rows themselves and not by their number.

    So a row is never passed over in the place of another, should the file have changed since it was compared. It holds
    16 bytes a row.
    """

    def __init__(self, marks: bytes, *, by: str) -> None:
        """Sort the digests.

        Args:
            marks: Digests of 16 bytes, one behind the other.
            by: What rows are told by, `id` or `content`.
        """
        self._by = by
        # Equal widths: that numpy takes no notice of zeros at the end makes no two of them equal.
        self._marks = np.sort(np.frombuffer(marks, f"S{DIGEST_BYTES}"))

    def holds(self, mode: Mode, token: Any, items: Sequence[Item]) -> bool:
        """Tell whether a row is passed over.

        Args:
            mode: What read the row.
            token: The row.
            items: Its values.
        """
        if not len(self._marks):
            return False
        if self._by == "content":
            mark = mark_of(mode.places(token), items) if items else None
        else:
            key = mode.key(token)
            mark = None if key is None else key_digest(key)
        if mark is None:
            return False
        at = int(np.searchsorted(self._marks, np.array(mark, self._marks.dtype)))
        return self._marks[at : at + 1].tobytes() == mark


def passing_over(rows: Iterable[Row], passed: SkipList | None, mode: Mode, count: Callable[[], None]) -> Iterator[Row]:
    """Yield rows but those that are passed over.

    Args:
        rows: As a mode reads them, each with its values.
        passed: Those that are passed over; None for none.
        mode: What reads them.
        count: Called for each that is passed over.
    """
    for token, items in rows:
        if passed is not None and passed.holds(mode, token, items):
            count()
        else:
            yield token, items


def read_skip_list(job: Job, shard: str) -> SkipList | None:
    """Return what is passed over of a shard; None if the job compares its rows with no dataset.

    Raises:
        DatasetError: If the shard was not compared.
    """
    if job.existing is None:
        return None
    folder = Folder.of(job.directory)
    try:
        marks = folder.read(_name(shard))
    except FileNotFoundError:
        raise DatasetError(
            f"{folder.url}/{_name(shard)} is not there, the list of what is embedded already of shard {shard!r}; "
            "EmbedShards (Beam) and embed_shards (Spark) make it before they embed"
        ) from None
    return SkipList(marks, by=job.existing.by)


def write_skip_list(job: Job, shard: str, marks: Iterable[bytes]) -> None:
    """Write what is passed over of a shard, whole or not at all, over an older list.

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
