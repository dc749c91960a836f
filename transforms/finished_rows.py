"""Converts elements to finished rows for files, with their failures."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..datasets.formats.shard_sink import FinishedRow
from ..datasets.tables.records import failure_records, inner_failure_records
from ..datasets.tables.table import Table
from ..encoders.document import Document
from ..failures import Code
from .embeddable import document_of, is_item
from .failed_row import FailedRow
from .rows import RowFields, fields_of, plain


def finished_row(element: Any, table: Table) -> FinishedRow:
    """Return the written columns and the failures of an output of `Embed`, `Rank`, `Similarity` or `Classify`."""
    failed = isinstance(element, FailedRow)
    value = element.row if failed else element
    source = _source(value, table)
    if source is None:  # neither a row nor a document: only the reasons are written
        return FinishedRow(None, [failure.as_dict() for failure in element.failures] if failed else (), failed)
    if failed:
        row = None if _is_refused(element, table) else _written(source, table)
        return FinishedRow(row, failure_records(table.plan, source, element.failures), True)
    row = _written(source, table)
    return FinishedRow(row, inner_failure_records(table.plan, row))


def _source(value: Any, table: Table) -> RowFields | Document | None:
    if not table.plan.of_rows and is_item(value):
        return document_of(value)
    if not table.plan.of_rows:
        return value if isinstance(value, Document) else None
    fields = fields_of(value)
    return None if fields is None else RowFields(fields)


def _is_refused(failed: FailedRow, table: Table) -> bool:
    """Return whether a row failed because a new column exists in it already, with values of any kind."""
    plan: Any = table.plan
    return plan.of_rows and any(one.code is Code.MALFORMED and one.column in plan.new_names for one in failed.failures)


def _written(source: RowFields | Document, table: Table) -> Any:
    return _columns(source, table) if isinstance(source, RowFields) else source


def _columns(row: RowFields, table: Table) -> dict[str, Any]:
    """Return the written columns; others, such as images, are released."""
    vectors = {column.name for column in table.plan.added if column.holds == "vector"}  # type: ignore[attr-defined]
    names = {*table.schema.names, *table.plan.new_names}  # type: ignore[attr-defined]  # rejected rows have a reason
    return {
        name: _as_arrays(value) if name in vectors else plain(value)
        for name, value in row.fields.items()
        if name in names
    }


def _as_arrays(value: Any) -> Any:
    """Return vectors as arrays, if `Embed(vectors="list")` or a shuffle has made other sequences of them."""
    if value is None or isinstance(value, np.ndarray):
        return value
    is_vector = len(value) > 0 and isinstance(value[0], float | np.floating)
    return np.asarray(value, np.float32) if is_vector else [_as_arrays(inner) for inner in value]
