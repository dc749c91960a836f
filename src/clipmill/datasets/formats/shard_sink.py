"""`ShardSink`: writes finished rows and their failures to a shard's files in batches, and counts both."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from ...errors import DatasetError
from ...failures import Failure
from ..tables.schema_mismatches import fitting_batches
from ..tables.sizes import BATCH_BYTES, BATCH_ROWS, held_bytes
from ..tables.table import Table
from .shard_writer import ShardWriter


class FinishedRow(NamedTuple):
    """A row or document that has been processed.

    Attributes:
        row: The row or document for `Table.batch`; None if there is nothing to write.
        failures: Its failures as they are written, including failures of parts of a successful row.
        failed: Whether the row itself failed.
    """

    row: Any
    failures: Sequence[Mapping[str, Any]] = ()
    failed: bool = False
    name: str | None = None


@dataclasses.dataclass(slots=True)
class SinkCounts:
    """The counts of a sink.

    Attributes:
        input_rows: Rows that the sink received, including skipped rows.
        skipped: Rows whose vectors are in another dataset.
        failed: Failures by reason code.
        made: Vectors or scores in the written rows.
        nulls: Nulls in rows without failures.
        rejected: Rows that the plan rejected, in a file of their own.
        reverted: Vectors or scores of rows that are not written because they do not fit the files.
        reverted_nulls: Nulls in those rows.
    """

    input_rows: int = 0
    skipped: int = 0
    failed_rows: int = 0
    failed: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    made: int = 0
    nulls: int = 0
    rejected: int = 0
    reverted: int = 0
    reverted_nulls: int = 0

    def manifest(self) -> dict[str, Any]:
        """Return the fields of a shard's manifest that count its input, its failures and its rejected rows."""
        return {
            "input_rows": self.input_rows,
            "failed_rows": self.failed_rows,
            "failed": dict(sorted(self.failed.items())),
            "rejected": self.rejected,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class _Held:
    """A buffered row: its name in failures, how many it has, its values (vectors or scores) and nulls; or rejected."""

    row: Any
    name: str | None
    failures: int
    made: int
    nulls: int
    rejected: bool


class ShardSink:
    """Writes finished rows to the files of a shard, in batches, and counts each row.

    A row with at least one result is written, even if another part of it failed; each failure becomes a line.
    Rows that the plan rejects are written to a file of their own.
    A row that does not fit the files is reverted: it becomes a failure, and its vectors or scores are not counted.
    """

    def __init__(self, writer: ShardWriter, table: Table, *, fail_fast: bool = False) -> None:
        """Create a sink with an empty buffer; with `fail_fast`, the first failure ends the job."""
        self.counts = SinkCounts()
        self.first_at: float | None = None
        self.last_at: float | None = None
        self._writer = writer
        self._table = table
        self._fail_fast = fail_fast
        self._held: list[_Held] = []
        self._held_bytes = 0

    def take(self, finished: FinishedRow) -> None:
        """Take a row or document; raise `DatasetError` for a failure with `fail_fast`, or if writing fails."""
        row, failures, failed, name = finished
        counts = self.counts
        counts.input_rows += 1
        counts.failed_rows += failed
        self.last_at = time.time()
        self.first_at = self.first_at or self.last_at
        if failures:
            self._fail(failures)
        plan = self._table.plan
        if row is None or (failed and not plan.holds_results(row)):
            return
        made = plan.made(row)
        made_count = sum(one is not None for one in made)
        rejected = plan.rejection(row) is not None
        held = _Held(row, name, len(failures) if failed else 0, made_count, len(made) - made_count, rejected)
        if self._writer.mismatch is not None and (mismatch := self._writer.mismatch(row)):
            self._revert(held, None if failed else mismatch)
            return
        counts.made += held.made
        counts.nulls += 0 if failed else held.nulls
        counts.rejected += held.rejected
        self._held.append(held)
        self._held_bytes += held_bytes(row)
        if len(self._held) >= BATCH_ROWS or self._held_bytes >= BATCH_BYTES:
            self.flush()

    def skip(self) -> None:
        """Count a row that is skipped: its vectors are in another dataset."""
        self.counts.input_rows += 1
        self.counts.skipped += 1

    def flush(self) -> None:
        """Write the buffered rows; raise `DatasetError` as `take` does."""
        held, self._held, self._held_bytes = self._held, [], 0
        self._write([one for one in held if not one.rejected], self._table.batch, self._writer.write)
        self._write([one for one in held if one.rejected], self._table.rejected_batch, self._writer.reject)

    def _write(
        self,
        held: Sequence[_Held],
        make: Callable[[Sequence[Any]], pa.RecordBatch],
        write: Callable[[pa.RecordBatch], None],
    ) -> None:
        fitting = fitting_batches([one.row for one in held], make)
        for batch in fitting.batches:
            write(batch)
        for position, failure in fitting.mismatches.items():
            one = held[position]
            self.counts.made -= one.made
            self.counts.nulls -= 0 if one.failures else one.nulls
            self.counts.rejected -= one.rejected
            self._revert(one, failure)

    def _revert(self, held: _Held, mismatch: Failure | None) -> None:
        """Count a row that does not fit the files as failed; `mismatch` is None if it has failures already."""
        self.counts.reverted += held.made
        self.counts.reverted_nulls += max(0, held.nulls - held.failures)
        self.counts.failed_rows += 0 if held.failures else 1
        if mismatch is not None:
            self._fail(self._table.failure_records(held.row, [mismatch.at(row=held.name)]))

    def _fail(self, failures: Sequence[Mapping[str, Any]]) -> None:
        self.counts.failed.update(str(failure["code"]) for failure in failures)
        if self._fail_fast:
            first = failures[0]
            message = f"{first['row']}: {first['code']} at {first['stage']}: " + first["message"]
            raise DatasetError(message + "; the job ends at its first failure, as requested")
        for failure in failures:
            self._writer.fail(failure)
