"""`Table`: converts finished rows or documents to the record batches that a dataset holds."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ...encoders.plans.plan import Plan
from ...encoders.plans.row_values import get_by_path
from ...failures import Failure
from .records import failure_records
from .schemas import documents_batch, rows_batch, with_rejection


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """How rows or documents are stored in files; small when pickled."""

    plan: Plan
    schema: pa.Schema
    dim: int

    def batch(self, rows: Sequence[Any]) -> pa.RecordBatch:
        """Return rows (mappings) or documents as a batch; raise `DatasetError` if a value does not fit its type."""
        if self.plan.of_rows:
            return rows_batch(rows, self.schema, self.plan, self.dim)  # type: ignore[arg-type]
        return documents_batch(rows, self.schema, self.dim)

    def rejected_batch(self, rows: Sequence[Any]) -> pa.RecordBatch:
        """Return rejected rows as a batch, with the reason as one more column; raise `DatasetError` as `batch` does."""
        return rows_batch(rows, with_rejection(self.schema), self.plan, self.dim)  # type: ignore[arg-type]

    def failure_records(self, row: Any, failures: Sequence[Failure]) -> list[dict[str, Any]]:
        """Return the failures of a row or document of the table as they are written."""
        source = functools.partial(get_by_path, row) if self.plan.of_rows else row
        return failure_records(self.plan, source, failures)
