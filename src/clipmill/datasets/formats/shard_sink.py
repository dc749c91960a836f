"""`ShardSink`: finished rows on their way into a shard's files, with their failures beside them, both counted."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...errors import DatasetError
from ...failures import Failure
from ..tables.schema_mismatches import fitting_batches
from ..tables.sizes import BATCH_BYTES, BATCH_ROWS, held_bytes
from ..tables.table import Table
from .shard_writer import ShardWriter


class FinishedRow(NamedTuple):
    """A row or document that is done.

    Attributes:
        row: As `Table.batch` takes it; None where there is nothing to write.
        failures: Its failures as they are written, those inside a row that is whole too.
        failed: Whether the row itself failed.
        name: What names it in failures.
    """

    row: Any
    failures: Sequence[Mapping[str, Any]] = ()
    failed: bool = False
    name: str | None = None


@dataclasses.dataclass(slots=True)
class SinkCounts:
    """What a sink took and wrote.

    Attributes:
        input_rows: Rows that it was given, skipped ones too.
        skipped: Rows whose vectors are in another dataset.
        failed_rows: Rows of which something failed.
        failed: Failures by reason code.
        made: Vectors or scores in what was written.
        nulls: Nulls in rows of which nothing failed.
        reverted: Vectors or scores of rows that turned out not to fit the files, and so are not written.
        reverted_nulls: Nulls in those rows.
    """

    input_rows: int = 0
    skipped: int = 0
    failed_rows: int = 0
    failed: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    made: int = 0
    nulls: int = 0
    reverted: int = 0
    reverted_nulls: int = 0

    def manifest(self) -> dict[str, Any]:
        """Return what a shard's manifest says of its input and failures."""
        return {
            "input_rows": self.input_rows,
            "failed_rows": self.failed_rows,
            "failed": dict(sorted(self.failed.items())),
        }


@dataclasses.dataclass(frozen=True, slots=True)
class _Held:
    """A row that waits to be written: what names it in failures, and how many failures it has."""

    row: Any
    name: str | None
    failures: int


class ShardSink:
    """Takes finished rows to the files of a shard, in batches, and accounts for each.

    A row of which something was made is written, whatever failed of it; each failure becomes a line. A row that does
    not fit the files after all is reverted: it becomes a failure, and what was made of it counts no more.
    """

    def __init__(self, writer: ShardWriter, table: Table, *, fail_fast: bool = False) -> None:
        """Start with nothing held.

        Args:
            writer: Open.
            table: How rows stand in its files.
            fail_fast: Whether the first failure ends the job.
        """
        self.counts = SinkCounts()
        self.first_at: float | None = None
        self.last_at: float | None = None
        self._writer = writer
        self._table = table
        self._fail_fast = fail_fast
        self._held: list[_Held] = []
        self._held_bytes = 0

    def take(self, finished: FinishedRow) -> None:
        """Take a row or document.

        Raises:
            DatasetError: If something failed and the job is to end then, or the files cannot be written.
        """
        row, failures, failed, name = finished
        counts = self.counts
        counts.input_rows += 1
        counts.failed_rows += failed
        self.last_at = time.time()
        self.first_at = self.first_at or self.last_at
        if failures:
            self._fail(failures)
        made = [] if row is None else self._table.plan.made(row)
        there = sum(one is not None for one in made)
        if row is None or (failed and not there):
            return
        own = len(failures) if failed else 0
        if self._writer.mismatch is not None and (mismatch := self._writer.mismatch(row)):
            self._revert(_Held(row, name, own), None if failed else mismatch)
            return
        counts.made += there
        counts.nulls += 0 if failed else len(made) - there
        self._held.append(_Held(row, name, own))
        self._held_bytes += held_bytes(row)
        if len(self._held) >= BATCH_ROWS or self._held_bytes >= BATCH_BYTES:
            self.flush()

    def skip(self) -> None:
        """Count a row that is skipped: its vectors are in another dataset."""
        self.counts.input_rows += 1
        self.counts.skipped += 1

    def flush(self) -> None:
        """Write what is held.

        Raises:
            DatasetError: As `take` does.
        """
        held, self._held, self._held_bytes = self._held, [], 0
        fitting = fitting_batches([one.row for one in held], self._table.batch)
        for batch in fitting.batches:
            self._writer.write(batch)
        for position, failure in fitting.mismatches.items():
            one = held[position]
            made = self._table.plan.made(one.row)
            there = sum(value is not None for value in made)
            self.counts.made -= there
            self.counts.nulls -= 0 if one.failures else len(made) - there
            self._revert(one, failure)

    def _revert(self, held: _Held, mismatch: Failure | None) -> None:
        """Count a row that is not written as a failure after all; without a mismatch its own failures say why."""
        made = self._table.plan.made(held.row)
        there = sum(one is not None for one in made)
        self.counts.reverted += there
        self.counts.reverted_nulls += max(0, len(made) - there - held.failures)
        self.counts.failed_rows += 0 if held.failures else 1
        if mismatch is not None:
            self._fail(self._table.failure_records(held.row, [mismatch.at(row=held.name)]))

    def _fail(self, failures: Sequence[Mapping[str, Any]]) -> None:
        self.counts.failed.update(str(failure["code"]) for failure in failures)
        if self._fail_fast:
            first = failures[0]
            said = f"{first['row']}: {first['code']} at {first['stage']}: " + first["message"]
            raise DatasetError(said + "; the job ends at its first failure, as asked")
        for failure in failures:
            self._writer.fail(failure)
