"""What a job reads, cut into pieces that are worked on, written and retried on their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

Kind = Literal["files", "jsonl", "csv", "parquet"]

ROWS_PER_SHARD = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """A piece of a job's input. Small, picklable, and the same whenever the same inputs are planned.

    Attributes:
        name: Names the piece and its files in the output: its number and a digest of what it covers.
        kind: How it is read: `files` (each a document), `jsonl`, `csv`, `parquet`.
        paths: The files, as absolute paths or URLs; exactly one unless the kind is `files`.
        start: Number of the first row of the file (from 0; header and blank lines don't count).
        stop: Number of the row after the last; None is the end of the file.
        offset: Byte at which the first row begins (text files).
        line: Line at which the first row begins, from 1 (text files).
        fingerprint: Digest of the paths, sizes and versions (time or etag) of the files: what changes with them.
        nbytes: Bytes of the files together, None where that is not known.
    """

    name: str
    kind: Kind
    paths: tuple[str, ...]
    start: int = 0
    stop: int | None = None
    offset: int = 0
    line: int = 1
    fingerprint: str = ""
    nbytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values; `Shard.from_dict` makes the shard of them again."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Shard:
        """Make a shard of what `as_dict` returned."""
        raise NotImplementedError


def plan_shards(
    inputs: Sequence[str], *, kind: Kind | None = None, rows_per_shard: int = ROWS_PER_SHARD
) -> list[Shard]:
    """Find the inputs of a job and cut them into shards.

    Raises:
        DatasetError: If an input matches nothing or cannot be listed.
    """
    raise NotImplementedError


def whole_file(path: str, kind: Kind | None = None) -> Shard:
    """Return one shard that covers one file, without looking at it: for engines that list files themselves."""
    raise NotImplementedError
