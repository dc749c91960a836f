"""Finished rows on their way into a shard's files: gathered into batches, their failures beside them, both counted."""

from __future__ import annotations

import collections
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..datasets.formats.shard_writer import ShardWriter
from ..datasets.tables.misfits import fitting_batches
from ..datasets.tables.sizes import BATCH_BYTES, BATCH_ROWS
from ..encoders.outcome import Finished
from ..errors import DatasetError
from ..failures import Failure
from ..metrics.stats import Stats
from .modes import Mode, Result


class Output:
    """Gathers finished rows into batches, and their failures; counts both."""

    def __init__(self, writer: ShardWriter, mode: Mode, stats: Stats, *, fail_fast: bool) -> None:
        self._writer = writer
        self._mode = mode
        self._misfit = writer.misfit
        self._fail_fast = fail_fast
        self._stats = stats
        self._held: list[Result] = []
        self._held_bytes = 0
        self._input_rows = 0
        self._failed_rows = self._skipped = 0
        self._scored = 0
        self._failed: collections.Counter[str] = collections.Counter()
        self._first_at: float | None = None
        self._last_at: float | None = None

    def take(self, finished: Sequence[Finished]) -> None:
        """Take rows whose items are done.

        Raises:
            DatasetError: If something failed and the job is to end then, or the files cannot be written.
        """
        for token, outcomes in finished:
            self._input_rows += 1
            result: Result = self._mode.finish(token, outcomes)
            self._failed_rows += 1 if result.failures else 0
            if result.failures or result.inner:
                self._fail([*result.failures, *result.inner], result.records)
            if result.row is not None and self._misfit is not None and (misfit := self._misfit(result.row)):
                self._take_back(result, None if result.failures else misfit)
            elif result.row is not None:
                self._held.append(result)
                self._held_bytes += result.nbytes
                self._scored += self._count_scores(result.row)
            if len(self._held) >= BATCH_ROWS or self._held_bytes >= BATCH_BYTES:
                self.flush()
        if finished:
            self._last_at = time.time()
            self._first_at = self._first_at or self._last_at

    def skip(self) -> None:
        """Count a row that is passed over: its vectors are in another dataset."""
        self._input_rows += 1
        self._skipped += 1

    def _count_scores(self, row: Any) -> int:
        return 0 if self._mode.makes_vectors else sum(one is not None for one in self._mode.made(row))

    def _fail(self, failures: Sequence[Failure], records: Sequence[Mapping[str, Any]]) -> None:
        self._failed.update(str(failure.code) for failure in failures)
        if self._fail_fast:
            raise DatasetError(f"{failures[0].row}: {failures[0]}; the job ends at its first failure, as asked")
        for record in records:
            self._writer.fail(record)

    def flush(self) -> None:
        """Write what is held.

        Raises:
            DatasetError: As `take` does.
        """
        held, self._held, self._held_bytes = self._held, [], 0
        rows = [result.row for result in held]
        fitting = fitting_batches(rows, self._mode.batch)
        for batch in fitting.batches:
            self._writer.write(batch)
        for position, failure in fitting.misfits.items():
            self._take_back(held[position], failure)

    def _take_back(self, result: Result, misfit: Failure | None) -> None:
        """Count a row as a failure after all, and its vectors or scores, which are not written, no more.

        Without a misfit its own failures say why.
        """
        if self._mode.makes_vectors:
            vectors = self._mode.made(result.row)
            there = sum(vector is not None for vector in vectors)
            self._stats.embedded -= there
            # what is no vector failed or was null
            self._stats.nulls -= max(0, len(vectors) - there - len(result.failures))
        self._scored -= self._count_scores(result.row)
        self._failed_rows += 0 if result.failures else 1
        if misfit is None:
            return
        failure = misfit.at(row=result.name)
        self._fail([failure], self._mode.records(result.row, [failure]))

    def counts(self) -> dict[str, Any]:
        """Return what is said of the rows in the shard's manifest."""
        return {
            "input_rows": self._input_rows,
            "failed_rows": self._failed_rows,
            "skipped": self._skipped,
            "failed": dict(sorted(self._failed.items())),
            "first_row_at": self._first_at,
            "last_row_at": self._last_at,
            **({} if self._mode.makes_vectors else {"scored": self._scored}),
        }
