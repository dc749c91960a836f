"""`Table`: rows or documents with what was made of them, as a dataset holds them."""

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
from .schemas import documents_batch, rows_batch


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """How rows or documents stand in files; pickles small.

    Attributes:
        plan: What was done with them.
        schema: Made by `rows_schema` or `documents_schema`.
        dim: Values in a vector.
    """

    plan: Plan
    schema: pa.Schema
    dim: int

    def batch(self, rows: Sequence[Any]) -> pa.RecordBatch:
        """Return rows (mappings of old and new columns) or documents as a batch of the schema.

        Raises:
            DatasetError: If a value does not fit the type of its column.
        """
        if self.plan.of_rows:
            return rows_batch(rows, self.schema, self.plan, self.dim)  # type: ignore[arg-type]
        return documents_batch(rows, self.schema, self.dim)

    def failure_records(self, row: Any, failures: Sequence[Failure]) -> list[dict[str, Any]]:
        """Return failures of a row or document of the table as they are written."""
        source = functools.partial(get_by_path, row) if self.plan.of_rows else row
        return failure_records(self.plan, source, failures)
